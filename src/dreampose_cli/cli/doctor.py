"""`dreampose doctor`: what this machine can do, and what to do about the rest."""

from __future__ import annotations

import typer

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

    findings = examine()
    lines = table(["", "WHAT", "HERE"], [[MARKS[f.state], f.what, f.here] for f in findings])[1:]
    advice = [f"{f.what}: {f.remedy}" for f in findings if f.remedy]
    problems = [f.what for f in findings if f.state == "problem"]
    out.page(
        [*lines, *(["", *advice] if advice else [])],
        {"healthy": not problems, "findings": findings},
        ["ok" if not problems else f"missing: {', '.join(problems)}"],
    )
    if problems:
        raise typer.Exit(1)
