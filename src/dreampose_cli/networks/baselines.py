"""What can be had for pose transfer without training: Stable Diffusion with a pose ControlNet, told of the photo in three ways.

    controlnet       the prompt alone: nothing of the photo
    reference-only   the photo's latents, noised to each step's level, go through the same UNet, and what its self-attention
                     layers see is joined to the keys and values of the frame's (Zhang's "reference-only"; discussion
                     1236 of sd-webui-controlnet)
    ip-adapter       the photo's CLIP embedding as four more tokens (IP-Adapter, arXiv 2308.06721)

The last two are those that PoseMaster Fusion's authors tried. All run through diffusers' StableDiffusionControlNetPipeline.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BaseError
from ..media.photos import resize
from . import pretrained
from .animate.pictures import clip_pixels
from .animate.reference_attention import Bank, Reading, read_reference, write_reference
from .instruct_pix2pix import load_pipeline, working_size
from .network import AnyModule

GUIDANCE = 7.5  # of the prompt, the default of diffusers' pipeline


class ReferenceUNet(nn.Module):
    """A UNet that sees a photo, in the place of the pipeline's: at each step the photo goes through it first.

    photo: clean latents (1, C, h, w), scaled as the UNet takes them; noise: in their shape, the same at every step, so that
    frames differ in nothing but their pose. The conditional half of a guided batch reads the photo, the other half does not.
    """

    def __init__(self, unet: AnyModule, scheduler: Any, photo: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.unet, self.scheduler, self.photo, self.noise = unet, scheduler, photo, noise

    @property
    def config(self) -> Any:
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, cross_attention_kwargs=None, **more: Any
    ) -> Any:
        """As the UNet's own, of a batch whose second half is the conditional one."""
        noised = self.scheduler.add_noise(self.photo, self.noise, timestep.reshape(1))
        noised = self.scheduler.scale_model_input(noised, timestep)
        bank: Bank = {}
        write_reference(self.unet, "full")
        self.unet(noised, timestep, encoder_hidden_states[-1:], cross_attention_kwargs={"reference": bank})
        read_reference(self.unet, "full")
        rows = len(sample)
        seeing = torch.arange(rows // 2, rows, device=sample.device)
        reading = Reading(bank, torch.zeros(rows, dtype=torch.long, device=sample.device), seeing)
        return self.unet(
            sample, timestep, encoder_hidden_states, cross_attention_kwargs={"reference": reading}, **more
        )


class Baseline:
    """One of `names.BASELINES`, in memory: `frames` renders a photo in poses.

    diffusion, control, adapter: the folders of Stable Diffusion 1.5, of the ControlNet, and of IP-Adapter, which only
    "ip-adapter" needs. Raises BaseError where their files do not fit together.
    """

    def __init__(
        self,
        name: str,
        diffusion: Path,
        control: Path,
        adapter: Path | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.name = name
        controlnet = pretrained.load("control", control, dtype)
        self._pipeline: Any = load_pipeline("StableDiffusionControlNetPipeline", diffusion, dtype, controlnet=controlnet)
        if name == "ip-adapter":
            assert adapter is not None
            _adapt(self._pipeline, adapter)
        self._pipeline.to(device)
        self._unet, self._device, self._dtype = self._pipeline.unet, device, dtype

    def size_of(self, photo: np.ndarray) -> tuple[int, int]:
        """The (height, width) at which a photo is rendered: multiples of 8, the longer one that of the UNet's training."""
        return working_size(photo.shape[:2], self._unet.config.sample_size * 8)

    def frames(
        self, photo: np.ndarray, skeletons: Iterable[np.ndarray], *, prompt: str, steps: int, seed: int
    ) -> Iterator[np.ndarray]:
        """A frame for each skeleton picture, uint8 (H, W, 3) at `size_of(photo)`, in which the frames come as well.

        Every frame begins with the same noise, drawn on the CPU.
        """
        with torch.inference_mode():
            seen = self._see(resize(photo, self.size_of(photo)), photo, seed)
        for skeleton in skeletons:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")
                made = self._pipeline(
                    prompt,
                    image=skeleton[None].astype(np.float32) / 255,
                    num_inference_steps=steps,
                    guidance_scale=GUIDANCE,
                    generator=torch.Generator().manual_seed(seed),
                    output_type="np",
                    **seen,
                ).images[0]
            yield np.rint(made * 255).astype(np.uint8)

    def _see(self, picture: np.ndarray, photo: np.ndarray, seed: int) -> dict[str, Any]:
        """What the pipeline is told of the photo; `picture` is the photo at the size of the frames."""
        pipeline = self._pipeline
        if self.name == "ip-adapter":
            side = pipeline.image_encoder.config.image_size
            pixels = clip_pixels(photo, side)
            return {
                "ip_adapter_image_embeds": pipeline.prepare_ip_adapter_image_embeds(pixels, None, self._device, 1, True)
            }
        if self.name == "reference-only":
            pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            vae = pipeline.vae
            latents = vae.encode(pixels.to(self._device, self._dtype)).latent_dist.mode() * vae.config.scaling_factor
            generator = torch.Generator().manual_seed(seed + 1)  # not the noise that the frames begin with
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            pipeline.unet = ReferenceUNet(self._unet, pipeline.scheduler, latents, noise)
        return {}


def _adapt(pipeline: Any, folder: Path) -> None:
    """Load IP-Adapter and its image encoder into the pipeline, by its own loader."""
    from transformers import CLIPImageProcessorPil

    # The loader would make one that needs torchvision; the photo is squashed to CLIP's square here, so that none is used.
    pipeline.register_modules(feature_extractor=CLIPImageProcessorPil())
    with pretrained.quiet_libraries(), contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            pipeline.load_ip_adapter(
                str(folder),
                subfolder="models",
                weight_name="ip-adapter_sd15.safetensors",
                image_encoder_folder="image_encoder",
                local_files_only=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            text = " ".join(str(error).split())[:200]
            raise BaseError(f"{folder} cannot be loaded as IP-Adapter: {text}.") from error
