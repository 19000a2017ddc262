"""Repositories on the Hugging Face Hub: bases by `owner/name[@revision]`, and the components of others. No torch.

What was downloaded once is used as it is, without asking the network; `pull` asks for what is new. Everything lies in
the Hub's own cache (HF_HOME), and a download that broke off resumes with the files that are missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import BaseError
from ..reporting import Note
from .config import CONFIG_FILE, read_config
from .hub import Progress, bar, explained, silence

INSTEAD = "give a folder (`dreampose base pull` fetches a base in advance)"

_REFERENCE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.][\w./-]*))?")
_SNAPSHOT = re.compile(r"models--(.+?)--(.+)")  # the name of a repository in the Hub's cache


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
        folder = complete(reference)
        if folder is not None:
            return folder
    description = download(reference, [CONFIG_FILE])
    if not (description / CONFIG_FILE).is_file():
        raise BaseError(
            f"{reference} on the Hub is not a base of dreampose: it has no {CONFIG_FILE}. If it is a Stable Diffusion, "
            f"train from it (`dreampose train VIDEOS -o BASE --base {reference}`)."
        )
    config = read_config(description)  # before gigabytes are fetched that this version cannot use
    files = config.network.files
    exact = Reference(reference.repo, description.name)
    if note and cached(exact, files) is None:
        note(f"downloading the base {reference} from the Hub")
    folder = download(exact, [CONFIG_FILE, *files], progress=progress)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise BaseError(f"the base {reference} on the Hub is incomplete: it has no {missing[0]}; tell its owner.")
    if note:
        licence = config.provenance.get("licence") or f"see https://huggingface.co/{reference.repo}"
        note(f"{reference.repo}, revision {folder.name[:12]}; licence: {licence}.")
    return folder


def complete(reference: Reference) -> Path | None:
    """The snapshot of a base on this machine if it holds every file that its `base.json` asks for, without network."""
    folder = cached(reference, (CONFIG_FILE,))
    return folder and cached(reference, (CONFIG_FILE, *read_config(folder).network.files))


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

    silence()
    with explained(str(reference), reference.repo, reference.revision, BaseError, INSTEAD):
        return Path(
            snapshot_download(
                reference.repo,
                revision=reference.revision,
                allow_patterns=patterns,
                tqdm_class=bar(progress, reference.repo),
            )
        )
