"""Figures out: a frame's values as CSV or JSON, and small documents that appear whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import media
from ..errors import OutputError
from .scoring import Evaluation, rows_per_frame


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a place where a file cannot go, before any work. Raises OutputError, OutputExistsError."""
    if Path(path).is_dir():
        raise OutputError(f"{path} is a folder, and a file is to be written there; choose another name.")
    media.check_output(path, overwrite)


def write_per_frame(path: Path, evaluation: Evaluation) -> Path:
    """Each frame's values, one row a frame: name of the clip, frame, metrics; empty or null where undefined. By suffix."""
    rows = rows_per_frame(evaluation)
    if Path(path).suffix.lower() == ".json":
        return write_json(path, {"protocol": evaluation.protocol, "frames": list(rows)})
    return write_csv(path, list(rows))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as CSV; the columns are those of all rows, in the order they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with media.atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def write_json(path: Path, document: Any) -> Path:
    """One JSON document."""
    return write_text(path, [json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False, default=str), "\n"])


def write_text(path: Path, pieces: Iterable[str]) -> Path:
    """Text in pieces."""
    with media.atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return Path(os.fspath(path))
