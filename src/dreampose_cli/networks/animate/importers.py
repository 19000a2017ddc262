"""The published weights of MagicAnimate and of Moore Threads' AnimateAnyone as bases like any other.

Both come as parts of Stable Diffusion 1.5's shape in several files. Every file is compared with what the configs say, key by
key and shape by shape, before anything is written: a motion module that is silently left out makes a video that flickers,
and nothing else tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bases.config import BaseConfig, PoseWindow, SamplingSettings, TuningSettings
from ...bases.published import IMAGE_ENCODER, STABLE_DIFFUSION, VAE
from ...bases.repositories import origin
from ...cache import Cache
from ...errors import BaseError
from ...reporting import Note, Progress, no_note
from ...version import __version__
from .. import pretrained
from ..importing import Part, publish, require_name
from ..network import AnyModule, scale_factor
from ..weight_files import read_weights
from .modules import add_motion, build_module, empty_prompt, plain_config
from .settings import ANIMATE_ANYONE, EPS_LINEAR, MAGICANIMATE, V_ZERO_SNR, AnimateSettings

# AnimateDiff's names of a motion module's weights, in the order in which they are replaced, and those of diffusers.
_MOTION_NAMES = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.pos_encoder.pe", ".pos_embed.pe"),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
_SECOND_POSITIONS = ".attention_blocks.1.pos_encoder.pe"
_LAST = ".attentions.2.transformer_blocks.0."  # of the last up block, behind whose first norm nothing is read
_UNREAD = tuple(_LAST + part for part in ("attn1.", "attn2.", "norm2.", "norm3.", "ff."))

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

# `tune` learns little of a network that needs no tuning, and a subject stays small. The steps are DreamPose's for the UNet;
# neither they nor the rank have been compared on people.
TUNING = TuningSettings(decoder_steps=500, lora_rank=16, gradient_checkpointing=True)
MAGICANIMATE_BASE = BaseConfig(
    name="magicanimate",
    family="animate",
    resolution=(512, 512),
    network=MAGICANIMATE,
    poses=PoseWindow(kind="densepose", count=1),
    sampling=SamplingSettings(sampler="ddim", steps=25, guidance={"image": 7.5}),
    tuning=TUNING,
)
ANIMATE_ANYONE_BASE = BaseConfig(
    name="animate-anyone",
    family="animate",
    resolution=(784, 512),
    estimator="dwpose",
    network=ANIMATE_ANYONE,
    poses=PoseWindow(kind="keypoints", count=1),
    sampling=SamplingSettings(sampler="ddim", steps=30, guidance={"image": 3.5}),
    tuning=TUNING,
)


def import_magicanimate(
    cache: Cache,
    *,
    weights: Path,
    stable_diffusion: Path,
    vae: Path,
    name: str,
    overwrite: bool = False,
    halves: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Path:
    """Make `appearance_encoder/`, `densepose_controlnet/` and `temporal_attention/` in `weights` the base `name`.

    All are folders in the layout they have on the Hub. `halves`: the base is kept in float16, in which its authors compute.
    Returns the base's folder. Raises BaseError, OutputExistsError.
    """
    require_name(cache, name, overwrite)
    unet = _unet(stable_diffusion / "unet", MAGICANIMATE)
    _require_same_shape(weights / "appearance_encoder", unet)
    encoder = pretrained.weight_file("unet", weights / "appearance_encoder")
    control = weights / "densepose_controlnet"
    motion = weights / "temporal_attention" / "temporal_attention.ckpt"
    moving = motion_weights(motion, note or no_note)
    spatial = pretrained.weight_file("unet", stable_diffusion / "unet")
    prompt: AnyModule = empty_prompt(stable_diffusion)
    wide, tokens = plain_config(unet)["cross_attention_dim"], prompt.tokens.shape[2]
    if tokens != wide:
        raise BaseError(
            f"the UNet attends to tokens of width {wide}, but those of {stable_diffusion}/text_encoder are {tokens} wide; "
            "take UNet and text encoder of one Stable Diffusion 1.5."
        )
    settings = replace(MAGICANIMATE, prompt_tokens=prompt.tokens.shape[1])
    parts = {
        "unet": Part(unet, motion, lambda: {**read_weights(spatial), **moving}),
        "appearance": _built("appearance", settings, unet, encoder, lambda: read_weights(encoder)),
        "control": _weights("control", pretrained.skeleton("control", control), control),
        "vae": _weights("vae", pretrained.skeleton("vae", vae), vae),
        "prompt": Part(prompt, stable_diffusion / "text_encoder", prompt.state_dict),
    }
    config = _described(
        replace(MAGICANIMATE_BASE, name=name, network=settings),
        parts,
        "zcxu-eric/MagicAnimate, BSD-3-Clause",
        stable_diffusion=stable_diffusion,
        vae=vae,
    )
    return _publish(cache, config, EPS_LINEAR, parts, weights, halves, progress, note)


def import_animate_anyone(
    cache: Cache,
    *,
    weights: Path,
    stable_diffusion: Path,
    vae: Path,
    image_encoder: Path,
    name: str,
    overwrite: bool = False,
    halves: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Path:
    """Make `denoising_unet.pth`, `reference_unet.pth`, `pose_guider.pth` and `motion_module.pth` in `weights` the base `name`;
    as `import_magicanimate`. What the first does not have of the UNet is Stable Diffusion's.
    """
    require_name(cache, name, overwrite)
    note = note or no_note
    unet = _unet(stable_diffusion / "unet", ANIMATE_ANYONE)
    denoising, reference, guider, motion = (
        weights / f"{file}.pth" for file in ("denoising_unet", "reference_unet", "pose_guider", "motion_module")
    )
    encoder = pretrained.clip_with_projection(image_encoder)
    wide = plain_config(unet)["cross_attention_dim"]
    if encoder.config.projection_dim != wide:
        raise BaseError(
            f"the UNet attends to tokens of width {wide}, but the embeddings of {image_encoder} are "
            f"{encoder.config.projection_dim} wide; choose another with --image-encoder."
        )
    moving = motion_weights(motion, note)
    expected = [key for key in unet.state_dict() if "motion_modules" not in key]
    lacking = sorted(set(expected) - read_weights(denoising).keys())
    if lacking:
        note(f"{len(lacking)} of {len(expected)} weights of the UNet are Stable Diffusion's: {denoising} lacks them.")

    def denoiser() -> dict[str, Tensor]:
        rest = read_weights(pretrained.weight_file("unet", stable_diffusion / "unet")) if lacking else {}
        return {**moving, **{key: rest[key] for key in lacking if key in rest}, **read_weights(denoising)}

    parts = {
        "unet": Part(unet, motion, denoiser),
        "appearance": _built("appearance", ANIMATE_ANYONE, unet, reference, lambda: _without_unread(reference, unet)),
        "control": _built("control", ANIMATE_ANYONE, unet, guider, lambda: read_weights(guider)),
        "vae": _weights("vae", pretrained.skeleton("vae", vae), vae),
        "image_encoder": Part(encoder, image_encoder, encoder.state_dict),
    }
    config = _described(
        replace(ANIMATE_ANYONE_BASE, name=name),
        parts,
        "patrolli/AnimateAnyone, Apache-2.0",
        stable_diffusion=stable_diffusion,
        vae=vae,
        image_encoder=image_encoder,
    )
    return _publish(cache, config, V_ZERO_SNR, parts, weights, halves, progress, note)


IMPORTERS: dict[str, Callable[..., Path]] = {
    "magicanimate": import_magicanimate,
    "animate-anyone": import_animate_anyone,
}


def import_published(
    cache: Cache,
    kind: str,
    weights: Path,
    *,
    name: str,
    stable_diffusion: str | None = None,
    vae: str | None = None,
    image_encoder: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Path:
    """Make the published weights of `kind`, a key of `IMPORTERS`, in the folder `weights` the base `name`.

    The other three are folders or repositories on the Hub; what is None is the repository that the authors name, of which
    the needed files alone are fetched. Raises BaseError, OutputExistsError.
    """
    if not weights.is_dir():
        raise BaseError(f"{weights} is no folder; download the weights of {kind} into one.")
    require_name(cache, name, overwrite)  # before anything is fetched
    fetching: dict[str, Any] = {"progress": progress, "note": note}
    needed: tuple[str, ...] = ("unet/config.json",)
    options: list[list[str]] = []
    if kind == "magicanimate":
        needed += ("text_encoder/config.json", *(f"tokenizer/{file}" for file in TOKENIZER_FILES))
        options = [[f"{part}/{file}" for file in pretrained.WEIGHT_FILES[part]] for part in ("unet", "text_encoder")]
    sd = pretrained.folder_of(stable_diffusion, STABLE_DIFFUSION, needed, options, **fetching)
    files = [list(pretrained.WEIGHT_FILES["vae"])]
    autoencoder = pretrained.folder_of(vae, VAE, ("config.json",), files, **fetching)
    folders = {"weights": weights, "stable_diffusion": sd, "vae": _inner(autoencoder, "vae")}
    if kind == "animate-anyone":
        files = [[f"image_encoder/{file}" for file in pretrained.WEIGHT_FILES["image_encoder"]]]
        encoder = pretrained.folder_of(image_encoder, IMAGE_ENCODER, ("image_encoder/config.json",), files, **fetching)
        folders["image_encoder"] = _inner(encoder, "image_encoder")
    return IMPORTERS[kind](cache, **folders, name=name, overwrite=overwrite, progress=progress, note=note)


def _inner(folder: Path, name: str) -> Path:
    """The folder `name` in `folder`, or `folder` itself where its config lies there."""
    return folder if (folder / "config.json").is_file() or not (folder / name).is_dir() else folder / name


def motion_weights(file: Path, note: Note) -> dict[str, Tensor]:
    """The motion modules in `file` by the names of diffusers: AnimateDiff's, after `module.`, `unet.` or both."""
    found, others = {}, []
    for key, tensor in read_weights(file).items():
        key = key.split("module.")[-1] if key.startswith("module.") else key
        key = key.removeprefix("unet.")
        if "motion_modules" in key:
            found[key] = tensor
        else:
            others.append(key)
    if not found:
        raise BaseError(
            f"{file} holds no motion modules (no name with motion_modules in it): without them a video flickers; take the "
            "authors' file."
        )
    if others:
        note(f"{file}: {len(others)} weights that are not of motion modules are left out, such as {others[0]}.")
    mapped = {}
    for key, tensor in found.items():
        if key.endswith(_SECOND_POSITIONS):  # a constant, kept once for both attentions
            first = found.get(key.replace(".attention_blocks.1.", ".attention_blocks.0."))
            if first is not None and not torch.equal(first, tensor):
                raise BaseError(
                    f"{file}: {key} differs from that of the first attention; these motion modules are others."
                )
            continue
        for old, new in _MOTION_NAMES:
            key = key.replace(old, new)
        mapped[key] = tensor
    return mapped


