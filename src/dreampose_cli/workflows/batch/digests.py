"""The content of inputs: each file is hashed once, and again only when its size or its time of change says so.

What is remembered lies next to the manifest, a line a file. It saves reading, and nothing depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ...cache import file_digest
from ...errors import MediaError, OutputError

THREADS = 4  # hashing leaves the interpreter's lock, and disks like several readers
TOGETHER = 64  # files that a thread takes at once
SETTLED = 2.0  # seconds: what changed later than that before it was hashed may change again within the clock's grain
HEAD = 1 << 16  # bytes of a file that decide which shard has it


class Digests:
    """SHA-256 of files and folders by path; `memory` is the file that remembers them, None for none.

    files: the device and number of every file that was asked for. folders: the paths that were folders.
    """

    def __init__(self, memory: Path | None = None):
        self.memory = memory
        self.files: set[tuple[int, int]] = set()
        self.folders: set[str] = set()
        self._known: dict[str, tuple[int, int, str]] = {}
        self._fresh: dict[str, tuple[int, int, str]] = {}
        self._heads: dict[str, str] = {}
        for path, size, changed, digest in _remembered(memory):
            self._known[path] = (size, changed, digest)

    def of(self, path: str) -> str:
        """The digest of a file, or of the files in a folder with their names. Raises MediaError."""
        found = self._remembered_of(path)
        return self._read(path) if found is None else found

    def of_all(self, paths: Iterable[str]) -> dict[str, str]:
        """The digests of many files and folders; what has to be read is read by several threads. Raises MediaError."""
        found = {path: self._remembered_of(path) for path in dict.fromkeys(paths)}
        unknown = [path for path, digest in found.items() if digest is None]
        some = [unknown[i : i + TOGETHER] for i in range(0, len(unknown), TOGETHER)]
        with ThreadPoolExecutor(THREADS) as threads:
            for part, digests in zip(some, threads.map(self._read_all, some), strict=True):
                found.update(zip(part, digests, strict=True))
        return {path: digest for path, digest in found.items() if digest is not None}

    def _remembered_of(self, path: str) -> str | None:
        """The known digest of a file, if it is as it was; None where it has to be read. Of a folder, its digest."""
        place = os.path.abspath(path)
        stat = _stat(path, place)
        if S_ISDIR(stat.st_mode):
            self.folders.add(path)
            names = sorted(entry.name for entry in os.scandir(place) if entry.is_file())
            listed = "".join(f"{name}\0{self.of(os.path.join(path, name))}\n" for name in names)
            return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
        if not S_ISREG(stat.st_mode):
            raise MediaError(f"{path} is a pipe or a device, which is read only once; save it as a file first.")
        self.files.add((stat.st_dev, stat.st_ino))
        known = self._known.get(place)
        return known[2] if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns) else None

    def _read_all(self, paths: list[str]) -> list[str]:
        return [self._read(path) for path in paths]

    def _read(self, path: str) -> str:
        place = os.path.abspath(path)
        stat = _stat(path, place)  # before it is read: what changes meanwhile is read again
        digest = file_digest(place)
        found = (stat.st_size, stat.st_mtime_ns, digest)
        self._known[place] = found
        if time.time() - stat.st_mtime > SETTLED:
            self._fresh[place] = found
        return digest

    def head(self, path: str) -> str:
        """A digest of a file's size and beginning (of a folder, of its files' names): enough to cut work by content."""
        found = self._heads.get(path)
        if found is None:
            with _reading(path):
                if os.path.isdir(path):
                    raw = "\0".join(sorted(os.listdir(path))).encode(errors="surrogateescape")
                else:
                    with open(path, "rb") as file:
                        raw = f"{os.fstat(file.fileno()).st_size}:".encode() + file.read(HEAD)
            found = self._heads[path] = hashlib.sha256(raw).hexdigest()
        return found

    def remember(self) -> None:
        """Append what was hashed since the last time. Raises OutputError where the folder cannot be written."""
        if self.memory is None or not self._fresh:
            return
        lines = "".join(json.dumps([path, *found]) + "\n" for path, found in self._fresh.items())
        try:
            with open(self.memory, "a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise OutputError(f"{self.memory} cannot be written: {error.strerror}; choose another -o.") from error
        self._fresh.clear()


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}; check the path.") from error


def _stat(path: str, place: str) -> os.stat_result:
    with _reading(path):
        return os.stat(place)


def _remembered(memory: Path | None) -> list[tuple[str, int, int, str]]:
    """The lines of the memory that are whole; none where there is no such file."""
    found = []
    try:
        with open(memory, encoding="utf-8", errors="replace") if memory else open(os.devnull, encoding="utf-8") as file:
            for line in file:
                try:
                    path, size, changed, digest = json.loads(line)
                    found.append((str(path), int(size), int(changed), str(digest)))
                except (ValueError, TypeError):
                    continue  # a line that a power cut tore: the file is hashed again
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{memory} cannot be read: {error.strerror}; remove it or choose another -o.") from error
    return found
