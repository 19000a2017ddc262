"""The cache as an object: entries in and out, locks, and which subject was tuned last."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import atomic
from ..errors import StoreError, SubjectError, UsageError
from ..locks import hold, sweep, work_folder
from .digests import file_digest
from .entries import Entry, base_of, photos_of, read_entry
from .folder import FOLDERS, KINDS, VERSION_FILE, CacheFolder
from .sums import close_to_others, sums_of


def user_cache() -> Cache:
    """The cache in DREAMPOSE_CACHE, else in the user's cache folder. Nothing else reads the variable."""
    chosen = os.environ.get("DREAMPOSE_CACHE")
    if chosen:
        return Cache(chosen)
    from platformdirs import user_cache_dir

    return Cache(user_cache_dir("dreampose", appauthor=False))


class Cache(CacheFolder):
    """One cache, in the folder `root`. It is made once, from the environment or by whoever calls, and handed down."""

    def ensure(self) -> Path:
        """The cache folder, made and stamped with the version where it is new, without what killed processes left."""
        folder = super().ensure()
        if not self._swept:
            self._swept = True
            self.sweep()
        return folder

    def sweep(self) -> list[str]:
        """Remove half-written entries and locks that nobody holds; returns their names. What cannot be removed stays."""
        gone = [f"tmp/{folder.name}" for folder in sweep(self.root / "tmp")]
        sweep(self.root, atomic.work_name(self.root / VERSION_FILE))
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.root / "locks")):
                release = hold(self.root / "locks" / name, 0)
                if release is not None:
                    release()
                    gone.append(f"locks/{name}")
        return gone

    # ---- locks

    @contextlib.contextmanager
    def lock(
        self, name: str, *, timeout: float | None = None, waiting: Callable[[str], None] | None = None, what: str = ""
    ) -> Iterator[None]:
        """Hold the lock `name` for the duration of a `with` block. That of an entry is called KIND-ID (`Entry.lock_name`).

        The operating system releases the lock of a process that dies. `timeout` in seconds, None waits as long as it
        takes, 0 does not wait; StoreError when the time is over. `waiting` is told once that another process has it.
        Not reentrant: the same process waits for itself too.
        """
        what = what or name
        release = self.take(name, 0)
        if release is None and timeout != 0:
            if waiting is not None:
                waiting(f"another dreampose is working on {what}; waiting for it")
            release = self.take(name, timeout)
        if release is None:
            waited = f" after {timeout:g} seconds" if timeout else ""
            raise StoreError(f"{what} is in use by another dreampose{waited}; wait for it to end and try again.")
        try:
            yield
        finally:
            release()

    def take(self, name: str, timeout: float | None) -> Callable[[], None] | None:
        """The function that releases the lock `name`, once it is held; None when the time is over."""
        folder = self.ensure() / "locks"
        with self.storing():
            folder.mkdir(exist_ok=True)
            return hold(folder / f"{name}.lock", timeout)

    # ---- reading

    def list_entries(self, kind: str | None = None) -> list[Entry]:
        """Everything in the cache (of one kind), the one used last first. Broken entries are listed as broken."""
        if not self.check():
            return []
        entries = [
            entry
            for each in ([kind] if kind else KINDS)
            for path in self._children(self.root / FOLDERS[each])
            if (entry := read_entry(each, path, self.root)) is not None
        ]
        return sorted(entries, key=lambda entry: (-entry.used_at, entry.id))

    def get(self, kind: str, id: str) -> Entry | None:
        """The whole, unbroken entry `id` of `kind`; None where there is none."""
        if not self.check():
            return None
        path = self.path_of(kind, id)
        entry = read_entry(kind, path, self.root) if path.exists() else None
        return entry if entry and not entry.broken else None

    def last_subject(self) -> str | None:
        """The id of the subject tuned last; None when there is none or it has been removed."""
        if not self.check():
            return None
        try:
            id = (self.root / "last-subject").read_text(encoding="utf-8").strip()
            return id if id and self.path_of("subject", id).is_dir() else None
        except (OSError, ValueError, StoreError):
            return None

    def find_subject(self, token: str | os.PathLike[str] | None = None, base: str | None = None) -> Entry:
        """The subject that `token` means: an id, a name, a photo it was tuned from, or the beginning of one id (4 or more).

        None means the subject tuned last. A name or a photo shared by several means the newest, of those tuned on the base
        with the fingerprint `base` where there are any. SubjectError otherwise.
        """
        listed = self.list_entries("subject")
        subjects = [entry for entry in listed if not entry.broken]
        if token is None:
            last = self.last_subject()
            for entry in subjects:
                if entry.id == last:
                    return entry
            if subjects:
                raise SubjectError(
                    "the subject tuned last is no longer in the cache; name another with --subject "
                    "(`dreampose cache ls --kind subject` lists them)."
                )
            raise SubjectError("no subject has been tuned yet; make one with: dreampose tune PHOTO")
        text = os.fspath(token)
        newest = sorted(subjects, key=lambda entry: (base is not None and base_of(entry) != base, -entry.created_at))
        for entry in newest:
            if text in (entry.id, entry.name):
                return entry
        path = Path(text).expanduser()
        if path.is_file():
            digest = file_digest(path)
            for entry in newest:
                if any(isinstance(photo, dict) and photo.get("sha256") == digest for photo in photos_of(entry)):
                    return entry
            raise SubjectError(f"no subject was tuned from {text}; make it with: dreampose tune {shlex.quote(text)}")
        for entry in listed:
            if entry.broken and entry.id == text:
                raise SubjectError(
                    f"subject {text} is broken ({entry.broken}); remove it with: dreampose cache rm {text}"
                )
        matches = [entry for entry in newest if len(text) >= 4 and entry.id.startswith(text.lower())]
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(entry.id for entry in matches[:5])
            raise SubjectError(f"{text!r} is the beginning of several subjects' ids ({ids}); give more of it.")
        raise SubjectError(
            f"there is no subject and no photo {text!r}; `dreampose cache ls --kind subject` lists the subjects, "
            "`dreampose tune PHOTO` makes one."
        )

    def find_entry(self, token: str) -> Entry:
        """The entry that `token` means, broken or not: an id, KIND/ID, a name, the beginning of one id, a tuned photo."""
        entries = self.list_entries()
        for matches in (
            [entry for entry in entries if token in (entry.id, f"{entry.kind}/{entry.id}")],
            [entry for entry in entries if token == entry.name],
            [entry for entry in entries if len(token) >= 4 and entry.id.startswith(token)],
        ):
            if len(matches) == 1:
                return matches[0]
            if matches:
                names = ", ".join(f"{entry.kind}/{entry.id}" for entry in matches[:5])
                raise UsageError(f"{token!r} can mean several things in the cache ({names}); give one of these.")
        if Path(token).is_file():
            return self.find_subject(token)
        raise StoreError(f"there is nothing called {token!r} in the cache; `dreampose cache ls` lists what is there.")

    def _children(self, folder: Path) -> list[Path]:
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as problem:
            raise self.store_error(problem, "read") from problem
        return [folder / name for name in names if not name.startswith(".")]

    # ---- writing

    def set_last_subject(self, id: str) -> None:
        """Remember `id` as the subject tuned last."""
        if self.last_subject() != id:
            self._write_text(self.root / "last-subject", f"{id}\n")

    def note_place(self, id: str, folder: Path) -> None:
        """Remember in which folder the base of the subject `id` lies on this machine; it is not part of the subject."""
        if self.place_of(id) != str(folder.absolute()):
            self._write_text(self.root / "places" / id, f"{folder.absolute()}\n")

    def place_of(self, id: str) -> str | None:
        """The folder that `note_place` was told for the subject `id`; None where it was not."""
        try:
            return (self.root / "places" / id).read_text(encoding="utf-8").strip() or None
        except (OSError, ValueError):
            return None

    @contextlib.contextmanager
    def publish_folder(self, kind: str, id: str) -> Iterator[Path]:
        """Yield an empty folder to fill; at the end of the block it becomes the entry, after an error it is gone.

        An entry of that id is replaced. Readers see the old one or the new one, never a half.
        """
        with self._publishing(kind, id) as temporary:
            with self.storing():
                temporary.mkdir()
            yield temporary

    @contextlib.contextmanager
    def publish_file(self, kind: str, id: str) -> Iterator[Path]:
        """As `publish_folder`, for entries that are one file (poses): yields a path to write to."""
        with self._publishing(kind, id) as temporary:
            yield temporary

    def publish_partial(self, id: str, kind: str) -> Path:
        """Make the finished resumable work partial/ID the entry `id` of `kind`, and return its path."""
        self.ensure()
        final, source = self.path_of(kind, id), self.path_of("partial", id)
        if kind == "subject":
            close_to_others(source)
        self.write_sums(kind, id, source)
        with self.storing():
            self._publish(source, final)
        self.touch(kind, id)
        return final

    def partial_folder(self, id: str) -> Path:
        """The folder for resumable work on `id`, made if missing; hold `lock(f"subject-{id}")` while using it."""
        self.ensure()
        folder = self.path_of("partial", id)
        with self.storing():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def discard_partial(self, id: str) -> None:
        """Remove the resumable work on `id`, if any."""
        if self.check():
            with self.storing():
                self.delete(self.path_of("partial", id))

    def touch(self, kind: str, id: str) -> None:
        """Note that an entry was used now. A read-only cache is no reason to fail."""
        marker = self.root / "used" / f"{kind}-{id}"
        with contextlib.suppress(OSError):
            marker.parent.mkdir(exist_ok=True)
            marker.touch()

    @contextlib.contextmanager
    def _publishing(self, kind: str, id: str) -> Iterator[Path]:
        final = self.path_of(kind, id)
        with self._work_folder() as folder:
            temporary = folder / final.name
            with self.storing(within=folder):
                yield temporary
                self.ensure()
                if kind == "subject":
                    close_to_others(temporary)
                self.write_sums(kind, id, temporary)
                with self.storing():
                    self._publish(temporary, final)
        self.touch(kind, id)

    def write_sums(self, kind: str, id: str, path: Path) -> None:
        """Note the SHA-256 of every file of an entry, except of a subject's description, whose name may change."""
        with self.storing():
            text = json.dumps(sums_of(kind, path), indent=1)
            self._write_text(self.root / "sums" / f"{kind}-{id}.json", text + "\n")

    def _write_text(self, path: Path, text: str) -> None:
        """A small file of the cache's own, whole or not at all."""
        with self._work_folder() as folder, self.storing():
            (folder / path.name).write_text(text, encoding="utf-8")
            path.parent.mkdir(exist_ok=True, mode=0o700)
            atomic.publish(folder / path.name, path)

    def delete(self, path: Path, *, at_once: bool = False) -> None:
        """Remove a file or folder; a folder is renamed away first, so that nobody reads a half of it."""
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
        elif path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # somebody prunes at the same time
                if at_once:
                    shutil.rmtree(path)
                else:
                    with self._work_folder() as folder:
                        path.rename(folder / path.name)

    def _publish(self, source: Path, final: Path) -> None:
        final.parent.mkdir(exist_ok=True)
        for attempt in range(3):  # the same entry may be published by two processes at once; the last one wins
            if source.is_dir() and final.exists():
                self.delete(final)
            try:
                atomic.publish(source, final)
                return
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == 2:
                    raise

    @contextlib.contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """A folder in tmp/ that is gone when the block ends, and when its process has died."""
        parent = self.ensure() / "tmp"
        with self.storing():
            parent.mkdir(exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as stack:
            with self.storing():
                folder = stack.enter_context(work_folder(parent))
            yield folder
