"""`dreampose cache export` and `cache import`: subjects and poses from one cache to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OutputExistsError
from . import candidates, options
from .output import Output, size


def export(
    entry: Annotated[
        str,
        typer.Argument(
            metavar="ENTRY",
            help="A subject or poses: id (or its beginning), name, photo.",
            autocompletion=candidates.entries,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a subject or poses into one file, for another cache; print its path.

    Example:
      dreampose cache export anna -o anna.dreampose
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from .. import media
    from ..cache import export_entry, user_cache

    if output.exists() and not overwrite:
        raise OutputExistsError.at(output)
    found = user_cache().find_entry(entry)
    with media.atomic_path(output) as part:
        export_entry(found, part)
    out.note(f"{found.kind} {found.id}, {size(output.stat().st_size)}")
    out.result(output, {"path": output, "kind": found.kind, "id": found.id, "bytes": output.stat().st_size})


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `cache export` wrote.")],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put an exported subject or poses into this cache; print its id.

    Every part is compared with its checksum first. What is there already stays.

    Example:
      dreampose cache import anna.dreampose
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import import_entry, user_cache

    kind, id, path, new = import_entry(user_cache(), file)
    out.note(f"{kind} {id}{'' if new else ' was there already'}")
    out.result(id, {"kind": kind, "id": id, "path": path, "new": new})
