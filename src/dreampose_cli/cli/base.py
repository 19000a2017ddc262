"""`dreampose base`: the bases there are, what each one is, and how others come here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..names import BASE_KINDS, check_name
from . import candidates, options
from .help import Command
from .output import Output, plain, table


def ls(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """List the bases on this machine: bundled, trained, imported.

    Example:
      dreampose base ls
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..bases.registry import list_bases

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
        typer.Argument(
            metavar="BASE",
            help="Name, folder, or owner/name on the Hub.",
            autocompletion=candidates.bases,
            show_default="the one used without --base",
        ),
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
    from ..bases.registry import describe, resolve_base

    path = resolve_base(base, out.note)
    facts = plain(describe(path))
    out.page(_lines(facts), facts, [path])


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the weights, as it was downloaded.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What to call the base here.", callback=check_name)
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help=f"{', '.join(BASE_KINDS[:-1])} or {BASE_KINDS[-1]}.",
            callback=options.one_of("kind", BASE_KINDS),
            autocompletion=lambda: list(BASE_KINDS),
        ),
    ] = "dreampose",
    stable_diffusion: Annotated[
        str | None,
        typer.Option(
            "--stable-diffusion",
            metavar="SOURCE",
            help="Hub repository or folder of the rest.",
            show_default="Stable Diffusion 1.4, or 1.5",
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae",
            metavar="SOURCE",
            help="Hub repository or folder of the autoencoder.",
            show_default="stabilityai/sd-vae-ft-mse",
        ),
    ] = None,
    image_encoder: options.ImageEncoder = None,
    epoch: Annotated[
        int | None, options.whole("--epoch", "E", "Which of several checkpoints.", 0, default="the highest")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make published weights a base; print its folder.

    The official DreamPose's, linked from github.com/johannakarras/DreamPose; MagicAnimate's or AnimateAnyone's, from the
    Hub. What they lack comes from the Hub, or from folders.

    Examples:
      dreampose base import DreamPose/checkpoints --name dreampose
      dreampose base import MagicAnimate --kind magicanimate --name magic
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    if kind == "dreampose" and vae is not None:
        raise UsageError("--vae is for --kind magicanimate and animate-anyone; DreamPose brings its own.")
    if kind != "dreampose" and epoch is not None:
        raise UsageError("--epoch is for --kind dreampose; the others have one checkpoint.")
    if kind == "magicanimate" and image_encoder is not None:
        raise UsageError("--image-encoder is for --kind dreampose and animate-anyone; MagicAnimate has none.")
    asked = {"name": name, "stable_diffusion": stable_diffusion, "overwrite": overwrite, "note": out.note}
    from ..bases.registry import describe

    with out.progress(None, "importing") as progress:
        if kind == "dreampose":
            from ..networks.dreampose.importer import import_official

            path = import_official(folder, image_encoder=image_encoder, epoch=epoch, progress=progress, **asked)
        else:
            from ..networks.animate.importers import import_published

            path = import_published(kind, folder, vae=vae, image_encoder=image_encoder, progress=progress, **asked)
    out.note(f"use it with --base {name}")
    out.result(path, describe(path))


def pull(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="owner/name or owner/name@revision on the Hugging Face Hub.")
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Download a base from the Hub, or what is new of it; print its folder.

    `--base owner/name` does so by itself where the base is not here yet, and does not look for a newer one.

    Example:
      dreampose base pull owner/name
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..bases.registry import describe
    from ..bases.registry import pull as pull_base

    with out.progress(None, "downloading") as progress:
        path = pull_base(repository, out.note, progress)
    out.result(path, describe(path))


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


app = typer.Typer(help="List, describe, import and download bases.", no_args_is_help=True)
for command in (ls, info, import_, pull):
    app.command(command.__name__.rstrip("_"), help=options.described(command), cls=Command)(command)
