"""main(): the one place where an error becomes words on stderr and an exit code.

0 done, 1 an error of ours (one sentence), 2 a wrong command line, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings

from .errors import DreamposeError, UsageError, sentence


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    debug = bool(os.environ.get("DREAMPOSE_DEBUG")) or "-v" in words or "--verbose" in words
    _prepare_streams()
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # the libraries' notes to developers
    code = _run(words, debug)
    return _flush(code)


def _run(words: list[str], debug: bool) -> int:
    try:
        from .cli.app import app

        app(args=words, prog_name="dreampose")
        return 0
    except SystemExit as stop:  # how Typer ends: help, usage errors, and 130 for Ctrl-C
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if code == 130:
            _say("interrupted")
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        return 1  # the reader has gone; there is nobody to tell
    except Exception as problem:
        if debug and not isinstance(problem, UsageError):
            with contextlib.suppress(OSError):
                traceback.print_exc()
        _say(f"error: {sentence(problem)}")
        return problem.exit_code if isinstance(problem, DreamposeError) else 1


def _prepare_streams() -> None:
    """Any file name can be printed: names that are no valid text as their bytes, letters the terminal lacks escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _flush(code: int) -> int:
    """Write out what is buffered now, so that a closed pipe or a full disk shows here and not at interpreter exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return code or 1
    except OSError as problem:
        _say(f"error: {sentence(problem)}")
        _discard_stdout()
        return code or 1
    return code


def _discard_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
