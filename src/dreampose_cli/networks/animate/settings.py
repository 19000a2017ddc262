"""The conventions in which the members of the family differ, as data: one code path serves them all. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bases.families import FamilySettings

if TYPE_CHECKING:
    from ...bases.config import BaseConfig

CHOICES = {
    "fused_blocks": ("midup", "full", "none"),
    "reference_tokens": ("all", "mean"),
    "reference_timestep": ("current", "zero"),
    "context_tokens": ("text", "image"),
    "pose_input": ("controlnet", "guider"),
    "resnet_norms": ("clip", "frame"),
    "noise": ("tiled", "independent", "shared"),
    "photo_resize": ("bicubic", "lanczos"),
}


def settings_of(config: BaseConfig) -> AnimateSettings:
    """The family's own part of the config of one of its bases."""
    assert isinstance(config.network, AnimateSettings)
    return config.network


@dataclass(frozen=True)
class AnimateSettings(FamilySettings):
    """The family's own part of `base.json`. The defaults are MagicAnimate's (arXiv 2311.16498), in its authors' code.

    With windows of 1 and 0 motion modules frames are denoised one by one.
    """

    fused_blocks: str = "midup"  # self-attention that reads the photo: middle and up blocks, "full", all, or "none" of them
    reference_tokens: str = "all"  # what it reads of it: a token for each place, or their "mean", one global token a block
    reference_timestep: str = "current"  # of the appearance network: the step's own, or "zero", once for a photo
    context_tokens: str = "text"  # in cross-attention: the empty prompt, or "image", CLIP's embedding of the photo
    prompt_tokens: int = 77  # of the empty prompt
    pose_input: str = "controlnet"  # residuals of a ControlNet, or "guider", features added after the first convolution
    null_sees_pose: bool = True  # whether the null rows of guidance follow the pose as well
    motion_modules: int = 20  # how many the UNet has; 0: none
    motion_mid_block: bool = False  # whether one of them lies in the middle block
    motion_positions: int = 24  # frames for which they have positions: the longest window
    resnet_norms: str = "clip"  # statistics of the UNet's residual blocks: over all frames of a window, or per "frame"
    noise: str = "tiled"  # a window's noise repeated along the clip; "independent" for each frame; "shared" by all
    window: int = 16  # frames denoised together
    overlap: int = 4  # frames that neighbouring windows share; there the predictions are averaged
    closed: bool = True  # the windows past the end wrap to the first frames, as in the authors' code
    pad_to: int = 16  # clips are padded to a multiple of it by their last frame, and cut back; 1: not at all
    fps: float | None = None  # frames a second of driving videos, unless told otherwise; None: their own
    photo_resize: str = "bicubic"  # how Pillow resizes photos and drawn poses: "bicubic" or "lanczos"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r} and not one of {', '.join(allowed)}")
        if self.window < 1 or not 0 <= self.overlap < self.window:
            raise ValueError(f"a window of {self.window} frames cannot overlap by {self.overlap}")
        if self.motion_modules and self.window > self.motion_positions:
            raise ValueError(
                f"the motion modules have positions for {self.motion_positions} frames, not for windows of {self.window}"
            )
        if self.pad_to < 1:
            raise ValueError(f"clips cannot be padded to a multiple of {self.pad_to}")

    @property
    def modules(self) -> dict[str, str]:
        unet = "diffusers:UNetMotionModel" if self.motion_modules else "diffusers:UNet2DConditionModel"
        tokens = {"prompt": ""}
        if self.context_tokens == "image":
            tokens = {"image_encoder": "transformers:CLIPVisionModelWithProjection"}
        control = "diffusers:ControlNetModel" if self.pose_input == "controlnet" else ""
        return {"unet": unet, "appearance": "", "control": control, "vae": "diffusers:AutoencoderKL", **tokens}

    @property
    def tuned_in_low_rank(self) -> bool:
        return True

    @property
    def needs_tuning(self) -> bool:
        return False

    @property
    def joint(self) -> bool:
        return True

    @property
    def needs_parts(self) -> bool:
        return True


MAGICANIMATE = AnimateSettings(fps=25.0)
ANIMATE_ANYONE = AnimateSettings(
    fused_blocks="full",
    reference_timestep="zero",
    context_tokens="image",
    pose_input="guider",
    motion_modules=21,
    motion_mid_block=True,
    motion_positions=32,
    resnet_norms="frame",
    noise="independent",
    window=24,
    pad_to=1,
    photo_resize="lanczos",
)
MAGICPOSE = AnimateSettings(
    fused_blocks="full",
    null_sees_pose=False,
    motion_modules=0,
    resnet_norms="frame",
    noise="shared",
    window=1,
    overlap=0,
    pad_to=1,
)

# The noise schedules, as a diffusers scheduler config. None of the authors reads the one next to Stable Diffusion.
_DDIM = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
}
EPS_LINEAR = _DDIM  # MagicAnimate
V_ZERO_SNR = {  # AnimateAnyone
    **_DDIM,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
EPS_SCALED_LINEAR = {**_DDIM, "beta_schedule": "scaled_linear", "set_alpha_to_one": False}  # MagicPose
