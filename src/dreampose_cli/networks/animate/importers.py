"""The published weights of MagicAnimate and of Moore Threads' AnimateAnyone as bases like any other.

Both come as parts of Stable Diffusion 1.5's shape in several files. Every file is compared with what the configs say, key by
key and shape by shape, before anything is written: a motion module that is silently left out makes a video that flickers,
and nothing else tells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import cache
from ...bases.config import CONFIG_FILE, BaseConfig, PoseWindow, SamplingSettings
from ...bases.registry import MINI
from ...bases.repositories import Reference
from ...errors import BaseError, OutputExistsError
from ...names import check_name
from ...version import __version__
from .. import pretrained
from ..network import scale_factor
from ..storage import save_config, save_description
from ..weight_files import misfits, read_weights, write_weights
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

STABLE_DIFFUSION = Reference("stable-diffusion-v1-5/stable-diffusion-v1-5")
VAE = Reference("stabilityai/sd-vae-ft-mse")
IMAGE_ENCODER = Reference("lambdalabs/sd-image-variations-diffusers")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A module of the base to be: its shape, or itself, and where its weights come from. `file` stands for it in messages."""

    module: nn.Module
    file: Path
    tensors: Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Source:
    """The folders an import reads, each in the layout it has on the Hub."""

    weights: Path
    stable_diffusion: Path
    vae: Path
    image_encoder: Path | None = None


MAGICANIMATE_BASE = BaseConfig(
    name="magicanimate",
    family="animate",
    resolution=(512, 512),
    network=MAGICANIMATE,
    poses=PoseWindow(kind="densepose", count=1),
    sampling=SamplingSettings(sampler="ddim", steps=25, guidance={"image": 7.5}),
)
ANIMATE_ANYONE_BASE = BaseConfig(
    name="animate-anyone",
    family="animate",
    resolution=(784, 512),
    estimator="dwpose",
    network=ANIMATE_ANYONE,
    poses=PoseWindow(kind="keypoints", count=1),
    sampling=SamplingSettings(sampler="ddim", steps=30, guidance={"image": 3.5}),
)


def import_magicanimate(source: Source, *, name: str, **options: Any) -> Path:
    """Make `appearance_encoder/`, `densepose_controlnet/` and `temporal_attention/` in `source.weights` the base `name`.

    Options: overwrite, progress, note. Returns the base's folder. Raises BaseError, OutputExistsError.
    """
    note = _begin(name, **options)
    unet = _unet(source.stable_diffusion / "unet", MAGICANIMATE)
    appearance = source.weights / "appearance_encoder"
    _require_same_shape(appearance, unet)
    encoder = pretrained.weight_file("unet", appearance)
    control = source.weights / "densepose_controlnet"
    controlnet = pretrained.skeleton("control", control)
    motion = source.weights / "temporal_attention" / "temporal_attention.ckpt"
    spatial = pretrained.weight_file("unet", source.stable_diffusion / "unet")
    prompt = empty_prompt(source.stable_diffusion)
    settings = replace(MAGICANIMATE, prompt_tokens=prompt.tokens.shape[1])
    parts = {
        "unet": Part(unet, motion, lambda: {**read_weights(spatial), **motion_weights(motion, note)}),
        "appearance": _built("appearance", settings, unet, encoder, lambda: read_weights(encoder)),
        "control": _weights("control", controlnet, control),
        "vae": _weights("vae", pretrained.skeleton("vae", source.vae), source.vae),
        "prompt": Part(prompt, source.stable_diffusion / "text_encoder", prompt.state_dict),
    }
    config = replace(MAGICANIMATE_BASE, network=settings)
    return _publish(
        name, config, EPS_LINEAR, parts, source, "zcxu-eric/MagicAnimate, BSD-3-Clause", **options | {"note": note}
    )


def import_animate_anyone(source: Source, *, name: str, **options: Any) -> Path:
    """Make `denoising_unet.pth`, `reference_unet.pth`, `pose_guider.pth` and `motion_module.pth` in `source.weights` the base
    `name`; as `import_magicanimate`. What the first does not have of the UNet is Stable Diffusion's.
    """
    note = _begin(name, **options)
    unet = _unet(source.stable_diffusion / "unet", ANIMATE_ANYONE)
    denoising, reference, guider, motion = (
        source.weights / f"{file}.pth" for file in ("denoising_unet", "reference_unet", "pose_guider", "motion_module")
    )
    if source.image_encoder is None:
        raise BaseError("AnimateAnyone looks at the photo with CLIP as well; name its folder with --image-encoder.")
    encoder = pretrained.clip_with_projection(source.image_encoder)
    wide = plain_config(unet)["cross_attention_dim"]
    if encoder.config.projection_dim != wide:
        raise BaseError(
            f"the UNet attends to tokens of width {wide}, but the embeddings of {source.image_encoder} are "
            f"{encoder.config.projection_dim} wide; choose another with --image-encoder."
        )

    def denoiser() -> dict[str, Tensor]:
        trained = read_weights(denoising)
        expected = [key for key in unet.state_dict() if "motion_modules" not in key]
        lacking = [key for key in expected if key not in trained]
        if lacking:
            rest = read_weights(pretrained.weight_file("unet", source.stable_diffusion / "unet"))
            note(
                f"{len(lacking)} of {len(expected)} weights of the UNet are Stable Diffusion's: {denoising} lacks them."
            )
            trained = {**{key: rest[key] for key in lacking if key in rest}, **trained}
        return {**motion_weights(motion, note), **trained}

    parts = {
        "unet": Part(unet, motion, denoiser),
        "appearance": _built("appearance", ANIMATE_ANYONE, unet, reference, lambda: _without_unread(reference, unet)),
        "control": _built("control", ANIMATE_ANYONE, unet, guider, lambda: read_weights(guider)),
        "vae": _weights("vae", pretrained.skeleton("vae", source.vae), source.vae),
        "image_encoder": Part(encoder, source.image_encoder, encoder.state_dict),
    }
    origin = "patrolli/AnimateAnyone, Apache-2.0"
    return _publish(name, ANIMATE_ANYONE_BASE, V_ZERO_SNR, parts, source, origin, **options | {"note": note})


