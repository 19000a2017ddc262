"""`render` on a base that denoises a clip as a whole (`networks.animate`): from a photo and poses, as files, to videos.

What a window needs of the poses is drawn once, into a file that goes with the render, so that memory does not grow with the
clip; then latents are denoised and frames decoded one by one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import media
from ..bases.config import BaseConfig
from ..bases.schedule import check_steps, read_schedule
from ..device import is_out_of_memory, pick_device, pick_dtype, release
from ..errors import OutOfMemoryError, PoseError, UsageError
from ..inference.joint import decode_frames, denoise_clip
from ..media.fitting import Fit, fit_pose
from ..media.metadata import NOTICE
from ..networks.animate.pictures import clip_pixels, fit
from ..networks.animate.settings import AnimateSettings, settings_of
from ..networks.model_cache import ModelCache
from ..networks.network import Network
from ..poses.control_picture import draw_control_picture
from ..poses.extraction import load_poses
from ..poses.files import DEFAULT_FPS, is_pose_source
from ..poses.part_labels import open_label_pictures, read_control_frames
from ..poses.sequence import PoseSequence, subsequence
from ..poses.skeleton_picture import draw_skeleton
from ..reporting import Note, Progress, no_note
from ..sampling import context_windows, joint_noise, make_sampler
from ..subjects.loading import load_subject
from ..version import __version__
from .options import RenderOptions

if TYPE_CHECKING:
    from .render_request import Request

ALL_LEVELS = (0.0, 1.0)
LARGE = 256 * 256  # pixels of a frame from which on a CPU needs hours and not minutes
WINDOW_TFLOP = 18.4  # of one row of guidance, 16 frames of 512x512
CONTROL_TFLOP = 0.28 * 16


@dataclass(frozen=True)
class Plan:
    """What is settled before a frame is computed: the base's settings with what was asked for in their place."""

    config: BaseConfig
    settings: AnimateSettings
    fit: str
    fps: float | None
    sampler: str
    steps: int
    guidance: dict[str, float]


def plan(options: RenderOptions, config: BaseConfig, schedule: dict[str, Any], factor: int = 8) -> Plan:
    """The options in place of the base's own values. Raises UsageError for what cannot go together.

    size (height, width): photo and poses are resized to it whatever their aspect. window: (frames, overlap).
    """
    settings = settings_of(config)
    if options.size is not None:
        height, width = options.size
        if height % factor or width % factor:
            raise UsageError(f"--size {width}x{height}: both sides must be multiples of {factor} on this base.")
        config = replace(config, resolution=options.size)
    if options.window is not None:
        size, overlap = options.window
        if settings.motion_modules and size > settings.motion_positions:
            raise UsageError(
                f"--window {size}: the base {config.name} knows windows of at most {settings.motion_positions} frames."
            )
        settings = replace(settings, window=size, overlap=overlap)
    if options.noise == "per-frame":
        settings = replace(settings, noise="independent")
    sampling = config.sampling
    guidance = dict(sampling.guidance)
    if options.image_guidance is not None:
        guidance["image"] = options.image_guidance
    steps = options.steps or sampling.steps
    check_steps(steps, schedule)
    return Plan(
        config,
        settings,
        "stretch" if options.size is not None else config.fit,
        options.fps or settings.fps,
        options.sampler or sampling.sampler,
        steps,
        guidance,
    )


class ControlFrames:
    """The drawn control of a clip, uint8 (N, H, W, 3), in a file that is gone with this object."""

    def __init__(self, frames: Iterator[np.ndarray], size: tuple[int, int], fps: float) -> None:
        self.size, self.fps = size, fps
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the object
        self._length = 0
        for frame in frames:
            self._file.write(np.ascontiguousarray(frame).tobytes())
            self._length += 1
        self._file.flush()
        self._frames = np.memmap(self._file, np.uint8, "r", shape=(self._length, *size, 3))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> np.ndarray:
        """Frame `i`, or the last one beyond the end: clips are padded by it."""
        return np.array(self._frames[min(i, self._length - 1)])

    def pictures(self, frames: list[int]) -> torch.Tensor:
        """(len(frames), 3, H, W) in [0, 1]."""
        chosen = torch.from_numpy(np.stack([self[i] for i in frames]))
        return chosen.permute(0, 3, 1, 2).float() / 255.0


