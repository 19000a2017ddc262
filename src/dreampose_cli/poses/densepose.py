"""DensePose without detectron2: traced TorchScript files, from the Hub or from a path, as a pose estimator.

The interface of such a file: in, one picture float32 (3, H, W), 0..255, in any size; out, a tuple of boxes (N, 4) xyxy,
coarse (N, 2, 112, 112), and fine, u, v (N, 25, 112, 112) each, best detection first, without scores. That is what
detectron2's GeneralizedRCNN with the DensePose head gives when it is traced.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..bases.hub import fetch_file
from ..cache import Cache
from ..errors import PoseError
from ..reporting import Note, Progress
from .fingerprint import FILES, REPOSITORY, REVISION, file_fingerprint
from .sequence import PARTS, paste
from .torchvision_ops import ensure_torchvision_operators
from .tracking import PersonTracker
from .trusted_code import require_trusted

SUFFIX = ".torchscript"
ATTRIBUTION = (
    f"DensePose weights from huggingface.co/{REPOSITORY}: made by Facebook AI Research (DensePose, Güler et al. 2018; "
    "detectron2), licensed CC BY-SA 3.0; name them where you publish what you make with them."
)

CHANNELS = "BGR"  # the order detectron2 was trained with; "RGB" would feed pictures as they are
CHART = 112  # a chart's side
LONG_OVER_SHORT = 1333 / 800  # detectron2's test setting: the long side is at most this times the asked-for short side
EXPECTED = (
    "a tuple of boxes (N, 4), coarse (N, 2, 112, 112), and fine, u and v (N, 25, 112, 112) for one picture (3, H, W), as "
    f"the files of {REPOSITORY} give it"
)


@dataclass
class DensePose:
    """A pose estimator from a TorchScript file, loaded when the first picture comes.

    size: the short side of what the network sees, None for the picture's own; poses come back at the picture's size.
    person: whom to follow, see `PersonTracker`.
    """

    name: str
    file: Path
    fingerprint: str  # changes with the file; part of cache keys
    device: torch.device
    size: int | None = None
    person: int | None = None
    least_person: float = 0.0  # of the picture: a detection is somebody, however small
    dtype: torch.dtype = torch.float32
    people: int = 0  # the most that one frame of the clip showed that was estimated last

    def estimate(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """uint8 (H, W, 3) each -> float32 (3, H, W); in each picture on its own the largest person, or number `person`.

        I in 0..24, U and V in [0, 1], all zero where nobody is. Raises PoseError if the file is no such DensePose.
        """
        return [self._pose(picture, PersonTracker(self.person)) for picture in pictures]

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pose frames of the frames of one clip, one by one; one person is followed through all of them."""
        tracker = PersonTracker(self.person)
        for picture in pictures:
            pose = self._pose(picture, tracker)
            self.people = tracker.most
            yield pose

    @property
    def pace(self) -> str:
        """A sentence about the time to expect."""
        if self.device.type != "cpu":
            return ""
        return (
            f"{self.name} takes seconds for each frame on a CPU (about 10 s at 512x640 on two cores); --fps, --start, "
            "--end and --estimator-size make it less, and the poses are kept."
        )

    @property
    def _casts(self) -> bool:
        return self.dtype != torch.float32

    @cached_property
    def network(self) -> torch.jit.ScriptModule:
        """The loaded file. Raises PoseError if it is none, damaged, or needs operators that are not there."""
        return _load(self.file, self.fingerprint, str(self.device))

    @torch.inference_mode()
    def _pose(self, picture: np.ndarray, tracker: PersonTracker) -> np.ndarray:
        height, width = picture.shape[:2]
        seen = resize_for(picture, self.size)
        detections = self._detect(seen)
        scale = np.array([width / seen.shape[1], height / seen.shape[0]] * 2)
        boxes = detections[0].double().cpu().numpy() * scale
        if not np.isfinite(boxes).all() or (len(boxes) and np.abs(boxes).max() > 4 * max(height, width)):
            raise PoseError(f"{self.file} gives boxes far outside the picture; expected is {EXPECTED}.")
        chosen = tracker.choose(boxes, _body_sizes(boxes, detections[1]))
        if chosen is None:
            return np.zeros((3, height, width), np.float32)
        coarse, fine, u, v = (charts[chosen].float() for charts in detections[1:])
        return charts_to_pixels(boxes[chosen], coarse, fine, u, v, (height, width)).cpu().numpy()

    def _detect(self, picture: np.ndarray) -> tuple[Tensor, ...]:
        """boxes, coarse, fine, u, v of one picture uint8 (h, w, 3) RGB, checked."""
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(self.device).permute(2, 0, 1).float()
        if CHANNELS == "BGR":
            pixels = pixels.flip(0)
        network = self.network
        try:
            with warnings.catch_warnings(), torch.autocast(self.device.type, self.dtype, enabled=self._casts):
                warnings.simplefilter("ignore", UserWarning)  # traced code speaks to its makers
                out = network(pixels.contiguous())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            raise PoseError(
                f"{self.file} cannot compute a picture {tuple(pixels.shape)} ({_reason(error)}); expected is {EXPECTED}."
            ) from error
        if not _is_expected(out):
            raise PoseError(f"{self.file} has another interface: expected is {EXPECTED}; it gives {_kind(out)}.")
        return out


