"""The checkpoints of the authors of DreamPose (github.com/johannakarras/DreamPose) as a base like any other.

What their `test.py` computes is written into the base's settings, value ranges and null conditions and all, so that
nothing else needs to know where a base comes from.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import torch

from ...bases.config import BaseConfig, PoseWindow, TuningSettings
from ...bases.registry import OFFICIAL_HOME
from ...cache import Cache
from ...errors import BaseError
from ...reporting import Note, Progress, no_note
from ...version import __version__
from .. import pretrained as components
from ..importing import Part, publish, require_name
from ..network import AnyModule
from .conditioning import unet_inputs
from .network import make_adapter
from .settings import DreamPoseSettings, PhotoSettings, PoseSettings

PATTERNS = {"unet": r"unet_epoch_(\d+)\.pth", "adapter": r"adapter_(\d+)\.pth", "vae": r"vae_(\d+)\.pth"}

# The conventions of the official test.py. Its pose range is in doubt (training used 0..1): see docs/official.md.
OFFICIAL = BaseConfig(
    name="official",
    resolution=(640, 512),
    network=DreamPoseSettings(
        PoseSettings(channels="uv", range=(-1.0, 1.0), null=0.0, to_latents="nearest"),
        PhotoSettings(
            condition_range=(0.0, 255.0), null_transposed=True, adapter="pooled", start="photo", start_range=(-1.0, 1.0)
        ),
    ),
    target_range=(0.0, 1.0),  # it was trained on pictures in 0..1, so that is what its latents decode to
    fit="stretch",
    poses=PoseWindow(count=5, resize="bilinear", window_rule="current", training_fps=None),
    tuning=TuningSettings(gradient_checkpointing=True),
    people="people",
    estimator="r50",
)


def import_official(
    cache: Cache,
    folder: Path,
    *,
    name: str,
    stable_diffusion: str | None = None,
    image_encoder: str | None = None,
    epoch: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Path:
    """Make the official checkpoints in `folder` the base `name` in the store; returns its folder.

    `stable_diffusion` and `image_encoder` are folders or Hub repositories, by default those DreamPose was built on.
    `epoch` chooses UNet and adapter, else the highest of each. All files are compared before anything is written, and
    at most one component is in memory at a time. Raises BaseError, OutputExistsError.
    """
    require_name(cache, name, overwrite)
    note = note or no_note
    files = find_checkpoints(Path(folder), epoch)
    note("checkpoints: " + ", ".join(file.name for file in files.values()) + ".")
    needed = () if "vae" in files else ("vae",)
    parts, parts_name = components.stable_diffusion_folder(stable_diffusion, needed, progress, note)
    encoder, encoder_name = components.image_encoder_folder(image_encoder, progress, note)

    modules = skeletons(OFFICIAL, parts, encoder)
    sources = {
        "unet": files["unet"],
        "adapter": files["adapter"],
        "vae": files.get("vae") or components.weight_file("vae", parts / "vae"),
        "image_encoder": components.weight_file("image_encoder", encoder),
    }
    schedule = components.schedule(parts / "scheduler")
    processor = components.image_processor(encoder, modules["image_encoder"].config.image_size)
    config = dataclasses.replace(
        OFFICIAL,
        name=name,
        provenance={
            "imported_from": f"official DreamPose checkpoints ({OFFICIAL_HOME})",
            "files": {part: file.name for part, file in files.items()},
            "stable_diffusion": parts_name,
            "image_encoder": encoder_name,
            "licence": f"{components.SD_LICENCE} for what descends from Stable Diffusion; code of DreamPose: MIT",
            "version": __version__,
        },
    )
    return publish(
        cache,
        config,
        schedule,
        {part: Part.read(part, modules[part], source) for part, source in sources.items()},
        misfit=f"the checkpoints in {folder} do not fit {parts_name} and {encoder_name}",
        processors=[("image_encoder", processor)],
        progress=progress,
        note=note,
    )


def import_downloaded(
    cache: Cache, *, weights: Path, stable_diffusion: Path, image_encoder: Path, halves: bool, **options
) -> Path:
    """As `import_official`, of folders that were just downloaded; always in the precision they come in, to be tuned."""
    return import_official(
        cache, weights, stable_diffusion=str(stable_diffusion), image_encoder=str(image_encoder), **options
    )


def find_checkpoints(folder: Path, epoch: int | None = None) -> dict[str, Path]:
    """unet, adapter and (if there is one) vae of the official checkpoints in `folder`: of `epoch`, or the highest.

    The VAE is numbered by steps of its own: without one of `epoch` it is the highest.
    """
    if not folder.is_dir():
        raise BaseError(f"{folder} is no folder; download the official checkpoints into one (see {OFFICIAL_HOME}).")
    chosen = {}
    for part, pattern in PATTERNS.items():
        found = {int(m[1]): file for file in folder.iterdir() if (m := re.fullmatch(pattern, file.name))}
        wanted = epoch if epoch is not None and (part != "vae" or epoch in found) else max(found, default=None)
        if wanted in found:
            chosen[part] = found[wanted]
        elif part != "vae":
            name = pattern.replace(r"(\d+)", str(epoch) if epoch is not None else "E").replace("\\", "")
            there = f"; of {part} there is: {', '.join(str(n) for n in sorted(found))}" if found else ""
            raise BaseError(f"{folder} has no {name}{there}. The authors' checkpoints are linked from {OFFICIAL_HOME}.")
    return chosen


def skeletons(config: BaseConfig, parts: Path, encoder: Path) -> dict[str, AnyModule]:
    """Every component without weights, sized from the configs of the given Stable Diffusion and image encoder."""
    vae = components.skeleton("vae", parts / "vae")
    image_encoder = components.skeleton("image_encoder", encoder)
    inputs = unet_inputs(config, vae.config.latent_channels)
    unet = components.skeleton("unet", parts / "unet", in_channels=inputs)
    components.check_widths(unet, image_encoder)
    with torch.device("meta"):
        adapter = make_adapter(config, vae, image_encoder)
    return {"unet": unet, "adapter": adapter, "vae": vae, "image_encoder": image_encoder}
