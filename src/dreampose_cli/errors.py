"""Every error a user can meet, as one tree.

::

    DreamposeError                 exit code 1
    ├── UsageError                 exit code 2: the words on the command line contradict each other or a range
    ├── MediaError                 a photo or video that cannot be read or written
    ├── PoseError                  a pose file or pose sequence that cannot be used
    │   └── NoPersonError          the estimator found nobody
    ├── BaseError                  a base that is unknown, incomplete or of another version
    ├── SubjectError               a subject that is unknown, incomplete or of another version
    ├── StoreError                 the user cache cannot be read or written
    ├── TrainingError              training cannot start or continue
    │   └── TrainingStopped        exit code 143: SIGTERM came, and the state was saved
    ├── EvaluationError            clips cannot be compared, or a metric is beyond the limit that was set
    ├── OutOfMemoryError           the device has too little memory, even for the smallest portion
    ├── BatchError                 some videos of a batch are missing; the others are done
    ├── EngineError                the workers of a batch are unavailable
    └── OutputError                a result cannot be written where it was asked for
        └── OutputExistsError      it exists already and --overwrite was not given

The library raises these with one sentence that names the file, the reason and the way out; `__main__.main` is the
only place where they become words on a screen and an exit code.
"""

from __future__ import annotations

import errno
import re

_NO_MEMORY = "out of memory; try --batch-size 1, a smaller photo, or another --device."
_MEMORY_WORDS = ("can't allocate memory", "Cannot allocate memory", "failed to map segment", "std::bad_alloc")  # of libraries
_FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class DreamposeError(Exception):
    """Base of all errors of this package; its text is one clear sentence for the user.

    facts: what a caller may want to know without reading the sentence, as attributes (each kind says which it has).
    """

    exit_code = 1

    def __init__(self, message: str = "", **facts: object) -> None:
        super().__init__(message)
        self.facts = facts

    def __getattr__(self, name: str) -> object:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


class UsageError(DreamposeError):
    """The request itself is wrong: a value out of range, or options that contradict each other."""

    exit_code = 2


class MediaError(DreamposeError):
    """A photo or video cannot be read or written."""


class PoseError(DreamposeError):
    """A pose file or pose sequence cannot be used."""


class NoPersonError(PoseError):
    """The estimator found nobody in the picture."""


class BaseError(DreamposeError):
    """A base is unknown, incomplete, or was made by another version."""


class SubjectError(DreamposeError):
    """A subject is unknown, incomplete, or was made by another version."""


class StoreError(DreamposeError):
    """The user cache cannot be read or written."""


class TrainingError(DreamposeError):
    """Training cannot start or continue."""


class EvaluationError(DreamposeError):
    """Clips cannot be compared, or a metric is beyond the limit that was set."""


class TrainingStopped(TrainingError):
    """SIGTERM came: the state was saved at the end of the step, and `--resume` continues."""

    exit_code = 143  # what a shell reports for a process that SIGTERM ended


class OutOfMemoryError(DreamposeError):
    """The device has too little memory, even for the smallest portion of the work."""


class BatchError(DreamposeError):
    """Some videos of a batch are missing; the others are done."""


class EngineError(DreamposeError):
    """The workers of a batch are unavailable: no process can be started, or no cluster reached."""


class OutputError(DreamposeError):
    """A result cannot be written where it was asked for."""


class OutputExistsError(OutputError):
    """The result exists already, at `path`, and overwriting was not asked for."""

    @classmethod
    def at(cls, path) -> OutputExistsError:
        return cls(f"{path} exists already; add --overwrite to replace it, or choose another -o.", path=path)


def is_full_disk(problem: BaseException) -> bool:
    """Whether it says so: by its number, or as safetensors (by the system's words) and torch (of a write cut short) do."""
    text = str(problem)
    cut = "inline_container" in text and "unexpected pos" in text
    return getattr(problem, "errno", None) in _FULL_DISK or "No space left on device" in text or cut


