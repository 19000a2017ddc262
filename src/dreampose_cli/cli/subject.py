"""`dreampose subject`: what there is to do with a tuned subject besides rendering it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import candidates, options
from .help import Command, Group
from .output import Output


def export(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT", help="Id, name, or a photo it was tuned from.", autocompletion=candidates.subjects
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a subject into a folder to give away; print its path.

    What rendering needs, and no more: no names and checksums of photos, no times, no name of a person. The photos, at the
    base's size, are in it. For another machine of your own there is `dreampose cache export`.

    Example:
      dreampose subject export anna -o anna/
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import user_cache
    from ..subjects.export import export_subject

    entry = user_cache().find_subject(subject)
    export_subject(entry.path, output, overwrite=overwrite)
    out.note(f"there it is to be {entry.id}: in the cache's subjects/{entry.id}")
    out.result(output, {"path": output, "id": entry.id})


app = typer.Typer(help="Give a tuned subject away.", no_args_is_help=True, cls=Group)
app.command("export", help=options.described(export), cls=Command)(export)


@app.callback()
def _group() -> None:
    """A group, although it has one command."""