def load_densepose(
    cache: Cache,
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    size: int | None = None,
    person: int | None = None,
    dtype: str = "float32",
    *,
    note: Note | None = None,
    progress: Progress | None = None,
) -> DensePose:
    """The estimator "r50" or "r101" (downloaded once), or the one in a local .torchscript file that the user trusts.

    size: short side that the network sees, None for the pictures' own. person: 1 for the largest, 2 for the next.
    dtype: another than "float32" is computed in by autocast, since traced weights stay as they are. An mps device is
    replaced by the CPU: traced files cannot be moved there. Raises PoseError if it is unavailable.
    """
    where = torch.device(device)
    if where.type == "mps":
        where = torch.device("cpu")
    name = str(name_or_path)
    if name in FILES:
        file = fetch_file(
            REPOSITORY,
            FILES[name],
            REVISION,
            error=PoseError,
            instead="give a local file with --estimator PATH.torchscript",
            before=lambda: note(ATTRIBUTION) if note else None,
            progress=progress,
        )
    else:
        file, name = Path(name_or_path), Path(name_or_path).name
        if not file.is_file():
            raise PoseError(f"{file} does not exist; give r50, r101 or the path of a .torchscript file.")
        require_trusted(cache, file)
    return DensePose(name, file, file_fingerprint(file), where, size, person, dtype=getattr(torch, dtype))


def resize_for(picture: np.ndarray, size: int | None) -> np.ndarray:
    """A picture uint8 (H, W, 3) as the network sees it: short side `size`, long side at most size * 1333 / 800."""
    height, width = picture.shape[:2]
    if size is None:
        return picture
    scale = min(size / min(height, width), size * LONG_OVER_SHORT / max(height, width))
    target = (max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5)))
    if target == (width, height):
        return picture
    return np.array(Image.fromarray(picture).resize(target, Image.Resampling.BILINEAR))  # as detectron2 does


def charts_to_pixels(
    box: np.ndarray, coarse: Tensor, fine: Tensor, u: Tensor, v: Tensor, size: tuple[int, int]
) -> Tensor:
    """One detection as a pose frame (3, H, W) of `size`: its charts stretched to its box, and pasted there.

    box (4,): x1, y1, x2, y2 in pixels. coarse (2, h, w): background and body; fine, u, v (25, h, w). I is the likeliest
    part where the body is likelier than the background; U and V are that part's, in [0, 1]. What hangs over the
    picture's edge is cut.
    """
    x, y = int(box[0]), int(box[1])
    w, h = max(int(box[2] - box[0]), 1), max(int(box[3] - box[1]), 1)

    def stretched(charts: Tensor) -> Tensor:
        return F.interpolate(charts[None], size=(h, w), mode="bilinear", align_corners=False)[0]

    part = stretched(fine).argmax(0) * (stretched(coarse).argmax(0) > 0)
    patch = torch.zeros((3, h, w), device=fine.device)
    patch[0] = part
    for i in part.unique().tolist():
        if i:  # one part at a time: all 48 charts at the size of a large picture would take a gigabyte
            on_part = part == i
            patch[1][on_part] = stretched(u[i : i + 1])[0][on_part].clamp(0, 1)
            patch[2][on_part] = stretched(v[i : i + 1])[0][on_part].clamp(0, 1)
    return paste(patch, (x, y), torch.zeros((3, *size), device=fine.device))


@lru_cache(maxsize=1)
def _load(file: Path, _fingerprint: str, device: str) -> torch.jit.ScriptModule:
    _refuse_bomb(file)
    ensure_torchvision_operators(device)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=DeprecationWarning)
            return torch.jit.load(file, map_location=device).eval()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, torch.jit.Error) as error:
        raise PoseError(
            f"{file} cannot be loaded as TorchScript ({_reason(error)}); it is damaged, cut short or something else. "
            f"Expected is {EXPECTED}."
        ) from error


def _refuse_bomb(file: Path) -> None:
    """Raise PoseError for what is no zip, or unpacks to far more than its size: weights are stored as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise PoseError(
            f"{file} is no TorchScript file, or cut short; copy or download it again. Expected is {EXPECTED}."
        ) from error
    if unpacked > 4 * file.stat().st_size + (64 << 20):
        raise PoseError(f"{file} would unpack to {unpacked / 1e9:.1f} GB, which no weights do; it is refused.")


def _body_sizes(boxes: np.ndarray, coarse: Tensor) -> np.ndarray:
    """The size of each person in the picture: the area of the box times the body's share of it."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    share = (coarse.argmax(1) > 0).double().mean((1, 2)).cpu().numpy() if len(boxes) else np.zeros(0)
    return sides[:, 0] * sides[:, 1] * share


def _is_expected(out: object) -> bool:
    if not isinstance(out, tuple | list) or len(out) != 5 or not all(isinstance(t, Tensor) for t in out):
        return False
    boxes, *charts = out
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return False
    if not len(boxes):
        return all(t.numel() == 0 for t in charts)
    shapes = [(len(boxes), depth, CHART, CHART) for depth in (2, PARTS + 1, PARTS + 1, PARTS + 1)]
    return [tuple(t.shape) for t in charts] == shapes


def _kind(out: object) -> str:
    """The output of a network, in words."""
    if isinstance(out, Tensor):
        return f"one tensor {tuple(out.shape)}"
    if isinstance(out, dict):
        return f"a dict of {', '.join(map(str, out)) or 'nothing'}"
    if isinstance(out, tuple | list):
        return f"a {type(out).__name__} of {', '.join(_kind(item) for item in out) or 'nothing'}"
    return f"a {type(out).__name__}"


def _reason(error: BaseException) -> str:
    """The line of a TorchScript error that says what is wrong; the others are a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error:" in line or line.startswith("Unknown builtin")]
    return (told or lines or [type(error).__name__])[-1 if told else 0][:200]
