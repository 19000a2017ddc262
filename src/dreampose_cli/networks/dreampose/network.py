"""A base as one object: the network of the paper (section 4, figure 3) with its conventions, loaded and saved as a folder."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from ...bases.config import CONFIG_FILE, BaseConfig, read_config
from ...errors import BaseError
from ...sampling import make_sampler
from .adapter import ADAPTERS
from .conditioning import texture_inputs, unet_photo_channels
from .prior import Prior, with_prior

ADAPTER_FILE = "adapter/adapter.safetensors"
SCHEDULER_FILE = "scheduler/scheduler_config.json"
COMPONENTS = ("unet", "adapter", "vae", "image_encoder")


@dataclass
class Base:
    """The components with the conventions that tie them together. Modules are in eval mode unless training."""

    config: BaseConfig
    unet: UNet2DConditionModel
    adapter: nn.Module
    vae: AutoencoderKL
    image_encoder: CLIPVisionModel
    image_processor: CLIPImageProcessorPil
    scheduler: dict  # the config of the noise schedule, SD's by default

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    @property
    def factor(self) -> int:
        """f: pixels per latent along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def latent_size(self) -> tuple[int, int]:
        height, width = self.config.resolution
        return height // self.factor, width // self.factor

    @property
    def latent_shift(self) -> Tensor:
        return torch.tensor(self.config.latent_shift, device=self.device, dtype=torch.float32).view(1, -1, 1, 1)

    @property
    def latent_scale(self) -> Tensor:
        return torch.tensor(self.config.latent_scale, device=self.device, dtype=torch.float32).view(1, -1, 1, 1)

    def components(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in COMPONENTS}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Base:
        for module in self.components().values():
            nn.Module.to(module, device=device, dtype=dtype).eval()  # diffusers' own `to` warns for every cast
        return self

    def predict(
        self,
        noisy: Tensor,
        timestep: Tensor,
        context: Tensor,
        pose: Tensor,
        photo: Tensor,
        prior: Prior | None = None,
    ) -> Tensor:
        """The network's prediction (B, C, h, w), float32, in the schedule's prediction type.

        noisy latents (B, C, h, w), timestep (B,) or a scalar, context (B, T, D), pose and photo channels (B, *, h, w);
        `prior` where the base has a texture encoder.
        """
        inputs = torch.cat([noisy, pose, photo], dim=1).to(self.dtype)
        output = self.unet(inputs, timestep, encoder_hidden_states=context.to(self.dtype)).sample.float()
        if prior is None:
            return output
        alpha_bar = self.alphas_cumprod.to(output.device)[timestep.long()].view(-1, 1, 1, 1)
        return with_prior(output, noisy, alpha_bar, prior)

    @functools.cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar of every training timestep."""
        return make_sampler("ddim", self.scheduler).alphas_cumprod


def unet_inputs(config: BaseConfig, latent_channels: int, factor: int) -> int:
    """Input channels of the widened UNet: latents, then the pose window, then the photo channels."""
    return latent_channels + config.poses.total_channels + unet_photo_channels(config, latent_channels, factor)


def widen(unet: UNet2DConditionModel, in_channels: int) -> UNet2DConditionModel:
    """Give `unet` more input channels in place: the pretrained ones and the bias untouched, the new ones zero.

    So the first prediction for any pose is exactly the pretrained one (paper section 4.3).
    """
    old = unet.conv_in
    if in_channels < old.in_channels:
        raise BaseError(f"a UNet of {old.in_channels} input channels cannot be narrowed to {in_channels}.")
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    new = new.to(device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)
    return unet


def make_adapter(config: BaseConfig, vae: AutoencoderKL, image_encoder: CLIPVisionModel) -> nn.Module:
    """An adapter sized from the base: CLIP's token count and width, and the latent grid."""
    vision = image_encoder.config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (vae.config.latent_channels, config.resolution[0] // factor, config.resolution[1] // factor)
    texture = texture_inputs(config, factor)
    return ADAPTERS[config.photo.adapter](
        shape, tokens, vision.hidden_size, texture, vae, config.photo.texture_dilations
    )


def save_base(base: Base, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write every component and `base.json` into `folder` (which the caller made and publishes atomically)."""
    folder = Path(folder)
    weights = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
    for name, file in weights.items():
        module = getattr(base, name)
        (folder / name).mkdir(parents=True, exist_ok=True)
        module.config.save_pretrained(folder / name) if name == "image_encoder" else module.save_config(folder / name)
        _forget_origin(folder / name / "config.json")
        save_module(module, folder / name / f"{file}.safetensors", dtype)
    save_module(base.adapter, folder / ADAPTER_FILE, dtype)
    base.image_processor.save_pretrained(folder / "image_encoder")
    (folder / SCHEDULER_FILE).parent.mkdir(exist_ok=True)
    (folder / SCHEDULER_FILE).write_text(json.dumps(base.scheduler, indent=2) + "\n", encoding="utf-8")
    (folder / CONFIG_FILE).write_text(base.config.to_json(), encoding="utf-8")
    return folder


def _forget_origin(file: Path) -> None:
    """Take the path that a component was loaded from out of its config: a base that is given away names no folder."""
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_module(module: nn.Module, file: Path, dtype: torch.dtype | None = None) -> None:
    """The weights of one module as safetensors, cast to `dtype` on the way if given."""
    save_tensors(module.state_dict(), file, dtype)


def save_tensors(tensors: dict[str, Tensor], file: Path, dtype: torch.dtype | None = None) -> None:
    """Tensors by their names as safetensors, cast to `dtype` on the way if given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    mask = os.umask(0)  # there is no other way to ask for it; safetensors writes for the owner alone
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def load_base(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Base:
    """Load the base in `folder`. Raises BaseError naming the component that is missing or does not fit."""
    folder = Path(folder)
    config = read_config(folder)
    try:
        scheduler = json.loads((folder / SCHEDULER_FILE).read_text(encoding="utf-8"))
        kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "image_encoder": CLIPVisionModel}
        parts = {}
        for name, kind in kinds.items():
            parts[name] = load_component(kind, folder / name, dtype)
        processor = CLIPImageProcessorPil.from_pretrained(folder / "image_encoder")
        factor = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
        adapter = make_adapter(config, parts["vae"], parts["image_encoder"]).to(dtype)
        adapter.load_state_dict(load_file(folder / ADAPTER_FILE))
    except BaseError:
        raise
    except Exception as error:  # the libraries raise a dozen types for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseError(f"the base in {folder} cannot be loaded: {reason}") from error
    expected = unet_inputs(config, parts["vae"].config.latent_channels, factor)
    if parts["unet"].config.in_channels != expected:
        raise BaseError(
            f"the base in {folder} contradicts itself: its UNet takes {parts['unet'].config.in_channels} channels, "
            f"its {CONFIG_FILE} needs {expected}."
        )
    return Base(config, adapter=adapter, image_processor=processor, scheduler=scheduler, **parts).to(device)


def load_component(kind: type, folder: Path, dtype: torch.dtype) -> nn.Module:
    """One diffusers or transformers component from a folder, safetensors only, without the libraries' own chatter."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    name = "torch_dtype" if kind.__module__.startswith("diffusers") else "dtype"
    return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **{name: dtype})
