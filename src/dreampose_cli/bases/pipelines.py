"""Whole models of others in the layout of diffusers' pipelines: which files are needed, from where, under which licence.

No torch. A model is a folder or a repository on the Hub, `owner/name[@revision]`; what was downloaded once is used without
asking the network, so that its commit stays the same until it is removed from the Hub's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import BaseError
from ..reporting import Note, Progress
from . import repositories as hub

_DIFFUSERS = "diffusion_pytorch_model.safetensors"
_TEXT = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")


@dataclass(frozen=True)
class PipelineModel:
    """A model by its repository; `files` are all that is fetched, `size` is what they take, in words."""

    title: str
    reference: hub.Reference
    licence: str
    size: str
    files: tuple[str, ...]


_STABLE_DIFFUSION = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in _TEXT),
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    *(f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", _DIFFUSERS)),
)
OPENRAIL = "CreativeML OpenRAIL-M"
INSTRUCT_PIX2PIX = PipelineModel(
    "InstructPix2Pix", hub.Reference("timbrooks/instruct-pix2pix"), "MIT", "4.3 GB", _STABLE_DIFFUSION
)
STABLE_DIFFUSION_15 = PipelineModel(
    "Stable Diffusion 1.5",
    hub.Reference("stable-diffusion-v1-5/stable-diffusion-v1-5"),
    OPENRAIL,
    "4.3 GB",
    _STABLE_DIFFUSION,
)
OPENPOSE_CONTROLNET = PipelineModel(
    "ControlNet for OpenPose skeletons",
    hub.Reference("lllyasviel/control_v11p_sd15_openpose"),
    "OpenRAIL",
    "1.45 GB",
    ("config.json", _DIFFUSERS),
)
IP_ADAPTER = PipelineModel(
    "IP-Adapter",
    hub.Reference("h94/IP-Adapter"),
    "see https://huggingface.co/h94/IP-Adapter",
    "2.6 GB",
    (
        "models/ip-adapter_sd15.safetensors",
        "models/image_encoder/config.json",
        "models/image_encoder/model.safetensors",
    ),
)


def pipeline_folder(
    model: PipelineModel,
    source: str | None = None,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[Path, str]:
    """The folder with the files of `model`, and what to call it: `owner/name@commit`, or the folder's path.

    `source` names another folder or repository of the same layout. Whatever is fetched is named with its licence and
    size, once. Raises BaseError.
    """
    if source is not None and Path(source).is_dir():
        return _whole(Path(source), model, source), str(Path(source).resolve())
    reference = model.reference if source is None else hub.parse(source)
    if reference is None:
        raise BaseError(f"{source} is neither a folder nor a repository on the Hub (owner/name[@revision]).")
    folder = hub.cached(reference, model.files)
    if folder is None:
        if note:
            whose = f", licence: {model.licence}" if reference.repo == model.reference.repo else ""
            note(f"downloading {model.title} ({reference}), about {model.size}{whose}; used offline from then on.")
        folder = _whole(hub.download(reference, list(model.files), progress=progress), model, str(reference))
    return folder, hub.origin(folder) or str(folder)


def _whole(folder: Path, model: PipelineModel, name: str) -> Path:
    for file in model.files:
        if not (folder / file).is_file():
            raise BaseError(f"{name} has no {file}, so it is no {model.title}; name another repository or folder.")
    return folder
