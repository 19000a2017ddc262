"""CSV logs that a killed training continues without a gap or a repetition."""

from __future__ import annotations

import csv
from pathlib import Path

from ..atomic import atomic_file


class CsvLogger:
    """Rows that begin with a step. Rows past `first`, the resumed step, are dropped, so that the curve is continuous.

    `path` None logs nothing: of several processes one writes.
    """

    def __init__(self, path: Path | None, header: tuple[str, ...], first: int):
        self.path = path
        self.rows: list[list] = []
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if first and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [r for r in csv.reader(file) if len(r) == len(header) and r[0].isdigit() and int(r[0]) <= first]
        with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])

    def add(self, step: int, *values: object) -> None:
        """One row; written to disk a hundred at a time."""
        self.rows.append([step, *values])
        if len(self.rows) >= 100:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self.path is not None and self.rows:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self.rows)
        self.rows = []
