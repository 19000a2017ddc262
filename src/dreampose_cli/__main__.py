"""main(): the one place where an error becomes words on stderr and an exit code.

0 done, 1 an error of ours (one sentence), 2 a wrong command line, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings

from .errors import UsageError, document, printable, shown, wrapped


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    _open_streams()
    # Threads that spin while they wait take the core from the one they wait for where anything else computes; OpenMP reads this
    # when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = bool(os.environ.get("DREAMPOSE_DEBUG")) or "-v" in words or "--verbose" in words
    _prepare_streams()
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # the libraries' notes to developers
    code = _run(words, debug)
    return _flush(code)


def _run(words: list[str], debug: bool) -> int:
    as_json = "--json" in words
    try:
        from .cli.app import command_tree
        from .cli.settings import defaults_for, is_on

        tree = command_tree()
        defaults = defaults_for(tree, words)
        as_json = as_json or is_on("json", tree, words, defaults)
        code = tree.main(
            args=words, prog_name="dreampose", standalone_mode=not as_json, default_map=defaults, windows_expand_args=False
        )
        if as_json and code == 130:
            _say(_interrupted(words))
        return code if as_json and isinstance(code, int) else 0
    except SystemExit as stop:  # how Typer ends: help, usage errors, and 130 for Ctrl-C
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if code == 130:
            _say(_interrupted(words))
        return code
    except KeyboardInterrupt:
        _say(_interrupted(words))
        return 130
    except BrokenPipeError:
        return 1  # the reader has gone; there is nobody to tell
    except Exception as problem:
        if debug and not isinstance(problem, UsageError):
            with contextlib.suppress(OSError):
                traceback.print_exc()
        found = document(problem, words)
        _say(f"error: {found['error']['message']}")
        if as_json:
            _print_once(found)
        return getattr(problem, "exit_code", 1)


def _interrupted(words: list[str]) -> str:
    """The state that Ctrl-C leaves, by command."""
    ways = dict.fromkeys(("tune", "render", "batch", "eval", "poses", "base pull"), "the same command resumes")
    ways["train"] = "the same command with --resume resumes"
    names = [word for word in words if not word.startswith("-")]
    way = ways.get(" ".join(names[:1])) or ways.get(" ".join(names[:2]))
    return f"interrupted; {way}" if way else "interrupted"


def _print_once(found: dict) -> None:
    """The error as the one JSON document, unless the command has printed its own."""
    from .cli.output import Output

    if not Output.printed:
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps(found, indent=2, ensure_ascii=False))


def _open_streams() -> None:
    """Put something in the place of streams that the caller has closed: else the next file that is opened would get their
    number, and whatever is printed would land in it. What is printed on a closed standard output is an error, later."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            descriptor = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _prepare_streams() -> None:
    """Any file name can be printed: names that are no valid text as their bytes, letters the terminal lacks escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _say(text: str) -> None:
    """A sentence on stderr; on a terminal its lines end between words."""
    text = printable(shown(text))
    with contextlib.suppress(OSError, ValueError):
        print(wrapped(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def _flush(code: int) -> int:
    """Write out what is buffered now, so that a closed pipe or a full disk shows here and not at interpreter exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return code or 1
    except OSError as problem:
        if not code:
            _say(f"error: the result cannot be written to standard output ({problem.strerror}); send it elsewhere.")
        _discard_stdout()
        return code or 1
    return code


def _discard_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
