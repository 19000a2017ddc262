"""The options of every workflow: one frozen dataclass each, made once and passed on whole. Imports nothing heavy.

The command line makes them from what was typed; Python callers make them themselves. What a field means is said where
`dreampose COMMAND --help` says it; None means the base's own value, or "not asked for".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TuneOptions:
    """A subject to be tuned (phase 2) from one or more photos of one person in one outfit.

    poses: pose sources, one a photo, in place of the estimator. name: to find the subject by. steps, learning_rate: of
    UNet and adapter; decoder_steps, decoder_learning_rate: of the VAE decoder. lora_rank: of a low-rank subject, 0 tunes
    all weights. memory: "auto", or "low" to spare it, which changes nothing else but rounding.
    """

    photos: Sequence[Path]
    base: str | None = None
    name: str | None = None
    poses: Sequence[Path] | None = None
    estimator: str | None = None
    steps: int | None = None
    decoder_steps: int | None = None
    learning_rate: float | None = None
    decoder_learning_rate: float | None = None
    lora_rank: int | None = None
    batch_size: int | None = None
    seed: int = 0
    memory: str = "auto"
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class RenderOptions:
    """A subject, or a photo on the untuned base, in the poses of one or more sources.

    poses: whatever `dreampose poses` reads; several need a folder as `output`, which is a path as typed: a slash at its end
    means a folder. subject: id, name or a photo it was tuned from; None: the one tuned last. photo_index: which of the
    subject's photos conditions, from 1; None: all of them, or the first where the base sees one at a time. guidance_interval:
    the noise levels (1 is pure noise) with guidance. noise: "shared", one draw for the clip, or "per-frame". size (height,
    width), window (frames, overlap), start_noise (a .npy file), pose_pictures and appearance_once (the appearance network
    sees the photo once, as without noise, and not in every step) are for bases that denoise frames together, see
    `workflows.render_clip`. align: "auto", "on" or "off", see `inference.alignment`. fps, start and end (seconds) choose
    among the driving video's frames. edit: an instruction by which `photo` is changed first, within edit_where (see
    EditOptions). c2pa_key: a PEM file, see `media.credentials`.
    """

    poses: Sequence[Path]
    output: Path | str
    subject: str | None = None
    photo: Path | None = None
    photo_pose: Path | None = None
    edit: str | None = None
    edit_where: str | None = None
    base: str | None = None
    photo_index: int | None = None
    size: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    start_noise: Path | None = None
    pose_pictures: bool = False
    appearance_once: bool = False
    image_guidance: float | None = None
    pose_guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    noise: str = "shared"
    align: str = "auto"
    estimator: str | None = None
    facing: str = "front"
    interpolate: int = 0
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    side_by_side: bool = False
    audio: bool = False
    batch_size: int | None = None
    memory: str = "auto"
    compile: bool = False
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False
    c2pa_key: Path | None = None


@dataclass(frozen=True)
class PosesOptions:
    """A pose sequence to be written, from a video, a picture, a folder of frames, or poses in any known form.

    format: "poses" for a .poses file, "iuv", "dreampose" or "openpose" for a folder. estimator: None for the base's.
    estimator_size: the short side DensePose sees, in pixels. person: follow the K-th largest. size: (height, width) of a dump's
    pictures. preview: where to draw the poses as a video. facing and interpolate are for doodles.
    """

    source: Path
    output: Path
    format: str = "poses"
    estimator: str | None = None
    estimator_size: int | None = None
    person: int | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    preview: Path | None = None
    facing: str = "front"
    interpolate: int = 0
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class TrainOptions:
    """A base (or, with preset "estimator", a pose estimator) to be trained from the clips in `videos` into `output`.

    What: `preset`, from `base` (a base, or a Stable Diffusion, folder or Hub repository, to be widened into one with
    `image_encoder`, a CLIP, or `control`, a pose ControlNet) or from scratch; `vae` is a base whose autoencoder a new one
    takes over; `size` (height, width), `pose_window` (odd), `pose_channels`, `unet_image_input`, `clip_only`, `null_pose`
    ("keep" or "drop") and `reference` ("all", "global" or "none") are the new base's size and conditioning; `control_alone`:
    the pose control learns without the photo. On what: `photos` are folders of photos of one person each, next to the clips;
    `estimator` finds poses where no file has them; `prepare_workers` processes prepare clips. How: `max_steps` steps in each
    stage, or `epochs` passes over the training frames, in place of the preset's. A step takes `batch_size` samples at once in
    each process, `gradient_accumulation_steps` times; without `batch_size` the preset's samples are divided among processes
    and times. Motion is learned on clips of so many `frames`, `stride` frames of the video apart. `stages` limits the run to
    some: those before must be finished in `output`, those after are left for another run. `resume` continues from the newest
    checkpoint; `prefetch_threads` threads load samples ahead.
    """

    videos: Path
    output: Path
    preset: str | None = None
    base: str | None = None
    image_encoder: str | None = None
    control: str | None = None
    vae: str | None = None
    photos: Path | None = None
    estimator: str | None = None
    size: tuple[int, int] | None = None
    pose_window: int | None = None
    pose_channels: str | None = None
    unet_image_input: str | None = None
    clip_only: bool = False
    null_pose: str | None = None
    reference: str | None = None
    control_alone: bool = False
    frames: int | None = None
    stride: int = 1
    stages: Sequence[str] | None = None
    epochs: float | None = None
    max_steps: int | None = None
    save_every: int | None = None
    keep: int | None = None
    validate_every: int | None = None
    learning_rate: float | None = None
    optimizer: str | None = None
    ema: float | None = None
    seed: int = 0
    resume: bool = False
    batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    gradient_checkpointing: bool = False
    eight_bit_adam: bool = False
    tracker: str | None = None
    prepare_workers: int = 1
    prefetch_threads: int = 2
    overwrite: bool = False


@dataclass(frozen=True)
class EvalOptions:
    """Clips to be scored against their reference: videos, folders of frames, or folders of clips matched by name.

    size: pixels of the shorter side, None for the reference's own. align_by: "index" or "time". metrics: keys of
    `evaluation.metric_registry.METRICS`; those of networks may then download their weights; None: what needs none.
    poses: the reference's, for the metrics of the figure and warp. photo, or a folder with one for each clip, and prompt: what
    the CLIP scores compare with, besides the reference. keep_frames: each frame's values; keep_pictures: the worst and best.
    """

    predicted: Path
    reference: Path
    size: int | None = 256
    align_by: str = "index"
    metrics: tuple[str, ...] | None = None
    poses: Path | None = None
    photo: Path | None = None
    prompt: str | None = None
    device: str = "auto"
    keep_frames: bool = False
    keep_pictures: bool = False


@dataclass(frozen=True)
class SuiteOptions:
    """The paper's protocol on the test clips of a dataset, into the folder `output`, which can be resumed.

    compare: other bases by name, or `names.BASELINES`, which are told the prompt (None: `names.BASELINE_PROMPT`); frames are
    scored against it where there is one. tune: also tune each clip's subject on
    its photo. clips: the first so many only. min_gap: frames from the photo to the first one rendered; None: the paper's 50,
    or half of a shorter clip. frames: how many are rendered of a clip. dtype: of tuning and rendering; scores are computed in
    32 and 64 bits. command: is recorded in the results.
    """

    dataset: Path
    output: Path
    base: str | None = None
    compare: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    tune: bool = False
    ablations: bool = False
    clips: int | None = None
    min_gap: int | None = None
    frames: int = 50
    size: int | None = 256
    seed: int = 0
    steps: int | None = None
    tune_steps: int | None = None
    decoder_steps: int | None = None
    metrics: tuple[str, ...] | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    command: str = ""


@dataclass(frozen=True)
class DemoOptions:
    """The demo, into the folder `output`, which an earlier demo may be in."""

    output: Path = Path("dreampose-demo")
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class EditOptions:
    """A photo to be changed as an instruction asks.

    where: one of `names.EDIT_REGIONS`, or the path of a mask; None: the whole photo. face: whether the face may change where
    `where` is no mask. photo_pose, estimator: what says where the region lies. model: a folder or `owner/name[@revision]`
    in the layout of InstructPix2Pix. strength: the share of the edit in what may change, 0 to 1.
    """

    photo: Path
    instruction: str
    output: Path | str = ""
    where: str | None = None
    face: bool = False
    photo_pose: Path | None = None
    estimator: str | None = None
    model: str | None = None
    guidance: float = 7.5
    image_guidance: float = 1.5
    steps: int = 50
    strength: float = 1.0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False
