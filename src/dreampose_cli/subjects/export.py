"""A subject to give away: what rendering needs of it, and nothing that says whose it was or where it was made."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from .. import media
from ..errors import OutputError
from .format import SUBJECT_FILE, damaged, read_subject, write_description

KEPT = ("version", "base", "weights")  # of what `subject.json` says
KEPT_OF_PHOTOS = ("size", "crop")


def export_subject(folder: Path, output: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write the subject in `folder` to the folder `output`, without names of files and people, checksums and times.

    Raises SubjectError where it is damaged, OutputError, OutputExistsError.
    """
    record = read_subject(folder)
    media.require_apart(output, [folder], replaced=True)
    with media.atomic_folder(output, overwrite, owned=_is_ours) as part:
        try:
            raw = json.loads((folder / SUBJECT_FILE).read_text(encoding="utf-8"))
            description = {key: raw[key] for key in KEPT}
            description["photos"] = [{key: one[key] for key in KEPT_OF_PHOTOS if key in one} for one in raw["photos"]]
            files = [f"{kind}-{number}{suffix}" for number in range(1, len(record.sizes) + 1)
                     for kind, suffix in (("photo", ".png"), ("pose", ".npy"))]  # fmt: skip
            for name in [*files, *(record.weight_file(name).name for name in record.weights)]:
                shutil.copyfile(folder / name, part / name)
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise damaged(folder, error) from error
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error.strerror or error}; choose another -o.") from error
        write_description(part, description)
    return Path(output)


def _is_ours(name: str) -> bool:
    return name == SUBJECT_FILE or name.endswith((".safetensors", ".png", ".npy"))