IMPORTERS = {"magicanimate": import_magicanimate, "animate-anyone": import_animate_anyone}


def import_published(
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
    _begin(name, overwrite)  # before anything is fetched
    fetching = {"progress": progress, "note": note}
    needed, options = ("unet/config.json",), []
    if kind == "magicanimate":
        needed += ("text_encoder/config.json", *(f"tokenizer/{file}" for file in TOKENIZER_FILES))
        options = [[f"{part}/{file}" for file in pretrained.WEIGHT_FILES[part]] for part in ("unet", "text_encoder")]
    sd = pretrained.folder_of(stable_diffusion, STABLE_DIFFUSION, needed, options, **fetching)
    files = [list(pretrained.WEIGHT_FILES["vae"])]
    autoencoder = pretrained.folder_of(vae, VAE, ("config.json",), files, **fetching)
    encoder = None
    if kind == "animate-anyone":
        files = [[f"image_encoder/{file}" for file in pretrained.WEIGHT_FILES["image_encoder"]]]
        encoder = pretrained.folder_of(image_encoder, IMAGE_ENCODER, ("image_encoder/config.json",), files, **fetching)
    source = Source(weights, sd, _inner(autoencoder, "vae"), encoder and _inner(encoder, "image_encoder"))
    return IMPORTERS[kind](source, name=name, overwrite=overwrite, progress=progress, note=note)


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


def _without_unread(file: Path, unet: nn.Module) -> dict[str, Tensor]:
    """A reference UNet without what lies behind the last thing that is read of it; BaseError where that is incomplete."""
    tensors = read_weights(file)
    last = f"up_blocks.{len(unet.up_blocks) - 1}"
    unread = [key for key in unet.state_dict() if key.startswith(tuple(last + part for part in _UNREAD))]
    unread += [f"{last}.attentions.2.proj_out.{kind}" for kind in ("weight", "bias")]
    lacking = [key for key in unread if key not in tensors]
    pretrained.require(file, [f"{len(lacking)} missing ({', '.join(lacking[:3])})"] if lacking else [])
    return {key: tensor for key, tensor in tensors.items() if key not in unread}


def _unet(folder: Path, settings: AnimateSettings) -> nn.Module:
    """Stable Diffusion's UNet as `folder`'s config says, with motion modules, without weights."""
    with torch.device("meta"):
        return add_motion(pretrained.skeleton("unet", folder), settings)


def _require_same_shape(folder: Path, unet: nn.Module) -> None:
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
    name: str, settings: AnimateSettings, unet: nn.Module, file: Path, tensors: Callable[[], dict[str, Tensor]]
) -> Part:
    with torch.device("meta"):
        return Part(build_module(name, settings, unet), file, tensors)


def _weights(name: str, module: nn.Module, folder: Path) -> Part:
    file = pretrained.weight_file(name, folder)
    return Part(module, file, lambda: pretrained.rename(name, read_weights(file), module.state_dict()))


def _begin(name: str, overwrite: bool = False, note: Note | None = None, progress: Progress | None = None) -> Note:
    """Check the name of the base to be; returns something to note with."""
    check_name(name)
    if name == MINI:
        raise BaseError("mini is the name of the base that comes with the package; choose another with --name.")
    if (cache.path_of("base", name) / CONFIG_FILE).exists() and not overwrite:
        raise OutputExistsError(
            f"there is a base {name} already; add --overwrite to replace it, or choose another --name."
        )
    return note or (lambda text: None)


def _publish(
    name: str,
    config: BaseConfig,
    schedule: Mapping[str, Any],
    parts: dict[str, Part],
    source: Source,
    origin: str,
    note: Note,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Compare all files with the modules, then write the base, one module after the other."""
    wrong = []
    for part in parts.values():
        found = misfits(part.tensors(), pretrained.shapes(part.module))
        wrong += [f"{part.file.name}: {'; '.join(found)}"] if found else []
    if wrong:
        raise BaseError(f"the weights in {source.weights} do not fit; nothing was imported. {'. '.join(wrong)}.")
    side = (parts["unet"].module.config.sample_size or 64) * scale_factor(parts["vae"].module)
    height, width = (round(length * side / 512 / 8) * 8 for length in config.resolution)
    licence = f"{origin}; {pretrained.SD_LICENCE} for what descends from Stable Diffusion"
    config = dataclasses.replace(
        config,
        name=name,
        resolution=(height, width),
        provenance={
            "imported_from": origin.partition(",")[0],
            "stable_diffusion": source.stable_diffusion.resolve().name,
            "vae": source.vae.resolve().name,
            "licence": licence,
            "version": __version__,
        },
    )
    lock = cache.lock(f"base-{name}", waiting=note, what=f"the base {name}")
    with lock, cache.publish_folder("base", name) as target:
        for done, (part, each) in enumerate(parts.items()):
            if progress:
                progress(done, len(parts), f"writing {part}")
            save_config(each.module, target / part)
            write_weights(each.tensors(), target / config.network.module_files(part)[-1])
        save_description(config, dict(schedule), target)
    if progress:
        progress(len(parts), len(parts), "")
    return cache.path_of("base", name)
