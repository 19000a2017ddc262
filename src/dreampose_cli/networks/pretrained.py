"""The parts of other models that a base is made of: Stable Diffusion's UNet, VAE and schedule, and CLIP's image encoder.

Each comes from a folder in the layout of diffusers and transformers or from the Hub, part by part: text encoder and
safety checker are never fetched. Configs make skeletons without weights, which say what the weights must be called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)

from ..bases import repositories as hub
from ..bases.components import read_component
from ..errors import BaseError
from .network import AnyModule
from .weight_files import read_weights, shape_mismatches

STABLE_DIFFUSION = hub.Reference("CompVis/stable-diffusion-v1-4", "ebb811dd71cdc38a204ecbdd6ac5d580f529fd8c")
IMAGE_ENCODER = hub.Reference("openai/clip-vit-base-patch32")
SD_LICENCE = "CreativeML OpenRAIL-M (https://huggingface.co/spaces/CompVis/stable-diffusion-license)"
OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]
OPENAI_STD = [0.26862954, 0.26130258, 0.27577711]

KINDS = {
    "unet": UNet2DConditionModel,
    "control": ControlNetModel,
    "vae": AutoencoderKL,
    "image_encoder": CLIPVisionModel,
}
# The files that may hold a component's weights, the best first; `bases.published` fetches halves first instead.
_DIFFUSERS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.safetensors",
)
_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin", "model.fp16.safetensors")
WEIGHT_FILES = {
    "unet": _DIFFUSERS,
    "control": _DIFFUSERS,
    "vae": _DIFFUSERS,
    "image_encoder": _TRANSFORMERS,
    "text_encoder": _TRANSFORMERS,
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def stable_diffusion_folder(
    source: str | None, weights: tuple[str, ...], progress=None, note: Callable[[str], None] | None = None
) -> tuple[Path, str]:
    """The folder with unet/, vae/ and scheduler/ of a Stable Diffusion, and what to call it.

    `source` is a folder, a repository on the Hub, or None for the one DreamPose was built on. Configs are always
    fetched, weights of the components in `weights` only. Raises BaseError.
    """
    if source is not None and Path(source).is_dir():
        return Path(source), hub.origin(Path(source)) or Path(source).resolve().name
    reference = _reference(source, STABLE_DIFFUSION)
    if note:
        note(f"Stable Diffusion from the Hub: {reference}, licence {SD_LICENCE}.")
    configs = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    options = [[f"{name}/{file}" for file in WEIGHT_FILES[name]] for name in weights]
    return _fetch(reference, configs, options, (), progress), str(reference)


def image_encoder_folder(
    source: str | None, progress=None, note: Callable[[str], None] | None = None
) -> tuple[Path, str]:
    """As `stable_diffusion_folder`, the folder of a CLIP image encoder; None for OpenAI's ViT-B/32, DreamPose's."""
    if source is not None and Path(source).is_dir():
        return Path(source), hub.origin(Path(source)) or Path(source).resolve().name
    reference = _reference(source, IMAGE_ENCODER)
    if note:
        note(f"image encoder from the Hub: {reference}, licence of https://huggingface.co/{reference.repo}.")
    weights = [list(WEIGHT_FILES["image_encoder"])]
    return _fetch(reference, ("config.json",), weights, ("preprocessor_config.json",), progress), str(reference)


def folder_of(
    source: str | None,
    default: hub.Reference,
    needed: tuple[str, ...],
    options: list[list[str]],
    progress=None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """The folder `source`, or the snapshot of the repository `source`, by default `default`, on the Hub with the files
    `needed` and of each of `options` the first that is there. Raises BaseError."""
    if source is not None and Path(source).is_dir():
        return Path(source)
    reference = _reference(source, default)
    if note:
        note(f"from the Hub: {reference}, licence of https://huggingface.co/{reference.repo}.")
    return _fetch(reference, needed, options, (), progress)


def _reference(source: str | None, default: hub.Reference) -> hub.Reference:
    if source is None:
        return default
    reference = hub.parse(source)
    if reference is None:
        raise BaseError(f"{source} is neither a folder nor a repository on the Hub (owner/name).")
    if reference.repo == default.repo and reference.revision is None:
        return default
    return reference


def _fetch(reference: hub.Reference, needed, options: list[list[str]], extra, progress) -> Path:
    """The snapshot with the files `needed`, `extra` if there are any, and of each of `options` the first there is."""
    folder = _cached(reference, needed, options)
    if folder is None:
        preferred = [files[0] for files in options]
        folder = hub.download(reference, [*needed, *extra, *preferred], progress=progress)
        for files in options:
            for file in files[1:]:
                if not any((folder / each).is_file() for each in files):
                    folder = hub.download(reference, [file], progress=progress)
    for names in [*([name] for name in needed), *options]:
        if not any((folder / name).is_file() for name in names):
            raise BaseError(f"{reference} on the Hub has no {names[0]}; name another repository, or a folder.")
    return folder


def _cached(reference: hub.Reference, needed, options: list[list[str]]) -> Path | None:
    folder = hub.cached(reference, tuple(needed))
    complete = folder is not None and all(any((folder / file).is_file() for file in files) for files in options)
    return folder if complete else None


def skeleton(name: str, folder: Path, **changes: Any) -> AnyModule:
    """The component `name` ("unet", "vae", "image_encoder") as `folder`'s config.json says, without weights."""
    with torch.device("meta"):
        return _build(name, folder, changes)


