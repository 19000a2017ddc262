"""The manual page, dreampose(1), from the same declarations as `--help`: what building a wheel puts next to the package."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from typer.core import TyperOption

from ..version import __version__
from .app import command_tree
from .help import long_name
from .settings import leaves, options_of

ENVIRONMENT = {
    "DREAMPOSE_BASE": "The base to use.",
    "DREAMPOSE_CACHE": "The cache folder.",
    "DREAMPOSE_CONFIG": "The config file, in place of the one below.",
    "DREAMPOSE_DEBUG": "The traceback of every error.",
    "DREAMPOSE_RENDER_STEPS": "And so on: every option of every command has a variable named after both.",
}
FILES = {
    "~/.config/dreampose/config.toml": "A table for each command, with the options' names: [render], steps = 50. "
    "[all] is for every command. In the platform's own place on macOS and Windows; `dreampose doctor` says where.",
}
EXIT_STATUS = {"0": "Done.", "1": "An error; one sentence says which.", "2": "A wrong command line.", "130": "Ctrl-C."}


def page() -> str:
    """The page in the macros of man(7)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    tree = command_tree()
    summary, _, examples = inspect.cleandoc(tree.help or "").partition("\n\n")
    yield f'.TH DREAMPOSE 1 "" "dreampose {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"dreampose \\- {_text(summary[0].lower() + summary[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield "\\fBdreampose\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield _text(summary)
    yield from _example(examples.replace("\b\n", ""))
    yield "The path or the id of a result is the last line on standard output; everything else goes to standard error."
    yield ".SH COMMANDS"
    for path, command in leaves(tree):
        yield f".SS dreampose {_text(' '.join(path))}"
        for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
            title, _, rest = paragraph.replace("\b\n", "").partition(":\n")
            if re.fullmatch("Examples?", title):
                yield from _example(rest)
            else:
                yield from [*([".PP"] if number else []), _text(" ".join(paragraph.split()))]
        for argument in (one for one in command.params if not isinstance(one, TyperOption)):
            yield from [".TP", f"\\fI{_text(argument.metavar or argument.name)}\\fR", _text(argument.help or "")]
        for option in options_of(command).values():
            yield from [".TP", _names(option), f"{_text(option.help or '')}{_default(option)}"]
    for title, rows in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES), ("EXIT STATUS", EXIT_STATUS)):
        yield f".SH {title}"
        for name, words in rows.items():
            yield from [".TP", f"\\fB{_text(name)}\\fR", _text(words)]


def _example(text: str) -> Iterator[str]:
    yield from [
        ".PP",
        ".nf",
        *(f"    {_text(line.strip())}" for line in text.splitlines() if line.strip()),
        ".fi",
        ".PP",
    ]


def _names(option: TyperOption) -> str:
    names = sorted(option.opts, key=lambda name: (name.startswith("--"), name != f"--{long_name(option)}"))
    metavar = "" if option.is_flag else f" \\fI{_text(option.metavar or '')}\\fR"
    return ", ".join(f"\\fB{_text(name)}\\fR" for name in names) + metavar


def _default(option: TyperOption) -> str:
    shown = option.show_default if isinstance(option.show_default, str) else option.default
    return "" if shown is None or option.is_flag or callable(shown) else f" Default: {_text(str(shown))}."


def _text(text: str) -> str:
    """Text without meaning to the formatter: backslashes, hyphens that are to be copied, and dots that begin a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
