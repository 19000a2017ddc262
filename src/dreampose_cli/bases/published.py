"""Bases for people by short names: which repositories they come from, which files of them, and what that takes. No torch.

`bases.pulling` downloads them and makes them bases in the store.
"""

from __future__ import annotations

from dataclasses import dataclass

from .repositories import Reference

_HALF, _WHOLE, _PICKLE = (
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
_TEXT = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
OPENRAIL = "CreativeML OpenRAIL-M"


def _one_of(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" if folder else name for name in names)


@dataclass(frozen=True)
class Source:
    """A repository and what is needed of it: of each of `files` the first that is there, halves of precision before wholes.

    `folder` is the one within it that an importer is given. `bytes`: what the files take, about.
    """

    reference: Reference
    licence: str
    files: tuple[tuple[str, ...], ...]
    bytes: float
    folder: str = ""


@dataclass(frozen=True)
class PublishedBase:
    """A base by its short name. `sources` by the importer's names for them; `bytes`: what the base takes in the store, about.

    importer: "package.module:function". drive: the id of a file on Google Drive that the weights come from, if they do.
    """

    name: str
    title: str
    licence: str
    sources: dict[str, Source]
    bytes: float
    importer: str
    follows: str  # what drives it
    needs: str  # what it takes to render with
    tuning: bool  # whether it needs to be tuned on a photo before it is any use
    estimator: str = "r50"
    halves: bool = True  # kept in float16, in which the authors' code computes; else in the precision they come in
    drive: str | None = None
    drive_bytes: float = 0.0

    @property
    def download(self) -> float:
        """Bytes to be downloaded, about."""
        return sum(source.bytes for source in self.sources.values()) + self.drive_bytes

    @property
    def where(self) -> str:
        """The source of the weights, in words."""
        if self.drive:
            return f"Google Drive {self.drive}"
        return str(next(iter(self.sources.values())).reference)


STABLE_DIFFUSION = Reference("stable-diffusion-v1-5/stable-diffusion-v1-5")
VAE = Reference("stabilityai/sd-vae-ft-mse")
IMAGE_ENCODER = Reference("lambdalabs/sd-image-variations-diffusers")
_VAE = Source(VAE, "MIT", (("config.json",), (_WHOLE, _PICKLE)), 0.34e9)

PUBLISHED = {
    base.name: base
    for base in (
        PublishedBase(
            "magicanimate",
            "MagicAnimate",
            "BSD-3-Clause",
            {
                "weights": Source(
                    Reference("zcxu-eric/MagicAnimate", "3d80ae8c50b289e55ee68deecc83afaab9c6a382"),
                    "BSD-3-Clause",
                    (
                        ("appearance_encoder/config.json",),
                        _one_of("appearance_encoder", _HALF, _WHOLE),
                        ("densepose_controlnet/config.json",),
                        _one_of("densepose_controlnet", _HALF, _WHOLE),
                        ("temporal_attention/temporal_attention.ckpt",),
                    ),
                    6.55e9,
                ),
                "stable_diffusion": Source(
                    STABLE_DIFFUSION,
                    OPENRAIL,
                    (
                        ("unet/config.json",),
                        _one_of("unet", _HALF, _WHOLE, _PICKLE),
                        ("text_encoder/config.json",),
                        _one_of("text_encoder", "model.fp16.safetensors", "model.safetensors", "pytorch_model.bin"),
                        *((f"tokenizer/{name}",) for name in _TEXT),
                    ),
                    1.97e9,
                ),
                "vae": _VAE,
            },
            5.16e9,
            "dreampose_cli.networks.animate.importers:import_magicanimate",
            "DensePose part labels",
            "a GPU with 8 GB",
            False,
        ),
        PublishedBase(
            "animate-anyone",
            "AnimateAnyone (Moore Threads)",
            "Apache-2.0",
            {
                "weights": Source(
                    Reference("patrolli/AnimateAnyone", "7fd8ff9dfb0e75c7b7fa2689e4795347b5996b9a"),
                    "Apache-2.0",
                    tuple(
                        (f"{name}.pth",)
                        for name in ("denoising_unet", "reference_unet", "pose_guider", "motion_module")
                    ),
                    8.71e9,
                ),
                "stable_diffusion": Source(STABLE_DIFFUSION, OPENRAIL, (("unet/config.json",),), 1e3),
                "vae": _VAE,
                "image_encoder": Source(
                    IMAGE_ENCODER,
                    "see https://huggingface.co/lambdalabs/sd-image-variations-diffusers",
                    (
                        ("image_encoder/config.json",),
                        _one_of("image_encoder", "model.safetensors", "pytorch_model.bin"),
                    ),
                    1.22e9,
                    "image_encoder",
                ),
            },
            5.13e9,
            "dreampose_cli.networks.animate.importers:import_animate_anyone",
            "keypoints (--estimator dwpose, extra [keypoints])",
            "a GPU with 12 GB",
            False,
            estimator="dwpose",
        ),
        PublishedBase(
            "dreampose",
            "DreamPose",
            "MIT (code); CreativeML OpenRAIL-M for what descends from Stable Diffusion",
            {
                "stable_diffusion": Source(
                    Reference("CompVis/stable-diffusion-v1-4", "ebb811dd71cdc38a204ecbdd6ac5d580f529fd8c"),
                    OPENRAIL,
                    (
                        ("unet/config.json",),
                        ("vae/config.json",),
                        _one_of("vae", _WHOLE, _PICKLE),
                        ("scheduler/scheduler_config.json",),
                    ),
                    0.34e9,
                ),
                "image_encoder": Source(
                    Reference("openai/clip-vit-base-patch32"),
                    "see https://huggingface.co/openai/clip-vit-base-patch32",
                    (("config.json",), ("preprocessor_config.json",), ("model.safetensors", "pytorch_model.bin")),
                    0.61e9,
                ),
            },
            4.2e9,
            "dreampose_cli.networks.dreampose.importer:import_downloaded",
            "DensePose U and V",
            "a GPU with 8 GB",
            True,
            halves=False,
            drive="10JjayW2mMqGxhUyM9ds_GHEvuqCTDaH3",
            drive_bytes=3.6e9,
        ),
    )
}
FOR_PEOPLE = "magicanimate"  # what is used where a GPU is there and nothing else was named
