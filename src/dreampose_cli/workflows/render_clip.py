"""`render` on a base that denoises a clip as a whole (`networks.animate`): from a photo and poses, as files, to videos.

What a window needs of the poses is drawn once, into a file that goes with the render, so that memory does not grow with the
clip; then latents are denoised and frames decoded one by one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import media
from ..bases.schedule import read_schedule
from ..cache import Cache, file_digest
from ..cache import key as cache_key
from ..device import is_out_of_memory, offload, pick_device, pick_dtype, release, slow_format
from ..errors import OutOfMemoryError, UsageError
from ..inference.clip import counted
from ..inference.joint import decode_frames, denoise_clip
from ..inference.joint_plan import plan_clip
from ..inference.kept_frames import KeptFrames, kept_frames
from ..inference.kept_latents import NAME as LATENTS
from ..inference.kept_latents import KeptLatents
from ..media.fitting import Fit
from ..media.metadata import NOTICE
from ..networks.animate.pictures import clip_pixels, fit
from ..networks.model_cache import ModelCache
from ..networks.network import Network, Views
from ..poses.damaged import DAMAGED_ARRAY
from ..reporting import Caution, Note, Progress, no_note
from ..sampling import ALL_LEVELS, context_windows, joint_noise, make_sampler
from ..subjects.loading import load_subject
from ..version import __version__
from .clip_plan import Plan, plan
from .control_frames import ControlFrames, control_frames, look_for_somebody
from .options import RenderOptions
from .render_request import content

if TYPE_CHECKING:
    from .render_request import Request

LARGE = 256 * 256  # pixels of a frame from which on a CPU needs hours and not minutes
WINDOW_TFLOP = 18.4  # of one row of guidance, 16 frames of 512x512
CONTROL_TFLOP = 0.28 * 16


def padded(frames: int, multiple: int) -> int:
    """The number of frames that a clip is padded to."""
    return -(-frames // multiple) * multiple


def read_start_noise(path: Path, frames: int, shape: tuple[int, int, int], multiple: int) -> torch.Tensor:
    """The noise (N, C, h, w) in a .npy file float32 (1, C, N, h, w); N is `frames`, or what they are padded to.

    Raises UsageError for any other file.
    """
    try:
        noise = np.load(path, allow_pickle=False)
    except (OSError, *DAMAGED_ARRAY) as error:
        raise UsageError(f"--start-noise {path} cannot be read as an .npy file of numbers: {error}.") from error
    channels, height, width = shape
    most = max(padded(frames, multiple), frames)
    fits = noise.ndim == 5 and noise.shape[:2] == (1, channels) and noise.shape[3:] == (height, width)
    if noise.dtype != np.float32 or not fits or not frames <= noise.shape[2] <= most:
        wanted = f"{frames}" if most == frames else f"{frames} to {most}"
        raise UsageError(
            f"--start-noise {path} is {noise.dtype} {noise.shape}, but must be float32 (1, {channels}, {wanted}, {height}, "
            f"{width}) for this clip."
        )
    return torch.from_numpy(noise[0]).transpose(0, 1).contiguous()


def render_clip(
    network: Network,
    plan: Plan,
    options: RenderOptions,
    photo: np.ndarray,
    controls: ControlFrames,
    kept: KeptFrames | None = None,
    progress: Progress | None = None,
    note: Note = no_note,
) -> Iterator[np.ndarray]:
    """The frames uint8 (h, w, 3) of one clip of the person in `photo` that are not `kept` yet, without the padding of the
    photo.

    Raises OutOfMemoryError, UsageError.
    """
    settings, size = plan.settings, plan.config.resolution
    factor = network.vae_scale_factor
    shape = (network.latent_channels, size[0] // factor, size[1] // factor)
    if options.start_noise is not None:
        multiple = max(settings.pad_to, settings.window)
        start = read_start_noise(options.start_noise, len(controls), shape, multiple)
    else:
        count = padded(len(controls), settings.pad_to)
        start = joint_noise(settings.noise, count, shape, options.seed, settings.pad_to)
    _say_how_long(network, plan, len(start), note)
    picture = fit(photo, size, plan.fit, settings.photo_resize)
    views = network.views(picture[None])
    if views.clip is not None:  # as CLIP's authors' preprocessing sees it, of the photo as it came
        views = replace(views, clip=clip_pixels(photo, views.clip.shape[-1]))
    latents = _denoise(network, plan, options, controls, views, start, kept, progress, note)
    rows, columns = Fit.of(photo.shape[:2], size, plan.fit).box
    done = kept.count if kept else 0
    for i, frame in enumerate(decode_frames(network, latents[done : len(controls)]), start=done):
        frame = frame[rows, columns]
        if options.side_by_side:
            frame = np.concatenate([picture[rows, columns], controls[i][rows, columns], frame], axis=1)
        yield frame


def _denoise(
    network: Network,
    plan: Plan,
    options: RenderOptions,
    controls: ControlFrames,
    views: Views,
    start: torch.Tensor,
    kept: KeptFrames | None,
    progress: Progress | None,
    note: Note,
) -> torch.Tensor:
    """Noise (N, C, h, w) -> latents, from where an earlier render was stopped. Where memory runs out, less is computed at
    once, from the last window on."""
    settings, size = plan.settings, plan.config.resolution
    branches = network.branches(plan.guidance)
    used = sum(branch.weight != 0.0 for branch in branches)
    encoders = [network.module(name) for name in network.encoders if name.partition(".")[0] not in network.away]
    for module in encoders:
        module.to(network.device)  # where a clip before this one has offloaded them
    with torch.inference_mode():
        reference = network.reference(views)
        if options.appearance_once:
            reference = network.at_timestep(reference, torch.tensor(0))
    if options.memory == "low":
        offload(*encoders)
    joint_plan = plan_clip(network, size, settings.window, settings.overlap, used, options.memory)
    file = None if kept is None or kept.file is None else kept.file.with_name(LATENTS)
    latents = KeptLatents(file, (joint_plan.window, joint_plan.overlap), kept.cache if kept is not None else None)
    if latents.latest is not None:
        note(f"the render resumes in step {min(latents.latest.state.step + 1, plan.steps)} of {plan.steps}.")
    while True:
        if joint_plan.window != settings.window:
            note(
                Caution(
                    f"{_too_little(network, plan)}, so that it is rendered in {joint_plan}, which changes the result."
                )
            )
        network.offload_only(*network.occasional if joint_plan.offload else ())
        windows = context_windows(len(start), joint_plan.window, joint_plan.overlap, settings.closed)
        try:
            return denoise_clip(
                network,
                reference,
                controls.pictures,
                start.to(network.device),
                make_sampler(plan.sampler, network.schedule),
                plan.steps,
                branches,
                windows,
                guidance_interval=options.guidance_interval or ALL_LEVELS,
                in_turn=joint_plan.in_turn,
                on_window=(lambda done, total: progress(done, total, "denoising windows")) if progress else None,
                kept=latents,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not within the handler: while the error lives, so do the tensors that filled the memory.
        release(network.device)
        less = joint_plan.smaller(network.device.type)
        if less is None:
            raise OutOfMemoryError(f"{_too_little(network, plan)}; give a smaller --size, or --device cpu.")
        if less.window == joint_plan.window:
            note(f"{network.device} ran out of memory; continuing with {less}.")
        else:
            latents.replan((less.window, less.overlap))
        joint_plan = less


def _too_little(network: Network, plan: Plan) -> str:
    height, width = plan.config.resolution
    return f"{network.device} has too little memory for windows of {plan.settings.window} frames of {width}x{height}"


def _say_how_long(network: Network, plan: Plan, count: int, note: Note) -> None:
    """A line on what is to be computed, where the device is a CPU and frames are large."""
    height, width = plan.config.resolution
    if network.device.type != "cpu" or height * width < LARGE:
        return
    rows = sum(branch.weight != 0.0 for branch in network.branches(plan.guidance))
    settings = plan.settings
    windows = context_windows(count, settings.window, settings.overlap, settings.closed)
    frames = sum(len(window) for window in windows) * plan.steps
    tflop = frames / 16 * (rows * WINDOW_TFLOP + CONTROL_TFLOP) * height * width / 512**2
    note(f"about {tflop:,.0f} TFLOP are to be computed: hours on a CPU; fewer --steps or a smaller --size take less.")


def render_clips(
    cache: Cache,
    options: RenderOptions,
    request: Request,
    model_cache: ModelCache | None = None,
    extra_metadata: dict[str, Any] | None = None,
    progress: Progress | None = None,
    note: Note = no_note,
) -> tuple[int, dict[str, Any]]:
    """Render every pose source of a request to its target; the number of frames, and the settings used.

    All pose sources are read before the weights are loaded: a bad one is said at once.
    """
    config, home, targets = request.config, request.home, request.targets
    settled = plan(options, config, read_schedule(home))
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    if slow := slow_format(options.dtype, device):
        note(slow)
    clips = [control_frames(cache, Path(source), settled, options, progress, note) for source in options.poses]
    if media.output_kind(targets[0]) == "png" and len(clips[0]) > 1:
        raise UsageError(
            f"{options.output}: a .png holds one frame and there are more; use .mp4, .gif, .webp or a folder."
        )
    estimator = next((clip.estimator for clip in clips if clip.estimator), None)
    if estimator is not None and options.photo is not None:
        look_for_somebody(cache, options.photo, estimator, options.device, note)
    model_cache = model_cache or ModelCache(lean=options.memory == "low")
    if request.record is None:
        assert options.photo is not None  # `read_request` has opened it
        network, photo = model_cache.base(home, device, dtype), media.read_photo(options.photo)
        who = f"photo {Path(options.photo).name}"
    else:
        subject = load_subject(cache, request.record, home, options.photo_index, device, dtype, model_cache)
        network, photo, who = subject.model, subject.picture[subject.fit.box], subject.label
    used = {
        "sampler": settled.sampler,
        "steps": settled.steps,
        "guidance": settled.guidance,
        "guidance_interval": options.guidance_interval or ALL_LEVELS,
        "seed": options.seed,
        "noise": settled.settings.noise if options.start_noise is None else Path(options.start_noise).name,
        "window": settled.settings.window,
        "overlap": settled.settings.overlap,
        "appearance_once": options.appearance_once,
        "size": settled.config.resolution,
    }
    about = {
        "software": f"dreampose-cli {__version__}",
        "notice": NOTICE,
        "who": who,
        "base": config.name,
        **used,
        **(extra_metadata or {}),
    }
    if len(targets) > 1:
        Path(options.output).mkdir(parents=True, exist_ok=True)
    for source, controls, target in zip(options.poses, clips, targets, strict=True):
        metadata = {**about, "poses": Path(source).name}
        label = f"frames of {Path(source).name}" if len(clips) > 1 else "frames"
        with kept_frames(cache, _key(options, request, source, metadata, target), 1, note) as kept:
            fresh = render_clip(network, settled, options, photo, controls, kept, progress, note)
            media.write_frames(
                target,
                counted(kept.then(fresh), len(controls), label, progress),
                fps=controls.fps,
                metadata=metadata,
                audio_from=Path(source) if source in request.heard else None,
                audio_start=options.start or 0.0,
                overwrite=options.overwrite,
                signing_key=request.signing_key,
            )
    return sum(len(controls) for controls in clips), used


def _key(options: RenderOptions, request: Request, source: Path, metadata: dict[str, Any], target: Path | str) -> str:
    """All that the latents and the frames of a clip depend on, but how they are fitted into memory."""
    noise = None if options.start_noise is None else file_digest(options.start_noise)
    drawn = [options.pose_pictures, options.estimator, options.facing, options.interpolate, noise]
    where = [options.dtype, str(pick_device(options.device))]
    return cache_key("clip", metadata, drawn, content(options, request, source), where, os.path.realpath(target))
