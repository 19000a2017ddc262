"""`dreampose doctor`: what this machine can do, and what to do about the rest."""

from __future__ import annotations

import sys

import typer

from ..errors import UsageError
from . import options
from .output import Output, table

MARKS = {"ok": "ok", "warning": "!!", "problem": "NO"}


def doctor(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Say what this machine can do, and what to do about the rest.

    The exit code is 1 when something is missing without which nothing works.

    Example:
      dreampose doctor
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..workflows.doctor import examine

    with out.progress(None, "looking"):
        findings = [*examine(), *_settings()]
    lines = table(["", "WHAT", "HERE"], [[MARKS[f.state], f.what, f.here] for f in findings])[1:]
    advice = [f"{f.what}: {f.remedy}" for f in findings if f.remedy]
    lines = _wrapped(lines, 6 + max((len(f.what) for f in findings), default=0))
    advice = _wrapped(advice, 2)
    problems = [f.what for f in findings if f.state == "problem"]
    out.page(
        [*lines, *(["", *advice] if advice else [])],
        {"healthy": not problems, "findings": findings},
        ["ok" if not problems else f"missing: {', '.join(problems)}"],
    )
    if problems:
        raise typer.Exit(1)


def _wrapped(lines: list[str], indent: int) -> list[str]:
    """On a terminal: lines that end between words, and continue under the column where they began."""
    if not sys.stdout.isatty():
        return lines
    from shutil import get_terminal_size
    from textwrap import fill

    width = max(40, get_terminal_size().columns)
    folded = (
        fill(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
        for line in lines
    )
    return [part for text in folded for part in text.split("\n")]


def _settings() -> list:
    """Findings about what is set in the environment and in the user's file."""
    from ..workflows.doctor import Finding
    from .app import command_tree
    from .settings import config_file, leaves, read, unknown_variables

    tree, file = command_tree(), config_file()
    try:
        defaults = read(tree)
        count = sum(len(_within(defaults, path)) for path, _ in leaves(tree))
        here = f"{file}, {options.counted(count, 'option')} set" if file.is_file() else f"none ({file})"
        findings = [Finding("config file", "ok", here)]
    except UsageError as problem:
        findings = [Finding("config file", "problem", str(file), str(problem))]
    used, unknown = unknown_variables(tree)
    if used:
        findings.append(Finding("environment", "ok", f"{', '.join(used)} set"))
    if unknown:
        remedy = "no option has this name; docs/cli.md says how they are named"
        findings.append(Finding("environment", "warning", f"{', '.join(unknown)} set, and not read", remedy))
    return findings


def _within(defaults: dict, path: tuple[str, ...]) -> dict:
    for word in path:
        defaults = defaults.get(word, {})
    return defaults