def _without_unread(file: Path, unet: AnyModule) -> dict[str, Tensor]:
    """A reference UNet without what lies behind the last thing that is read of it; BaseError where that is incomplete."""
    tensors = read_weights(file)
    last = f"up_blocks.{len(unet.up_blocks) - 1}"
    unread = [key for key in unet.state_dict() if key.startswith(tuple(last + part for part in _UNREAD))]
    unread += [f"{last}.attentions.2.proj_out.{kind}" for kind in ("weight", "bias")]
    lacking = [key for key in unread if key not in tensors]
    pretrained.require(file, [f"{len(lacking)} missing ({', '.join(lacking[:3])})"] if lacking else [])
    return {key: tensor for key, tensor in tensors.items() if key not in unread}


def _unet(folder: Path, settings: AnimateSettings) -> AnyModule:
    """Stable Diffusion's UNet as `folder`'s config says, with motion modules, without weights."""
    with torch.device("meta"):
        return add_motion(pretrained.skeleton("unet", folder), settings)


def _require_same_shape(folder: Path, unet: AnyModule) -> None:
    """BaseError unless the appearance encoder in `folder` has the UNet's shape: their attention is joined, layer by layer."""
    there, here = pretrained.skeleton("unet", folder).config, plain_config(unet)
    keys = ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "attention_head_dim",
            "cross_attention_dim", "norm_num_groups", "norm_eps", "act_fn", "use_linear_projection")  # fmt: skip
    for key in keys:
        theirs, ours = _plain(there.get(key)), _plain(here.get(key))
        if ours is not None and theirs != ours:
            raise BaseError(
                f"{folder}/config.json says {key} {theirs}, Stable Diffusion's UNet {ours}; they do not match."
            )


