"""Which failures may pass if one tries again, which end the whole batch, and what to do about each, in words.

An error crosses from a worker to the driver as a `Failure`: its sentence and its class, no traceback and no object.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import DreamposeError, NoPersonError, OutOfMemoryError, sentence

MEMORY, NETWORK, LOST, TIMEOUT, DISK, INPUT, OTHER = (
    "memory",
    "network",
    "worker lost",
    "timeout",
    "disk",
    "input",
    "other",
)
PASSING = frozenset({MEMORY, NETWORK, LOST})  # worth another try
FATAL = frozenset({DISK})  # every other step would meet it too

ADVICE = {
    MEMORY: "fewer --workers, --memory low or --batch-size 1",
    NETWORK: "run the same command again when the network is there",
    LOST: "run the same command again; fewer --workers where memory ran out",
    TIMEOUT: "a larger --timeout",
    DISK: "make room and run the same command again",
    INPUT: "correct or leave out what is named, then run the same command again",
    OTHER: "run the same command again; a step that fails again is worth a report",
}
_NETWORK_ERRNOS = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH}
_NETWORK_ERRNOS |= {errno.ETIMEDOUT, errno.ESTALE, errno.EPIPE}
_NETWORK_NAMES = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError", "PoolTimeout")


@dataclass(frozen=True)
class Failure:
    """reason: one of the words above; sentence: what happened and the way out."""

    reason: str
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """The failure as a message between processes."""
        return asdict(self)


def failure_of(error: BaseException) -> Failure:
    """An error as the driver has to know it."""
    return Failure(_reason(error), sentence(error))


def _reason(error: BaseException) -> str:
    causes = list(_causes(error))
    text = " ".join(str(cause) for cause in causes).lower()
    codes = {code for cause in causes if isinstance(code := getattr(cause, "errno", None), int)}
    if codes & {errno.ENOSPC, errno.EDQUOT} or "no space left on device" in text or "the disk is full" in text:
        return DISK
    memory = any(
        isinstance(c, OutOfMemoryError | MemoryError) or type(c).__name__ == "OutOfMemoryError" for c in causes
    )
    if memory or "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text:
        return MEMORY
    if codes & _NETWORK_ERRNOS or any(isinstance(cause, ConnectionError | TimeoutError) for cause in causes):
        return NETWORK
    if any(type(cause).__name__ in _NETWORK_NAMES for cause in causes):
        return NETWORK
    if isinstance(error, NoPersonError | DreamposeError | FileNotFoundError | PermissionError):
        return INPUT
    return OTHER


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
