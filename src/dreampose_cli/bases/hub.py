"""The Hugging Face Hub by its own client and in its own cache: single files, and what every download shares.

`explained` has a sentence for each way to fail, `bar` reports progress, `silence` keeps the client quiet. Bases and the
components of others, whole folders, are in `bases.repositories`.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DreamposeError
from ..reporting import Progress

REACHABLE_WITHIN = 5.0  # seconds; the client alone tries for half a minute
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def fetch_file(
    repository: str,
    file: str,
    revision: str,
    *,
    error: type[DreamposeError] = DreamposeError,
    instead: str = "",
    before: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The local path of a file of `repository` (owner/name) at `revision`, downloaded if it is not there yet.

    `before` is called before a download. Whatever goes wrong is raised as `error` with one sentence, to which
    `instead` adds what else the user can do; without a network that takes seconds.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    what = f"{file} of {repository}"
    if revision != "main":
        what += f" at revision {revision}"
    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        raise error(
            f"{what} is not on this machine, and HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE once"
            f"{f', or {instead}' if instead else ''}."
        )
    require_hub(what, error, instead)
    if before:
        before()
    silence()
    with explained(what, repository, revision, error, instead):
        return Path(hf_hub_download(repository, file, revision=revision, tqdm_class=bar(progress, file)))


def require_hub(what: str, error: type[DreamposeError], instead: str) -> None:
    """Ask the hub for a sign of life, once: through the client's own session, so proxies count."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=REACHABLE_WITHIN)
    except Exception as problem:  # the transport's errors are the client's business
        raise error(
            f"{what} is not on this machine, and {constants.ENDPOINT} cannot be reached ({problem}); connect to the "
            f"network and run the command again{f', or {instead}' if instead else ''}."
        ) from problem


@contextmanager
def explained(
    what: str, repository: str, revision: str | None, error: type[DreamposeError], instead: str = ""
) -> Iterator[None]:
    """Turn whatever the client raises over a download of `what` into `error` with a sentence of its own."""
    from huggingface_hub import constants, errors

    page = f"https://huggingface.co/{repository}"
    otherwise = f", or {instead}" if instead else ""
    again = f"run the same command again: what is complete is kept{otherwise}"
    try:
        yield
    except errors.GatedRepoError as problem:  # before RepositoryNotFoundError, whose subclass it is
        raise error(
            f"{what} is gated: accept its terms on {page}, then log in with `hf auth login` (or set HF_TOKEN) and run "
            f"the command again{otherwise}."
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        raise error(
            f"{repository} is no folder here and no repository on the Hub, or a private one: check the name, log in "
            f"with `hf auth login`{otherwise}."
        ) from problem
    except errors.RevisionNotFoundError as problem:
        raise error(
            f"{repository} has no revision {revision!r}; name a branch, a tag or a commit of it ({page}/commits){otherwise}."
        ) from problem
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as problem:  # before EntryNotFoundError
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise error(
            f"{what} is not (or not wholly) on this machine and {why}; connect, then run the command again{otherwise}."
        ) from problem
    except errors.EntryNotFoundError as problem:
        raise error(
            f"{what} cannot be downloaded: the repository has no such file; see {page}{otherwise}."
        ) from problem
    except errors.HFValidationError as problem:
        raise error(f"{repository!r} cannot be a repository's name on the Hub; it is written owner/name.") from problem
    except errors.HfHubHTTPError as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        said = f" with status {status}" if status else ""
        raise error(f"the Hub answered{said} when asked for {what}; wait a little and {again}.") from problem
    except Exception as problem:  # the transport's own types change from version to version: never named here
        text = " ".join(str(problem).split())[:200] or type(problem).__name__
        number = getattr(problem, "errno", None)
        cache = f"the Hub's cache ({constants.HF_HUB_CACHE})"
        if number in _FULL or "No space left on device" in text:
            raise error(
                f"{what} cannot be saved: the disk of {cache} is full; make room, or set HF_HOME to another disk, then "
                f"{again}."
            ) from problem
        if number in _FORBIDDEN:
            raise error(
                f"{what} cannot be saved: {cache} cannot be written; make it writable or set HF_HOME{otherwise}."
            ) from problem
        raise error(f"the download of {what} was interrupted ({text}); {again}.") from problem


def silence() -> None:
    """No bars and no chatter of the client: we draw one bar of our own."""
    from huggingface_hub.utils import disable_progress_bars, logging

    if os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is None:
        disable_progress_bars()
    logging.set_verbosity_error()


def bar(progress: Progress | None, label: str) -> type:
    """A class in the form of tqdm that draws nothing and reports the megabytes of the whole download to `progress`."""
    from tqdm.std import tqdm

    seen = [0.0]

    class Bar(tqdm):
        monitor_interval = 0  # no thread that watches the bars

        def __init__(self, *args, **kwargs):
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def display(self, *args, **kwargs) -> None:
            if progress and self.unit == "B" and self.n > seen[0]:
                seen[0] = self.n
                progress(int(self.n / 1e6), int(self.total / 1e6) if self.total else None, f"MB of {label}")

    return Bar