def control_frames(
    source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> ControlFrames:
    """The control pictures of one pose source. Raises MediaError, PoseError, UsageError."""
    config, size = plan.config, plan.config.resolution
    if options.pose_pictures:
        with media.open_frames(source, fps=plan.fps, start=options.start, end=options.end) as pictures:
            drawn = (fit(picture, size, plan.fit, plan.settings.photo_resize) for picture in pictures)
            return ControlFrames(drawn, size, pictures.fps)
    if config.poses.kind == "keypoints":
        found = _poses(source, plan, options, progress, note)
        skeletons = (draw_skeleton(frame, found.size) for frame in found)
        drawn = (fit(picture, size, plan.fit, plan.settings.photo_resize) for picture in skeletons)
        return ControlFrames(drawn, size, found.fps)
    frames, fps = _label_frames(source, plan, options, progress, note)
    labels = (fit_pose(frame, size, plan.fit) for frame in frames)
    return ControlFrames((draw_control_picture(frame) for frame in labels), size, fps)


def _label_frames(
    source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> tuple[Iterable[np.ndarray], float]:
    """The pose frames (3, H, W) of a source of which I counts, and their rate: of poses, of label pictures, of control
    pictures that are drawn already, or else by the base's estimator."""
    if not is_pose_source(source):
        labels = open_label_pictures(source, plan.fps or DEFAULT_FPS)
        if labels is not None:
            part = subsequence(labels, plan.fps, options.start, options.end)
            return part, part.fps
        drawn = read_control_frames(source, fps=plan.fps, start=options.start, end=options.end)
        if drawn is not None:
            note(f"{source} is a drawing of DensePose already; its part labels are read from the colours.")
            return drawn
    sequence = _poses(source, plan, options, progress, note)
    if not sequence.has_parts:
        raise PoseError(
            f"{source} knows no body parts, which the base {plan.config.name} follows; take the poses from the video."
        )
    return sequence, sequence.fps


def _poses(source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note) -> PoseSequence:
    """The poses of a source in the kind that the base follows."""
    return load_poses(
        source,
        estimator=options.estimator or plan.config.estimator,
        kind=plan.config.poses.kind,
        facing=options.facing,
        interpolate=options.interpolate,
        fps=plan.fps,
        start=options.start,
        end=options.end,
        device=options.device,
        progress=progress,
        note=note,
    )[0]


def padded(frames: int, multiple: int) -> int:
    """The number of frames that a clip is padded to."""
    return -(-frames // multiple) * multiple


def read_start_noise(path: Path, frames: int, shape: tuple[int, int, int], multiple: int) -> torch.Tensor:
    """The noise (N, C, h, w) in a .npy file float32 (1, C, N, h, w); N is `frames`, or what they are padded to.

    Raises UsageError for any other file.
    """
    try:
        noise = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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
    progress: Progress | None = None,
    note: Note = no_note,
) -> Iterator[np.ndarray]:
    """The frames uint8 (h, w, 3) of one clip of the person in `photo`, without the padding of the photo.

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
    windows = context_windows(len(start), settings.window, settings.overlap, settings.closed)
    _say_how_long(network, plan, windows, note)
    picture = fit(photo, size, plan.fit, settings.photo_resize)
    views = network.views(picture[None])
    if views.clip is not None:  # as CLIP's authors' preprocessing sees it, of the photo as it came
        views = replace(views, clip=clip_pixels(photo, views.clip.shape[-1]))
    with torch.inference_mode():
        reference = network.reference(views)

    def denoise(in_turn: bool) -> torch.Tensor:
        return denoise_clip(
            network,
            reference,
            controls.pictures,
            start.to(network.device),
            make_sampler(plan.sampler, network.schedule),
            plan.steps,
            network.branches(plan.guidance),
            windows,
            guidance_interval=options.guidance_interval or ALL_LEVELS,
            in_turn=in_turn,
            on_window=(lambda done, total: progress(done, total, "denoising windows")) if progress else None,
        )

    in_turn = options.memory == "low"
    latents = None
    try:
        latents = denoise(in_turn)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if latents is None:  # not within the handler: while the error lives, so do the tensors that filled the memory
        release(network.device)
        if in_turn:
            raise _too_little_memory(network, plan)
        note(f"{network.device} ran out of memory; starting again with one branch of guidance at a time.")
        try:
            latents = denoise(True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise _too_little_memory(network, plan) from error
    rows, columns = Fit.of(photo.shape[:2], size, plan.fit).box
    for i, frame in enumerate(decode_frames(network, latents[: len(controls)])):
        frame = frame[rows, columns]
        if options.side_by_side:
            frame = np.concatenate([picture[rows, columns], controls[i][rows, columns], frame], axis=1)
        if progress:
            progress(i + 1, len(controls), "frames")
        yield frame


def _too_little_memory(network: Network, plan: Plan) -> OutOfMemoryError:
    height, width = plan.config.resolution
    return OutOfMemoryError(
        f"{network.device} has too little memory for windows of {plan.settings.window} frames of {width}x{height}; give "
        f"--window {max(2, plan.settings.window // 2)}:{plan.settings.overlap // 2}, a smaller --size, or --device cpu."
    )


def _say_how_long(network: Network, plan: Plan, windows: list[list[int]], note: Note) -> None:
    """A line on what is to be computed, where the device is a CPU and frames are large."""
    height, width = plan.config.resolution
    if network.device.type != "cpu" or height * width < LARGE:
        return
    rows = sum(branch.weight != 0.0 for branch in network.branches(plan.guidance))
    frames = sum(len(window) for window in windows) * plan.steps
    tflop = frames / 16 * (rows * WINDOW_TFLOP + CONTROL_TFLOP) * height * width / 512**2
    note(f"about {tflop:,.0f} TFLOP are to be computed: hours on a CPU; fewer --steps or a smaller --size take less.")


def render_clips(
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
    clips = [control_frames(Path(source), settled, options, progress, note) for source in options.poses]
    if media.output_kind(targets[0]) == "png" and len(clips[0]) > 1:
        raise UsageError(
            f"{options.output}: a .png holds one frame and there are more; use .mp4, .gif, .webp or a folder."
        )
    if request.record is None:
        assert options.photo is not None  # `read_request` has opened it
        network, photo = (model_cache or ModelCache()).base(home, device, dtype), media.read_photo(options.photo)
        who = f"photo {Path(options.photo).name}"
    else:
        subject = load_subject(request.record, home, options.photo_index, device, dtype, model_cache)
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
        media.write_frames(
            target,
            render_clip(network, settled, options, photo, controls, progress, note),
            fps=controls.fps,
            metadata={**about, "poses": Path(source).name},
            audio_from=Path(source) if source in request.heard else None,
            audio_start=options.start or 0.0,
            overwrite=options.overwrite,
            signing_key=request.signing_key,
        )
    return sum(len(controls) for controls in clips), used
