"""A packed folder of checkpoints from Google Drive, by gdown (the extra `[drive]`), unpacked without trusting it. No torch."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

from ..atomic import atomic_file
from ..cache import Cache
from ..errors import BaseError
from ..reporting import Note, Progress, no_note

ADDRESS = "https://drive.google.com/uc?id={}"
PAGE = "https://drive.google.com/file/d/{}/view"
WANTED = re.compile(r"(?:unet_epoch|adapter|vae)_\d{1,9}\.pth")  # the official checkpoints' names, in whatever folder
MOST = 60 << 30  # bytes of a checkpoint: none is larger
PACKED, UNPACKED = "drive.zip", "checkpoints"
_SECONDS = (10.0, 60.0)  # to connect, and between bytes


def is_here(folder: Path) -> bool:
    """Whether `folder` holds the whole download, packed or not."""
    return (folder / PACKED).is_file() or (folder / UNPACKED).is_dir()


def fetch(
    cache: Cache, file: str, name: str, folder: Path, *, progress: Progress | None = None, note: Note | None = None
) -> Path:
    """The folder with the checkpoints in the zip that is Drive's `file`, below `folder`, where a broken download continues.

    Raises BaseError with the link and the import command where the Drive refuses or sends something else.
    """
    target = folder / UNPACKED
    if target.is_dir():
        return target
    by_hand = (
        f"download {PAGE.format(file)} in a browser, unpack it and run `dreampose base import FOLDER --name {name}`"
    )
    packed = folder / PACKED
    if not packed.is_file():
        _download(file, packed, by_hand, progress, note or no_note)
    _unpack(cache, packed, target, by_hand)
    packed.unlink()
    return target


def _download(file: str, packed: Path, by_hand: str, progress: Progress | None, note: Note) -> None:
    try:
        import gdown
    except ModuleNotFoundError as error:
        raise BaseError(
            "the authors' weights lie on Google Drive, which needs the extra drive (`pip install 'dreampose-cli[drive]'`); "
            f"or {by_hand}."
        ) from error
    shown = [-1]

    def report(done: int, total: int | None) -> None:
        if progress and done // 1_000_000 > shown[0]:
            shown[0] = done // 1_000_000
            progress(shown[0], total and total // 1_000_000, "MB from Google Drive")

    try:
        gdown.download(
            url=ADDRESS.format(file), output=str(packed), quiet=True, resume=True, use_cookies=False, progress=report,
            timeout=_SECONDS, retries=2,
        )  # fmt: skip
    except gdown.exceptions.FileURLRetrievalError as error:
        raise BaseError(
            f"Google Drive does not give the file to a program now (it asks for a browser, or its quota is used up); {by_hand}."
        ) from error
    except Exception as error:  # of the transport, by whatever name
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BaseError(
            f"the download from Google Drive broke off ({text}); run the same command again, which continues, or {by_hand}."
        ) from error
    if not zipfile.is_zipfile(packed):
        packed.unlink()
        raise BaseError(f"Google Drive sent a page and not the file; {by_hand}.")


def _unpack(cache: Cache, packed: Path, target: Path, by_hand: str) -> None:
    """The checkpoints alone, flat, under their own names: nothing of the zip decides where anything is written."""
    try:
        with zipfile.ZipFile(packed) as archive, cache.storing(), atomic_file(target) as partial:
            members = {Path(member.filename).name: member for member in archive.infolist()}
            chosen = {name: member for name, member in members.items() if WANTED.fullmatch(name)}
            if not chosen or any(member.file_size > MOST for member in chosen.values()):
                what = (
                    "holds no official checkpoints"
                    if not chosen
                    else "declares files that no checkpoint is as large as"
                )
                raise BaseError(f"the file from Google Drive {what}; {by_hand}.")
            needed, free = sum(m.file_size for m in chosen.values()), shutil.disk_usage(packed.parent).free
            if needed > free:
                raise BaseError(
                    f"the checkpoints unpacked take {needed / 1e9:.1f} GB and the disk of {packed.parent} has {free / 1e9:.1f} "
                    "GB free; make room and run the command again."
                )
            partial.mkdir()
            for name, member in chosen.items():
                with archive.open(member) as source, (partial / name).open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)  # a size or checksum that is a lie ends it
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        packed.unlink()
        raise BaseError(
            f"the file from Google Drive is damaged ({error}); run the command again, or {by_hand}."
        ) from error