def load(name: str, folder: Path, dtype: torch.dtype) -> AnyModule:
    """The component `name` from `folder`, weights and all. Raises BaseError where they do not fit."""
    file = weight_file(name, folder)
    module = nn.Module.to(_build(name, folder, {}), dtype=dtype)  # diffusers' own `to` warns for every cast
    tensors = rename(name, read_weights(file), module.state_dict())
    require(file, shape_mismatches(tensors, shapes(module)))
    module.load_state_dict(tensors)
    return module.eval()


def text_encoder(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """The text encoder and the tokenizer of a Stable Diffusion, float32. Raises BaseError."""
    encoder = _whole(CLIPTextModel, folder / "text_encoder")
    try:
        return encoder, CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # the library raises what it likes for files that are missing or make no sense
        raise BaseError(f"{folder / 'tokenizer'} holds no tokenizer of CLIP: {_first_line(error)}.") from error


def clip_with_projection(folder: Path) -> CLIPVisionModelWithProjection:
    """CLIP's image encoder with its projection, float32. Raises BaseError."""
    return _whole(CLIPVisionModelWithProjection, folder)


def _whole(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """A model of transformers; BaseError where weights are missing, which transformers would draw at random."""
    read_json(folder / "config.json")
    halves = not any((folder / file).is_file() for file in _TRANSFORMERS[:2])
    try:
        with quiet_libraries():
            model, found = kind.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                variant="fp16" if halves else None,
            )
    except Exception as error:  # the library raises what it likes for files that are missing or damaged
        raise BaseError(f"{folder} holds no {kind.__name__}: {_first_line(error)}.") from error
    missing, mismatched = sorted(found["missing_keys"]), list(found.get("mismatched_keys", ()))
    require(folder, [f"{len(missing)} missing ({', '.join(missing[:3])})"] if missing else [])
    require(folder, [f"{len(mismatched)} of another shape"] if mismatched else [])
    return model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _build(name: str, folder: Path, changes: dict[str, Any]) -> AnyModule:
    path = folder / "config.json"
    file = next((folder / file for file in WEIGHT_FILES[name] if (folder / file).is_file()), None)
    raw = read_component(path, file)
    try:
        with quiet_libraries():
            if name == "image_encoder":
                return CLIPVisionModel(CLIPVisionConfig.from_dict({**_vision(raw), **changes}))
            return KINDS[name].from_config({**raw, **changes})
    except Exception as error:  # the libraries raise what they like for settings that make no sense
        text = " ".join(str(error).split())[:200]
        raise BaseError(f"{path} describes no {KINDS[name].__name__}: {text or type(error).__name__}.") from error


def _vision(raw: dict[str, Any]) -> dict[str, Any]:
    """The vision part of a CLIP config, or the config itself where it is one."""
    part = raw.get("vision_config") or raw.get("vision_config_dict") or raw
    return {key: value for key, value in part.items() if key not in ("torch_dtype", "dtype")}


def weight_file(name: str, folder: Path) -> Path:
    """The file with the weights of component `name` in `folder`; safetensors where there are both."""
    for file in WEIGHT_FILES[name]:
        if (folder / file).is_file():
            return folder / file
    raise BaseError(f"{folder} has no weights: neither {' nor '.join(WEIGHT_FILES[name])} is there.")


def rename(name: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """Old names of weights in today's: attention in old VAEs; of a whole CLIP only the image encoder is kept."""
    if name == "vae":
        return {_new_vae_name(key): tensor for key, tensor in tensors.items()}
    if name == "image_encoder":
        nested = any(key.startswith("vision_model.") for key in expected)
        whole = any(key.startswith("vision_model.") for key in tensors)
        if whole:
            tensors = {k.removeprefix("vision_model."): v for k, v in tensors.items() if k.startswith("vision_model.")}
        tensors = {k: v for k, v in tensors.items() if not k.endswith(("position_ids", "visual_projection.weight"))}
        return {f"vision_model.{key}" if nested else key: tensor for key, tensor in tensors.items()}
    return dict(tensors)


def _new_vae_name(key: str) -> str:
    """`decoder.mid_block.attentions.0.query.weight` -> `decoder.mid_block.attentions.0.to_q.weight`."""
    head, _, tail = key.partition(".attentions.")
    if not tail:
        return key
    index, _, rest = tail.partition(".")
    layer, _, kind = rest.rpartition(".")
    return f"{head}.attentions.{index}.{_OLD_ATTENTION.get(layer, layer)}.{kind}"


def shapes(module: AnyModule) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def require(file: Path, found: list[str]) -> None:
    """BaseError with what does not fit about the weights in `file`, if anything."""
    if found:
        raise BaseError(f"the weights in {file} do not fit: {'; '.join(found)}.")


def image_processor(folder: Path, size: int) -> CLIPImageProcessorPil:
    """The preprocessing next to an image encoder; OpenAI's, for pictures of `size` pixels, where there is none."""
    if (folder / "preprocessor_config.json").is_file():
        read_json(folder / "preprocessor_config.json")
        return CLIPImageProcessorPil.from_pretrained(folder)
    return CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=3,  # bicubic
        image_mean=OPENAI_MEAN,
        image_std=OPENAI_STD,
    )


def schedule(folder: Path) -> dict[str, Any]:
    """The noise schedule in `folder`/scheduler_config.json. Latents are not clipped unless it says so."""
    raw = read_json(folder / "scheduler_config.json")
    return {"clip_sample": False, **raw}


def check_widths(unet: UNet2DConditionModel, image_encoder: CLIPVisionModel) -> None:
    """BaseError unless the UNet's cross-attention is as wide as the image encoder's tokens."""
    wide, tokens = unet.config.cross_attention_dim, image_encoder.config.hidden_size
    if wide != tokens:
        raise BaseError(
            f"the UNet attends to tokens of width {wide}, but those of the image encoder are {tokens} wide; choose an "
            "image encoder of that width with --image-encoder."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A config of diffusers or transformers, with sizes that are possible. Raises BaseError."""
    return read_component(path)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """diffusers and transformers without their remarks about old configs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before[0])
        transformers_logging.set_verbosity(before[1])
