"""Files from the Hugging Face Hub, by its own client and in its own cache; each way to fail in a sentence of its own."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DreamposeError

Progress = Callable[[int, int | None, str], None]
REACHABLE_WITHIN = 5.0  # seconds; the client alone tries for half a minute
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


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
    _require_hub(what, error, instead)
    if before:
        before()
    with _sentences(what, repository, revision, error, instead):
        return Path(hf_hub_download(repository, file, revision=revision, tqdm_class=_bar(progress, file)))


def _require_hub(what: str, error: type[DreamposeError], instead: str) -> None:
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
def _sentences(
    what: str, repository: str, revision: str, error: type[DreamposeError], instead: str
) -> Iterator[None]:
    """Turn every failure of a download into `error`."""
    from huggingface_hub import errors as hub

    page = f"https://huggingface.co/{repository}"
    otherwise = f", or {instead}" if instead else ""
    chatter = logging.getLogger("huggingface_hub")
    level = chatter.level
    chatter.setLevel(logging.ERROR)  # its warnings of retries would break into the progress
    try:
        yield
    except hub.GatedRepoError as problem:  # before RepositoryNotFoundError, whose subclass it is
        raise error(
            f"{what} is gated: accept its terms on {page} and log in with `hf auth login`{otherwise}."
        ) from problem
    except hub.RepositoryNotFoundError as problem:
        raise error(
            f"{what} cannot be downloaded: there is no repository {repository} on the Hub, or it is private; check the "
            f"name, log in with `hf auth login`{otherwise}."
        ) from problem
    except hub.RevisionNotFoundError as problem:
        raise error(f"{repository} has no revision {revision!r}; see {page}/commits{otherwise}.") from problem
    except hub.LocalEntryNotFoundError as problem:  # before EntryNotFoundError, whose subclass it is
        raise error(
            f"{what} cannot be downloaded: the connection to the Hub was lost; run the command again{otherwise}."
        ) from problem
    except hub.EntryNotFoundError as problem:
        raise error(f"{what} cannot be downloaded: the repository has no such file; see {page}{otherwise}.") from problem
    except hub.HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", "unknown")
        raise error(
            f"{what} cannot be downloaded: the Hub answers with status {status}; try again later{otherwise}."
        ) from problem
    except OSError as problem:
        if problem.errno in _FULL:
            raise error(
                f"{what} cannot be downloaded: the disk is full; free some space, or set HF_HOME to a larger disk."
            ) from problem
        raise error(
            f"{what} cannot be saved ({problem.strerror or problem}); check the folder of HF_HOME{otherwise}."
        ) from problem
    except Exception as problem:  # broken connections carry the transport's types, which change between releases
        raise error(
            f"the download of {what} was interrupted ({problem or type(problem).__name__}); run the command again"
            f"{otherwise}."
        ) from problem
    finally:
        chatter.setLevel(level)


def _bar(progress: Progress | None, file: str) -> type:
    """A silent tqdm that reports megabytes to `progress`."""
    from tqdm.std import tqdm

    class Bar(tqdm):
        def __init__(self, *args, **options) -> None:
            options.pop("name", None)
            self._bytes, self._whole = options.get("initial") or 0, options.get("total")
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self._bytes += n or 0
            if progress:
                progress(int(self._bytes / 1e6), int(self._whole / 1e6) if self._whole else None, f"MB of {file}")

    return Bar
