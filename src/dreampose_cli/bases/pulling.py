"""Published bases come here: downloaded file by file, made a base in the store once, and the downloads given back. No torch.

A journal next to unfinished work says which commit of a repository was met first and which files are this download's own:
what was in the Hub's cache before stays there. A pull that was interrupted resumes with the files that are missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .. import atomic
from ..cache import Cache, key
from ..errors import BaseError
from ..reporting import Note, Progress, no_note
from . import drive
from .config import CONFIG_FILE
from .families import find
from .hub import explained, require_hub
from .published import PublishedBase, Source
from .repositories import Reference, download

JOURNAL = "pull.json"


def pull_published(
    cache: Cache,
    base: PublishedBase,
    *,
    keep_downloads: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Path:
    """The folder in the store of a published base, downloaded and made where it is not there yet.

    `keep_downloads`: the files that it was made of stay in the Hub's cache. Raises BaseError, a sentence for each thing that
    can go wrong; whatever is complete is kept.
    """
    note = note or no_note
    folder, work = cache.path_of("base", base.name), key("pull", base.name)
    with cache.lock(f"subject-{work}", waiting=note, what=f"the base {base.name}"):
        journal = _Journal.read(cache, cache.partial_folder(work))
        if not (folder / CONFIG_FILE).exists():
            _make(cache, base, journal, progress, note)
        if keep_downloads:
            note(f"the downloads are kept: {', '.join(journal.places())}.")
        else:
            journal.give_back()
        if not (keep_downloads and base.drive):
            cache.discard_partial(work)
    return folder


def _make(cache: Cache, base: PublishedBase, journal: _Journal, progress: Progress | None, note: Note) -> None:
    chosen = {role: _choose(source, journal) for role, source in base.sources.items()}
    size = sum(each.missing_bytes for each in chosen.values())
    from_drive = base.drive_bytes * 2 if base.drive and not drive.is_here(journal.folder) else 0  # packed, and unpacked
    _require_room(cache, base, size, from_drive)
    if size or from_drive:
        note(
            f"{base.title}: {(size + from_drive / 2) / 1e9:.1f} GB are downloaded once, from {base.where} and what it was "
            f"built on, and become a base of {base.bytes / 1e9:.1f} GB; licence: {base.licence}."
        )
    folders = {}
    for role, each in chosen.items():
        if each.missing:
            note(f"{each.reference}; licence: {base.sources[role].licence}.")
            journal.expect(each)
        found = each.folder or download(each.reference, each.files, progress=progress)
        folders[role] = found / base.sources[role].folder
    if base.drive:
        folders["weights"] = drive.fetch(cache, base.drive, base.name, journal.folder, progress=progress, note=note)
    find(base.importer)(cache, **folders, name=base.name, halves=base.halves, progress=progress, note=note)


@dataclass(frozen=True)
class _Chosen:
    """The needed files of a repository at one commit; `folder` is its snapshot where nothing is missing."""

    reference: Reference
    files: list[str]
    missing: list[str] = field(default_factory=list)
    missing_bytes: int = 0
    folder: Path | None = None


def _choose(source: Source, journal: _Journal) -> _Chosen:
    """Of each group of files the one that is in the Hub's cache already, else the first that the repository has."""
    repo = source.reference.repo
    revision = source.reference.revision or journal.commits.get(repo) or "main"
    here = [next((file for file in group if _cached(repo, revision, file)), None) for group in source.files]
    complete = [file for file in here if file is not None]
    if len(complete) == len(here) and (first := _cached(repo, revision, complete[0])):
        return _Chosen(Reference(repo, revision), complete, folder=_root(first, complete[0]))
    from huggingface_hub import HfApi, constants

    otherwise = "name another base with --base"
    if not constants.HF_HUB_OFFLINE:
        require_hub(repo, BaseError, otherwise)
    with explained(repo, repo, source.reference.revision, BaseError, otherwise):
        commit = revision if revision != "main" else str(HfApi().model_info(repo).sha)
        names = [file for group in source.files for file in group]
        found = HfApi().get_paths_info(repo, names, revision=commit)
        sizes = {entry.path: getattr(entry, "size", 0) for entry in found}
    chosen = []
    for group in source.files:
        file = next((file for file in group if _cached(repo, commit, file)), None)
        file = file or next((file for file in group if file in sizes), None)
        if file is None:
            raise BaseError(
                f"{repo} at {commit[:12]} on the Hub has no {group[-1]}, which it had when this version was made; update "
                "dreampose-cli, or download the weights and use `dreampose base import`."
            )
        chosen.append(file)
    missing = [file for file in chosen if not _cached(repo, commit, file)]
    return _Chosen(Reference(repo, commit), chosen, missing, sum(sizes[file] for file in missing))