def sentence(problem: BaseException) -> str:
    """One sentence about `problem` for the user, with the way out where there is one."""
    if isinstance(problem, DreamposeError):
        limit = None if isinstance(problem, OutOfMemoryError | BatchError) else _limit_behind(problem)  # these say it all
        if limit == _NO_MEMORY and isinstance(problem, PoseError):
            limit = None  # an array that claims more memory than there is, is damaged
        return limit or str(problem)
    text = " ".join(str(problem).split())
    name = type(problem).__name__
    if is_full_disk(problem):
        where = getattr(problem, "filename", None)
        return f"the disk is full{f' (while writing {where})' if where else ''}; make room and run the command again."
    if limit := _limit_behind(problem):
        return limit
    if isinstance(problem, ValueError) and text == "embedded null byte":
        return "a path holds a NUL, which no name of a file can; check the paths."
    if isinstance(problem, ModuleNotFoundError) and problem.name and not problem.name.startswith("dreampose_cli"):
        return f"the Python package {problem.name!r} is missing; install dreampose-cli again."
    if isinstance(problem, OSError) and problem.strerror:
        where = f"{problem.filename}: " if problem.filename else ""
        return f"{where}{problem.strerror}."
    return (
        f"something unexpected happened ({name}: {text[:300]}). This is a fault of dreampose: please report it with "
        "what `-v` prints for the same command and what `dreampose doctor` says."
    )


def _limit_behind(problem: BaseException) -> str | None:
    """Words for a limit of the system that this error, or one that it was raised from, tells of: a file that could not be
    read for want of memory is not damaged."""
    cause: BaseException | None = problem
    while cause is not None:
        number, text = getattr(cause, "errno", None), str(cause)
        if number in (errno.EMFILE, errno.ENFILE):
            return "too many files are open; raise the limit (`ulimit -n 4096`) and run the command again."
        if number == errno.EFBIG or "File too large (os error" in text:  # the latter of safetensors
            return (
                "a file would grow beyond the limit for files here; raise it (`ulimit -f unlimited`) and run the command "
                "again."
            )
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError" or number == errno.ENOMEM:
            return _NO_MEMORY
        if any(words in text for words in _MEMORY_WORDS):
            return _NO_MEMORY
        cause = cause.__cause__
    return None


def document(problem: BaseException, words: list[str]) -> dict[str, dict[str, str | None]]:
    """An error as JSON says it: {"error": {"code", "message", "hint", "file"}}.

    code: the class in words, "media_error"; "usage_error" for a wrong command line, "unexpected_error" for a fault of
    ours. hint: the way out, the last part of the message, None where there is none. file: the path that the message
    names, of those among `words` (the command line) or of the system's error, else None.
    """
    told = sentence(problem)
    if isinstance(problem, DreamposeError):
        code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(problem).__name__).lower()
    elif hasattr(problem, "format_message"):  # of the command line's parser
        code, told = "usage_error", problem.format_message()
    else:
        code = "system_error" if isinstance(problem, OSError | MemoryError) else "unexpected_error"
    file = getattr(problem, "filename", None)
    if not isinstance(file, str):
        given = {word.split("=", 1)[-1] for word in words if not word.startswith("-") or "=" in word}
        named = sorted((word for word in given if len(word) > 1 and word in told), key=len, reverse=True)
        found = re.search(re.escape(named[0]) + r"[^\s:;,'\"]*", told) if named else None
        file = found[0].rstrip(".") if found else None
    hint = told.rpartition("; ")[2] if "; " in told else None
    return {"error": {"code": code, "message": told, "hint": hint, "file": file}}


def shown(text: str) -> str:
    """An error's words as they are shown: of a value without end, its two ends. The longest path has 4096 letters."""
    return re.sub(r"\S{5000,}", lambda match: f"{match[0][:60]}…{match[0][-60:]}", text)


def wrapped(text: str) -> str:
    """Text in lines that end between words at the terminal's width; what can be copied stays whole: a path, and an indented
    line, which is a command."""
    from shutil import get_terminal_size
    from textwrap import wrap

    width = max(20, get_terminal_size().columns)
    lines = (
        wrap(line, width, break_long_words=False, break_on_hyphens=False) if not line.startswith("  ") else [line]
        for line in text.split("\n")
    )
    return "\n".join("\n".join(pieces) for pieces in lines)


_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text for a terminal: control characters (which could move its cursor, colour it or hide a part) as escapes."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