def _plain(value: Any) -> Any:
    """A setting for each level as one where all levels are alike."""
    value = tuple(value) if isinstance(value, list | tuple) else value
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _built(
    name: str, settings: AnimateSettings, unet: AnyModule, file: Path, tensors: Callable[[], dict[str, Tensor]]
) -> Part:
    with torch.device("meta"):
        return Part(build_module(name, settings, unet), file, tensors)


def _weights(name: str, module: AnyModule, folder: Path) -> Part:
    return Part.read(name, module, pretrained.weight_file(name, folder))


def _publish(
    cache: Cache,
    config: BaseConfig,
    schedule: Mapping[str, Any],
    parts: Mapping[str, Part],
    weights: Path,
    halves: bool,
    progress: Progress | None,
    note: Note | None,
) -> Path:
    return publish(
        cache,
        config,
        schedule,
        parts,
        misfit=f"the weights in {weights} do not fit",
        dtype=torch.float16 if halves else None,
        progress=progress,
        note=note,
    )


def _described(config: BaseConfig, parts: Mapping[str, Part], weights: str, **folders: Path) -> BaseConfig:
    """The config with sizes as the UNet's own says, and where its parts come from: a commit on the Hub, or a folder's name."""
    side = (parts["unet"].module.config.sample_size or 64) * scale_factor(parts["vae"].module)
    height, width = (round(length * side / 512 / 8) * 8 for length in config.resolution)
    return replace(
        config,
        resolution=(height, width),
        provenance={
            "imported_from": weights.partition(",")[0],
            **{part: origin(path) or origin(path.parent) or path.resolve().name for part, path in folders.items()},
            "licence": f"{weights}; {pretrained.SD_LICENCE} for what descends from Stable Diffusion",
            "version": __version__,
        },
    )
