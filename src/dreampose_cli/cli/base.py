"""`dreampose base`: the bases there are, and what each one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from . import options
from .output import Output, plain, table


def ls(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """List the bases on this machine: bundled, trained, imported.

    Example:
      dreampose base ls
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..model.bases import list_bases

    bases = list_bases()
    rows = [[entry.name, entry.kind, entry.summary] for entry in bases]
    out.page(
        table(["NAME", "KIND", "WHAT IT IS"], rows) if rows else ["no bases"],
        {"bases": bases},
        [entry.name for entry in bases],
    )


def info(
    base: Annotated[
        str | None,
        typer.Argument(metavar="BASE", help="Name or folder.", show_default="the one used without --base"),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what a base is: architecture, settings, origin, figures.

    Examples:
      dreampose base info
      dreampose base info mini --json
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..model.bases import describe, resolve_base

    path = resolve_base(base, out.note)
    facts = plain(describe(path))
    out.page(_lines(facts), facts, [path])


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping) and value:
            yield f"{indent}{label}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{label.ljust(width)}  {_text(value)}".rstrip()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else "-" if value in (None, {}) else str(value)


app = typer.Typer(help="List and describe bases.", no_args_is_help=True)
for command in (ls, info):
    app.command(command.__name__, help=options.described(command))(command)