def _cached(repo: str, revision: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _root(path: Path, file: str) -> Path:
    """The snapshot that holds `file` at `path`."""
    return path.parents[len(Path(file).parts) - 1]


def _require_room(cache: Cache, base: PublishedBase, size: float, from_drive: float) -> None:
    """BaseError where a disk has too little room for the downloads, for the base, or for both where they share it."""
    from huggingface_hub import constants

    store = cache.root
    wanted: dict[int, list] = {}  # by disk: bytes, free bytes, what lies there
    for folder, needed, setting in (
        (Path(constants.HF_HUB_CACHE), size, "HF_HOME"),
        (store, base.bytes + from_drive, "DREAMPOSE_CACHE"),
    ):
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        disk = wanted.setdefault(os.stat(there).st_dev, [0.0, shutil.disk_usage(there).free, []])
        disk[0] += needed
        disk[2] += [f"{folder} ({setting})"] if needed else []
    for needed, free, places in wanted.values():
        if needed > free:
            raise BaseError(
                f"{base.name} needs {needed / 1e9:.1f} GB on the disk of {' and '.join(places)}, which has {free / 1e9:.1f} "
                "GB free; make room, or name another disk by these variables; nothing was downloaded."
            )


class _Journal:
    """The state of a pull: commits by repository, and the files (repository, commit, name) that were not here before."""

    def __init__(self, cache: Cache, folder: Path, commits: dict[str, str], files: list[tuple[str, str, str]]) -> None:
        self.cache, self.folder, self.commits, self.files = cache, folder, commits, files

    @classmethod
    def read(cls, cache: Cache, folder: Path) -> _Journal:
        try:
            found = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
            return cls(cache, folder, dict(found["commits"]), [tuple(file) for file in found["files"]])
        except FileNotFoundError:
            return cls(cache, folder, {}, [])
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # cut off by a power cut: then the downloads stay where they are
            return cls(cache, folder, {}, [])

    def expect(self, chosen: _Chosen) -> None:
        """Note, before it begins, what a download will bring."""
        repo, commit = chosen.reference.repo, chosen.reference.revision
        assert commit is not None  # `_choose` looked it up
        self.commits[repo] = commit
        known = set(self.files)
        self.files += [file for name in chosen.missing if (file := (repo, commit, name)) not in known]
        with self.cache.storing():
            text = json.dumps({"commits": self.commits, "files": self.files})
            atomic.write_text(self.folder / JOURNAL, text)

    def places(self) -> list[str]:
        """The folders with the downloads."""
        found = {str(_root(path, name)) for repo, commit, name in self.files if (path := _cached(repo, commit, name))}
        return sorted(found) + ([str(self.folder)] if drive.is_here(self.folder) else [])

    def give_back(self) -> None:
        """Remove the downloads from the Hub's cache, but for files that another revision there shares."""
        for repo, commit, name in self.files:
            path = _cached(repo, commit, name)
            if path is not None:
                _remove(path, _root(path, name))


def _remove(path: Path, snapshot: Path) -> None:
    """Remove a file of a snapshot, what it links to where nothing else does, and the folders that are empty then."""
    home, blob = snapshot.parent.parent, path.resolve()
    with contextlib.suppress(OSError):  # another process, or the Hub's own clean-up, was faster
        path.unlink()
        if blob.parent == (home / "blobs").resolve() and blob not in _linked(home):
            blob.unlink()
        for folder in (*(f for f in path.parents if f.is_relative_to(snapshot)), snapshot.parent, home / "blobs"):
            folder.rmdir()
        shutil.rmtree(home)  # references and markers of files that are not there


def _linked(home: Path) -> Iterator[Path]:
    return (file.resolve() for file in (home / "snapshots").rglob("*") if file.is_symlink())
