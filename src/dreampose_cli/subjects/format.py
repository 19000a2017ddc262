"""The format of a tuned subject, a folder of the cache.

::

    ID/
    ├── subject.json               what it is, written last: base, photos, settings, seed, the names of its weights
    ├── photo-1.png, pose-1.npy    each photo and its pose (I, U, V) at the base's resolution
    └── NAME.safetensors           what tuning changed of a module: all its weights in float16, or low-rank updates

Reading what a subject is imports neither torch nor numpy nor Pillow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import atomic
from ..errors import StoreError, SubjectError
from ..media.fitting import Crop

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from .views import SubjectPhotos

SUBJECT_FILE = "subject.json"
SUBJECT_VERSION = 2


@dataclass(frozen=True)
class SubjectRecord:
    """The contents of `subject.json`. base: its name and fingerprint; sizes: each photo's own (height, width); crops: of each
    photo the region that is used, None for the whole; weights: the names of the weight files."""

    id: str
    name: str | None
    folder: Path
    base: dict[str, str]
    sizes: list[tuple[int, int]]
    crops: list[Crop | None]
    weights: list[str]

    def view(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Photo `index` (from 1), uint8 (H, W, 3), and its pose, float32 (3, H, W), at the base's resolution."""
        import numpy as np
        from PIL import Image

        with Image.open(self.folder / f"photo-{index}.png") as photo:
            picture = np.asarray(photo.convert("RGB"))
        return picture, np.load(self.folder / f"pose-{index}.npy", allow_pickle=False)

    def weight_file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def read_subject(folder: Path) -> SubjectRecord:
    """The subject in `folder`. Raises SubjectError where it is damaged or of another version."""
    id = folder.name
    try:
        raw = json.loads((folder / SUBJECT_FILE).read_text(encoding="utf-8"))
        version = raw["version"]
        if version == SUBJECT_VERSION:
            return SubjectRecord(
                id,
                raw.get("name"),
                folder,
                {key: raw["base"][key] for key in ("name", "fingerprint")},
                [(int(photo["size"][0]), int(photo["size"][1])) for photo in raw["photos"]],
                [Crop(**photo["crop"]) if "crop" in photo else None for photo in raw["photos"]],
                [str(name) for name in raw["weights"]],
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, error) from error
    raise SubjectError(
        f"subject {id} was made by another version of dreampose (format {version}, this one reads {SUBJECT_VERSION}); "
        "tune it again."
    )


def damaged(folder: Path, error: BaseException) -> SubjectError:
    """The error for a subject whose files cannot be used."""
    words = str(error).strip().splitlines()
    return SubjectError(
        f"the subject in {folder} is damaged ({words[0] if words else type(error).__name__}); "
        f"`dreampose cache rm {folder.name}` removes it, then tune it again."
    )


def write_subject(tuned: dict[str, dict[str, Tensor]], views: SubjectPhotos, description: dict[str, Any], folder: Path) -> None:
    """Write the tuned weights, by the names of the modules, with the photos and their poses; `subject.json` last."""
    import numpy as np
    import torch
    from PIL import Image

    from ..networks.storage import save_tensors

    for name, tensors in tuned.items():
        save_tensors(tensors, folder / f"{name}.safetensors", torch.float16)
    for i, (picture, pose) in enumerate(zip(views.pictures, views.poses, strict=True)):
        Image.fromarray(picture).save(folder / f"photo-{i + 1}.png")
        np.save(folder / f"pose-{i + 1}.npy", pose.astype(np.float32))
    write_description(folder, {"version": SUBJECT_VERSION, **description, "weights": list(tuned)})


def is_whole(folder: Path) -> bool:
    """Whether the subject is there with weight files of the length they say; a damaged one is tuned anew."""
    try:
        record = read_subject(folder)
        return all(_is_whole_file(record.weight_file(name)) for name in record.weights)
    except (OSError, SubjectError):
        return False


def _is_whole_file(path: Path) -> bool:
    """Whether a .safetensors file ends where its header says: 8 bytes with the header's length, the header (JSON, with the
    place of each tensor behind it), the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > path.stat().st_size:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return False
    return path.stat().st_size == 8 + length + max(ends, default=0)


def rename(folder: Path, name: str) -> None:
    """Give the subject a name. Raises StoreError where its description cannot be written."""
    file = folder / SUBJECT_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        # Written even if it has the name already: of several with one name the newest is meant, and that is now this one.
        write_description(folder, {**description, "name": name})
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be updated ({error}).") from error


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """`subject.json`, whole or not at all. Raises OSError."""
    text = json.dumps(description, indent=2, ensure_ascii=False, default=str)
    atomic.write_text(folder / SUBJECT_FILE, text + "\n")
