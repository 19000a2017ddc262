"""Which stages a training has, and how each is trained: settled from the options before weights or data are touched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cache import Cache
from ..errors import UsageError
from ..networks.network import Network, Stage
from ..training.frames import pose_kind
from ..training.init import is_stable_diffusion
from ..training.loop import LoopSettings
from ..training.recipes import PRESETS, Preset, preset_of, resolve_settings
from .options import TrainOptions

MOTION = "motion"  # the stage that `--frames` asks for
FRAMES = {"mannequins": 8, "people": 16}  # of a clip that motion is learned from, where nothing else is said


@dataclass(frozen=True)
class Plan:
    """names: the stages of this training in order, of which this run trains those `chosen`. overrides: what a new base is to
    be like, by the options that say so; companions: what is added to a Stable Diffusion. asked_frames: of a clip."""

    preset_name: str
    names: list[str]
    chosen: list[str]
    companions: Mapping[str, str | None]
    overrides: Mapping[str, Any]
    asked_frames: int | None = None

    @property
    def preset(self) -> Preset:
        return PRESETS[self.preset_name]

    def stage(self, model: Network, name: str) -> Stage:
        return next(stage for stage in model.stages if stage.name == name)

    def learning(self, model: Network) -> dict[str, tuple[str, ...]]:
        """The modules that learn in each of the stages."""
        also = self.preset.also_learns
        return {stage.name: (*stage.modules, *also.get(stage.name, ())) for stage in model.stages if stage.name in self.names}

    def adds_modules(self, name: str) -> bool:
        """Whether the network may change with the stage, so that its settings are not known before."""
        return name == MOTION

    def takes_clips(self, name: str, model: Network | None) -> bool:
        return model is not None and self.stage(model, name).data == "clips"

    def frames(self, model: Network | None) -> int:
        """How many frames a clip has that motion is learned from."""
        if self.asked_frames or model is None:
            return self.asked_frames or 1
        return model.context.size if model.context.size > 1 else FRAMES[model.config.people]

    def looks_apart(self, model: Network, name: str) -> bool:
        """Whether a stage has a folder of its own for what there is to look at: where another one trains the denoiser."""
        return any(stage.loss == "denoising" and stage.name != name for stage in model.stages)


def plan_stages(cache: Cache, options: TrainOptions) -> Plan:
    """The stages of a training. Raises UsageError where the request contradicts itself."""
    companions = {"--image-encoder": options.image_encoder, "--control": options.control}
    name = preset_of(options.preset, options.base, companions, options.vae, options.epochs, options.max_steps)
    preset = PRESETS[name]
    if options.eight_bit_adam and options.optimizer not in (None, "adamw"):
        raise UsageError(f"--8bit-adam is adamw, and --optimizer {options.optimizer} is not; leave one of them out.")
    if MOTION not in preset.stages and (options.frames or options.stride != 1):
        raise UsageError(f"--{'frames' if options.frames else 'stride'} means nothing to the preset {name}; leave it out.")
    if options.control_alone and "control" not in preset.stages:
        raise UsageError(f"--control-alone means nothing to the preset {name}; leave it out.")
    given = {
        "--size": options.size,
        "--pose-window": options.pose_window,
        "--pose-channels": options.pose_channels,
        "--unet-image-input": options.unet_image_input,
        "--clip-only": options.clip_only or None,
        "--null-pose": options.null_pose,
        "--reference": options.reference,
    }
    overrides = {option: value for option, value in given.items() if value is not None}
    if overrides and not preset.family:
        raise UsageError(f"{next(iter(overrides))} means nothing to the preset {name}; leave it out.")
    new = not options.base or (preset.draws_keypoints and is_stable_diffusion(cache, options.base))
    if new and preset.draws_keypoints and pose_kind(options.videos, options.estimator) == "keypoints":
        overrides["keypoints"] = True
    wanted = options.stages
    names = [stage for stage in preset.stages if stage not in preset.from_scratch or not (options.base or options.vae)]
    if unknown := [stage for stage in wanted or [] if stage not in names]:
        raise UsageError(f"the preset {name} has no stage {unknown[0]} here; it has {', '.join(names)}.")
    asked = set(wanted or ()) | ({MOTION} if options.frames else set())
    names = [stage for stage in names if stage not in preset.optional or stage in asked]
    chosen = [stage for stage in names if wanted is None or stage in wanted]
    between = names[names.index(chosen[0]) : names.index(chosen[-1]) + 1]
    if between != chosen:
        missing = next(stage for stage in between if stage not in chosen)
        raise UsageError(f"the stage {chosen[-1]} builds on {missing}, which --stage leaves out; add --stage {missing}.")
    if options.base and wanted and not is_stable_diffusion(cache, options.base):  # what comes before is in the base
        folder = options.output / "checkpoints"
        begun = {stage for stage in names if options.resume and (folder / stage).is_dir()}
        names = [stage for stage in names if stage in chosen or stage in begun]
    if chosen[0] != names[0] and options.overwrite:
        raise UsageError(
            f"the stage {chosen[0]} builds on {names[0]} in {options.output}; leave --overwrite or --stage out."
        )
    return Plan(name, names, chosen, companions, overrides, options.frames)


def settings_of_stages(
    plan: Plan, options: TrainOptions, people: bool, processes: int, autocast: str | None
) -> dict[str, LoopSettings]:
    """How each stage is trained: as the preset has it (of networks of people, if they differ), but for what is asked for."""
    launched_with = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    changes: dict[str, Any] = {
        "save_every": options.save_every,
        "keep": options.keep,
        "learning_rate": options.learning_rate,
        "ema": options.ema,
        "steps": options.max_steps,
        "seed": options.seed,
        "autocast": autocast,
        "optimizer": "adamw" if options.eight_bit_adam else options.optimizer,
        "eight_bit_adam": options.eight_bit_adam,
        "gradient_accumulation_steps": options.gradient_accumulation_steps or launched_with,
    }
    stages = plan.preset.stages | (plan.preset.people if people else {})
    return {name: resolve_settings(name, stages[name], options.batch_size, processes, changes) for name in plan.names}
