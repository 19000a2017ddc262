"""The network of the reference-attention family: photos and poses condition it, `predict` is one batch.

    bank = appearance(photo latents, t)                        `reference`, `at_timestep`; `appearance.py`
    residuals = control(latents, t, control picture)           once for branches that it does not tell apart
    prediction = unet(latents, t, residuals)                   `unet.py`: the forward pass, with its motion modules

The UNet's self-attention looks over its own tokens and, but for null rows, over the bank's (`reference_attention.py`, which
names the papers). In place of the control AnimateAnyone has a pose guider, whose output is added to the UNet's input.

A clip is a window of frames that are denoised together; rows are frames of clips, clip by clip. Shapes: P photos, F frames
of a clip, R rows, latents (C, h, w), pictures (3, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...bases.config import BaseConfig
from ...errors import BaseError
from ..network import SHARED, AnyModule, Branch, Condition, ContextWindow, Network, Stage, Views, pictures_to_tensor
from .appearance import read_photos
from .modules import begin_as_copy, build_module, motion_count, start_motion
from .pictures import clip_pixels, control_pictures
from .reference_attention import Bank, Reading, attend_plainly, read_reference, write_reference
from .settings import AnimateSettings, settings_of
from .unet import clip_norm_count, forward, norm_motion_by_frame

NULL_SHARE = 0.1  # of the samples from which the null rows of guidance are learned


@dataclass(frozen=True)
class Reference:
    """All that depends on the photos alone: latents (P, C, h, w), tokens (P, T, D), and their bank where it is known.

    Where the appearance network follows the timestep, `AnimateNetwork.at` gives the bank of a step. A reference that has a
    bank keeps it: `at_timestep` once, and what it gave serves all steps.
    """

    latents: Tensor
    tokens: Tensor
    bank: Bank | None


@dataclass(frozen=True)
class AnimateCondition(Condition):
    """The condition of R rows, each with or without its photo and its pose.

    photo (R,): which photo of the reference; tokens and null_tokens (R, T, D); pose (R, ...), the control picture or the
    guider's features; sees_photo and sees_pose (R,) bool; frames, of a clip.
    """

    photo: Tensor
    tokens: Tensor
    null_tokens: Tensor
    pose: Tensor
    sees_photo: Tensor
    sees_pose: Tensor
    frames: int = field(metadata=SHARED)

    def drop(self, image: bool | Tensor, pose: bool | Tensor) -> AnimateCondition:
        """Without a photo a row attends to itself alone, and its tokens are null: zeros in place of CLIP's embedding, while
        the empty prompt says nothing anyway. Without a pose nothing of it is added."""
        image = torch.as_tensor(image, device=self.tokens.device).expand(self.rows)
        pose = torch.as_tensor(pose, device=self.tokens.device).expand(self.rows)
        return replace(
            self,
            tokens=torch.where(image[:, None, None], self.null_tokens, self.tokens),
            sees_photo=self.sees_photo & ~image,
            sees_pose=self.sees_pose & ~pose,
        )


class AnimateNetwork(Network):
    """The modules of `AnimateSettings.modules` as one network."""

    occasional = ("appearance", "control")

    def __init__(
        self,
        config: BaseConfig,
        modules: dict[str, AnyModule],
        processors: dict[str, Any],
        schedule: dict[str, Any],
    ):
        super().__init__(config, modules, processors, schedule)
        settings = self.settings
        motion = norm_motion_by_frame(self.unet)
        if motion != settings.motion_modules:
            raise BaseError(f"its UNet has {motion} motion modules, its settings name {settings.motion_modules}.")
        clip_norm_count(self.unet)
        read_reference(self.unet, settings.fused_blocks)
        write_reference(self.modules["appearance"], settings.fused_blocks)
        if settings.pose_input == "controlnet":
            attend_plainly(self.modules["control"])
        self.context = ContextWindow(settings.window, settings.overlap, settings.closed)

    @classmethod
    def build(cls, name: str, config: BaseConfig, modules: Mapping[str, AnyModule]) -> AnyModule:
        with torch.device("meta"):  # no weight is held twice
            return build_module(name, settings_of(config), modules["unet"])

    @property
    def settings(self) -> AnimateSettings:
        return settings_of(self.config)

    def views(self, pictures: np.ndarray, poses: np.ndarray | None = None) -> Views:
        """`Views.clip` from these pictures; its authors take the photo as it came (`clip_pixels`), whatever its size."""
        clip = None
        if self.settings.context_tokens == "image":
            size = self.modules["image_encoder"].config.image_size
            clip = torch.cat([clip_pixels(picture, size) for picture in pictures])
        return Views(pictures, None if poses is None else torch.as_tensor(poses), clip)

    def reference(self, views: Views, null: bool = True) -> Reference:
        """The photos' latents and tokens, and their bank where it does not follow the timestep."""
        latents = views.latents
        if latents is None:
            latents = self.encode(pictures_to_tensor(views.pictures, (-1.0, 1.0)).to(self.device))
        latents = latents.to(self.device, self.dtype)
        if self.settings.context_tokens == "text":
            tokens = self.modules["prompt"].tokens.expand(len(latents), -1, -1)
        else:
            assert views.clip is not None  # `views` prepares it for a base with an image encoder
            clip = views.clip.to(self.device, self.dtype)
            tokens = self.modules["image_encoder"](pixel_values=clip).image_embeds[:, None]
        reference = Reference(latents, tokens, None)
        zero = self.settings.reference_timestep == "zero"
        return self._with_bank(reference, torch.tensor(0)) if zero else reference

    def at_timestep(self, reference: Reference, t: Tensor) -> Reference:
        return reference if reference.bank is not None else self._with_bank(reference, t)

    def _with_bank(self, reference: Reference, t: Tensor) -> Reference:
        latents = reference.latents
        if self.settings.fused_blocks == "none":
            return replace(reference, bank={})
        timesteps = torch.as_tensor(t, device=latents.device).expand(len(latents))
        with self.borrowed("appearance") as appearance:
            bank = read_photos(appearance, latents, timesteps, reference.tokens)
        if self.settings.reference_tokens == "mean":
            bank = {block: tokens.mean(1, keepdim=True) for block, tokens in bank.items()}
        return replace(reference, bank=bank)

    def condition(self, reference: Reference, poses: Tensor) -> AnimateCondition:
        """Each photo with R / P frames, which are one clip.

        poses (R, n, 3, H, W) as I, U, V, of which the middle one's labels are drawn, or of a base that follows keypoints
        their drawings in [0, 1]; or control pictures (R, 3, H, W) in [0, 1], which are taken as they are.
        """
        photos, rows = len(reference.latents), len(poses)
        frames = rows // photos
        tokens = reference.tokens.repeat_interleave(frames, dim=0)
        if poses.dim() == 5:
            labels = self.config.poses.kind == "densepose"
            poses = control_pictures(poses) if labels else poses[:, poses.shape[1] // 2]
        pictures = poses.to(self.device, self.dtype)
        if self.settings.pose_input == "guider":
            with self.borrowed("control") as guider:
                pictures = guider(pictures)
        everything = torch.ones(rows, dtype=torch.bool, device=self.device)
        return AnimateCondition(
            photo=torch.arange(photos, device=self.device).repeat_interleave(frames),
            tokens=tokens,
            null_tokens=torch.zeros_like(tokens) if self.settings.context_tokens == "image" else tokens,
            pose=pictures,
            sees_photo=everything,
            sees_pose=everything,
            frames=frames,
        )

    def branches(self, guidance: Mapping[str, float]) -> tuple[Branch, ...]:
        """u + g (c - u), where the null rows u are without the photo, and without the pose in some members."""
        g = guidance["image"]
        return Branch(1.0 - g, drop_image=True, drop_pose=not self.settings.null_sees_pose), Branch(g)

    def predict(
        self, latents: Tensor, t: Tensor, condition: AnimateCondition, reference: Reference | None = None
    ) -> Tensor:
        latents = latents.to(self.device, self.dtype)
        timesteps = torch.as_tensor(t, device=self.device).expand(len(latents))
        features, residuals = self._pose(latents, timesteps, condition)
        prediction = forward(
            self.modules["unet"],
            latents,
            timesteps[:: condition.frames],
            condition.tokens,
            frames=condition.frames,
            reference=_reading(condition, reference),
            features=features,
            residuals=residuals,
            clip_norms=self.settings.resnet_norms == "clip",
        )
        assert prediction is not None  # only the appearance network ends before its output
        return prediction.float()

    def _pose(self, latents: Tensor, timesteps: Tensor, condition: AnimateCondition):
        """The guider's features (R, C0, h, w) or None, and the ControlNet's residuals or None, the middle's last."""
        seen = condition.sees_pose
        if self.settings.pose_input == "guider":
            return _where(seen, condition.pose), None
        if not seen.any():
            return None, None
        # The branches of guidance differ in what they see of the photo: what the ControlNet takes is often the same.
        inputs = (latents, timesteps, condition.tokens, condition.pose)
        n = condition.frames if _repeats(condition.frames, *inputs) else len(latents)
        with self.borrowed("control") as controlnet:
            down, middle = controlnet(
                latents[:n],
                timesteps[:n],
                encoder_hidden_states=condition.tokens[:n],
                controlnet_cond=condition.pose[:n],
                return_dict=False,
            )
        again = len(latents) // n
        return None, [_where(seen, part.repeat(again, 1, 1, 1) if again > 1 else part) for part in (*down, middle)]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """PoseMaster Fusion's and MagicPose's order: what carries the appearance, without a pose; the pose control, with all
        else as it is; motion, on clips. The null rows that guidance needs are learned where what they see is learned."""
        motion = tuple(name for name, _ in self.unet.named_modules() if name.endswith(".motion_modules"))
        null = NULL_SHARE if self.settings.null_sees_pose else 0.0
        return (
            Stage("vae", ("vae",), "autoencoder"),
            Stage("appearance", ("unet", "appearance"), "denoising", dropout=(0.0, 1.0 - NULL_SHARE, NULL_SHARE)),
            Stage("control", ("control",), "denoising", dropout=(null, 0.0, 0.0)),
            Stage(
                "motion",
                tuple(f"unet.{name}" for name in motion),
                "denoising",
                data="clips",
                dropout=(null, 0.0, NULL_SHARE - null),
            ),
        )

    def learn(self, names: Sequence[str]) -> dict[str, AnyModule]:
        """As in every family; where the UNet learns, its motion modules do not, but by their own names."""
        learning = super().learn(names)
        if "unet" in names:
            for name, module in self.unet.named_modules():
                if name.endswith(".motion_modules"):
                    module.requires_grad_(False)
        return learning

    def entering(self, stage: str, frames: int, seed: int) -> AnimateNetwork:
        """For "control": a ControlNet that says nothing yet is made a copy of the UNet's first half, as it is now (section 3
        of ControlNet, arXiv 2302.05543). For "motion": new motion modules, unless there are some."""
        if stage == "control" and self.settings.pose_input == "controlnet":
            begin_as_copy(self.modules["control"], self.unet)
        if stage != "motion":
            return self
        if self.settings.motion_modules:
            if frames > self.settings.motion_positions:
                raise BaseError(
                    f"the motion modules of {self.config.name} know clips of {self.settings.motion_positions} frames and not of "
                    f"{frames}; ask for fewer with --frames."
                )
            return self
        settings = replace(
            self.settings,
            motion_modules=motion_count(self.unet, self.settings.motion_mid_block),
            motion_positions=max(self.settings.motion_positions, frames),
            window=frames,
            overlap=min(frames // 4, frames - 1),
            closed=False,
            noise="independent",
        )
        config = replace(self.config, network=settings)
        modules = self.modules | {"unet": start_motion(self.unet, settings, seed)}
        return AnimateNetwork(config, modules, self.processors, self.schedule).to(self.device)

    @property
    def tuning_stages(self) -> tuple[Stage, ...]:
        """The attention that carries the subject, in low rank: of the UNet, but for time, and of the appearance network; then
        the decoder, as in DreamPose (section 4.4)."""
        return (
            Stage("network", ("unet", "appearance"), "denoising", r"(^|\.)attentions\..*\.to_(q|k|v|out\.0)$"),
            Stage("decoder", ("vae.decoder",), "reconstruction"),
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        once = ("appearance",) if self.settings.reference_timestep == "zero" else ()
        tokens = "prompt" if self.settings.context_tokens == "text" else "image_encoder"
        return (*once, tokens, "vae.encoder", "vae.quant_conv")


def _reading(condition: AnimateCondition, reference: Reference | None) -> Reading | None:
    seeing = condition.sees_photo
    if not seeing.any():
        return None
    assert reference is not None and reference.bank is not None  # rows that see the photo need what `at_timestep` gave
    return Reading(reference.bank, condition.photo, None if seeing.all() else seeing.nonzero()[:, 0])


def _where(seen: Tensor, part: Tensor) -> Tensor:
    """Rows (R, ...) where `seen` (R,), zeros elsewhere."""
    return part if seen.all() else part * seen.to(part).view(-1, *[1] * (part.dim() - 1))


def _repeats(frames: int, *parts: Tensor) -> bool:
    """Whether every clip of `frames` rows is the same as the first in all of `parts`."""
    return all(torch.equal(part, part[:frames].repeat(len(part) // frames, *[1] * (part.dim() - 1))) for part in parts)
