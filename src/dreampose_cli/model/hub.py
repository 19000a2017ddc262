"""Repositories on the Hugging Face Hub: bases by `owner/name[@revision]`, and the components of others. No torch.

What was downloaded once is used as it is, without asking the network; `pull` asks for what is new. Everything lies in
the Hub's own cache (HF_HOME), and a download that broke off goes on with the files that are missing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BaseError
from .config import CONFIG_FILE, read_config

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]

BASE_FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "adapter/adapter.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "image_encoder/config.json",
    "image_encoder/model.safetensors",
    "image_encoder/preprocessor_config.json",
    "scheduler/scheduler_config.json",
)

_REFERENCE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.][\w./-]*))?")
_SNAPSHOT = re.compile(r"models--(.+?)--(.+)")  # the name of a repository in the Hub's cache
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Reference:
    """A repository on the Hub; revision is a branch, tag or commit, None the main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def parse(name: str) -> Reference | None:
    """`owner/name[@revision]` as a Reference; None where `name` has another form."""
    match = _REFERENCE.fullmatch(name)
    return Reference(match[1], match[2]) if match else None


def pull_base(
    reference: Reference, *, update: bool, progress: Progress | None = None, note: Note | None = None
) -> Path:
    """The folder of the base `reference`, downloaded where it is not here yet; `update` looks for a newer one first.

    Raises BaseError: unknown, gated, no base, offline, interrupted, no space.
    """
    if not update:
        folder = cached(reference, (CONFIG_FILE, *BASE_FILES))
        if folder is not None:
            return folder
    description = download(reference, [CONFIG_FILE])
    if not (description / CONFIG_FILE).is_file():
        raise BaseError(
            f"{reference} on the Hub is not a base of dreampose: it has no {CONFIG_FILE}. If it is a Stable Diffusion, "
            f"train from it (`dreampose train VIDEOS -o BASE --base {reference}`)."
        )
    config = read_config(description)  # before gigabytes are fetched that this version cannot use
    exact = Reference(reference.repo, description.name)
    if note and cached(exact, BASE_FILES) is None:
        note(f"downloading the base {reference} from the Hub")
    folder = download(exact, [CONFIG_FILE, *BASE_FILES], progress=progress)
    missing = [name for name in BASE_FILES if not (folder / name).is_file()]
    if missing:
        raise BaseError(f"the base {reference} on the Hub is incomplete: it has no {missing[0]}; tell its owner.")
    if note:
        licence = config.provenance.get("licence") or f"see https://huggingface.co/{reference.repo}"
        note(f"{reference.repo}, revision {folder.name[:12]}; licence: {licence}.")
    return folder


def is_base(reference: Reference) -> bool:
    """Whether the repository describes a base of dreampose. Raises BaseError as `download`."""
    if cached(reference, (CONFIG_FILE,)) is not None:
        return True
    if cached(reference, ("unet/config.json",)) is not None:
        return False
    return (download(reference, [CONFIG_FILE]) / CONFIG_FILE).is_file()


def origin(folder: Path) -> str | None:
    """`owner/name@commit` for a folder in the Hub's cache, else None."""
    parts = Path(folder).parts
    if len(parts) < 3 or parts[-2] != "snapshots":
        return None
    match = _SNAPSHOT.fullmatch(parts[-3])
    return f"{match[1]}/{match[2]}@{parts[-1]}" if match else None


def cached(reference: Reference, files: tuple[str, ...]) -> Path | None:
    """The snapshot of `reference` on this machine if it holds `files`, without network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                reference.repo, revision=reference.revision, local_files_only=True, allow_patterns=list(files)
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if all((folder / name).is_file() for name in files) else None


def download(reference: Reference, patterns: list[str], *, progress: Progress | None = None) -> Path:
    """The snapshot folder with the files of `reference` that match `patterns`; those it has not are simply missing.

    Raises BaseError, a sentence for each thing that can go wrong.
    """
    from huggingface_hub import snapshot_download

    _silence()
    with _explained(reference):
        return Path(
            snapshot_download(
                reference.repo,
                revision=reference.revision,
                allow_patterns=patterns,
                tqdm_class=_bar(progress, reference.repo),
            )
        )


@contextlib.contextmanager
def _explained(reference: Reference) -> Iterator[None]:
    """Turn whatever the Hub's library raises into a sentence."""
    from huggingface_hub import constants, errors

    repo = reference.repo
    again = "run the same command again: what is complete is kept"
    try:
        yield
    except errors.GatedRepoError as error:  # a subclass of RepositoryNotFoundError
        raise BaseError(
            f"{repo} is gated: accept its terms on https://huggingface.co/{repo}, then log in with `hf auth login` "
            "(or set HF_TOKEN) and run the command again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BaseError(
            f"{repo} is no folder here and no repository on the Hub, or a private one: check the name, or log in with "
            "`hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BaseError(
            f"{repo} has no revision {reference.revision!r}; name a branch, a tag or a commit of it, or none."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise BaseError(
            f"{reference} is not (or not wholly) on this machine and {why}; connect, then run the command again "
            f"(`dreampose base pull` fetches a base in advance), or give a folder."
        ) from error
    except errors.HFValidationError as error:
        raise BaseError(f"{repo!r} cannot be a repository's name on the Hub; it is written owner/name.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = f" with status {status}" if status else ""
        raise BaseError(f"the Hub answered{said} when asked for {reference}; wait a little and {again}.") from error
    except Exception as error:  # the transport's own types change from version to version: never named here
        text = " ".join(str(error).split())[:200] or type(error).__name__
        number = getattr(error, "errno", None)
        if number in _FULL or "No space left on device" in text:
            raise BaseError(
                f"the disk of the Hub's cache ({constants.HF_HUB_CACHE}) is full; make room, or set HF_HOME to another "
                f"disk, then {again}."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BaseError(
                f"the Hub's cache ({constants.HF_HUB_CACHE}) cannot be written; make it writable or set HF_HOME."
            ) from error
        raise BaseError(f"the download of {reference} was interrupted ({text}); {again}.") from error


def _silence() -> None:
    """No bars and no chatter of the Hub's library: we draw one bar of our own."""
    from huggingface_hub.utils import disable_progress_bars, logging

    if os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is None:
        disable_progress_bars()
    logging.set_verbosity_error()


def _bar(progress: Progress | None, label: str) -> type:
    """A class in the form of tqdm that draws nothing and reports the bytes of the whole download to `progress`."""
    from tqdm.std import tqdm

    seen = [0]

    class Bar(tqdm):
        monitor_interval = 0  # no thread that watches the bars

        def __init__(self, *args, **kwargs):
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def display(self, *args, **kwargs) -> None:
            if progress and self.unit == "B" and self.total and self.n > seen[0]:
                seen[0] = self.n
                progress(int(self.n) >> 20, int(self.total) >> 20, f"MB of {label}")

    return Bar
