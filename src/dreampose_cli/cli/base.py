"""`dreampose base`: the bases there are, what each one is, and how others come here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..names import BASE_KINDS, check_name
from . import candidates, options
from .help import Command, Group
from .output import Output, plain, table


def ls(
    remote: Annotated[
        bool, typer.Option("--remote", help="List the bases that `base pull` knows by a short name.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """List the bases on this machine: bundled, trained, imported.

    Examples:
      dreampose base ls
      dreampose base ls --remote
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    if remote:
        from ..bases.published import PUBLISHED

        facts = [_facts(base) for base in PUBLISHED.values()]
        lines = [
            line
            for each in facts
            for line in (each["name"], *_lines({k: v for k, v in each.items() if k != "name"}, "  "), "")
        ]
        out.page(lines, {"bases": facts}, [each["name"] for each in facts])
        return
    from ..bases.registry import list_bases
    from ..cache import user_cache

    bases = list_bases(user_cache())
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
    from ..bases.published import PUBLISHED
    from ..bases.registry import default_base, describe, is_here, resolve_base
    from ..cache import user_cache

    cache = user_cache()

    name = base or default_base(cache).name
    if name in PUBLISHED and not is_here(cache, name):
        facts = {**_facts(PUBLISHED[name]), "here": f"not yet: dreampose base pull {name}"}
        out.page(_lines(facts), facts, [name])
        return
    path = resolve_base(cache, base, out.note)
    facts = plain(describe(path))
    out.page(_lines(facts), facts, [path])


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the weights, as it was downloaded.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The base's name here.", callback=check_name)
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
    asked: dict[str, Any] = {"name": name, "stable_diffusion": stable_diffusion, "overwrite": overwrite, "note": out.note}
    from ..bases.registry import describe
    from ..cache import user_cache

    cache = user_cache()
    with out.progress(None, "importing") as progress:
        if kind == "dreampose":
            from ..networks.dreampose.importer import import_official

            path = import_official(cache, folder, image_encoder=image_encoder, epoch=epoch, progress=progress, **asked)
        else:
            from ..networks.animate.importers import import_published

            path = import_published(
                cache, kind, folder, vae=vae, image_encoder=image_encoder, progress=progress, **asked
            )
    out.note(f"use it with --base {name}")
    out.result(path, describe(path))


def pull(
    base: Annotated[
        str,
        typer.Argument(metavar="BASE", help="A short name (`base ls --remote`), or owner/name[@revision] on the Hub."),
    ],
    keep_downloads: Annotated[
        bool, typer.Option("--keep-downloads", help="Keep the files that a short name's base was made of.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Download a base, or what is new of it; print its folder.

    A short name means published weights, which become a base here once; what was downloaded for that is removed again. An
    interrupted pull resumes. `--base` does all this by itself where a base is not here yet.

    Examples:
      dreampose base pull magicanimate
      dreampose base pull owner/name
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..bases.registry import describe
    from ..bases.registry import pull as pull_base
    from ..cache import user_cache

    with out.progress(None, "downloading") as progress:
        path = pull_base(user_cache(), base, out.note, progress, keep_downloads=keep_downloads)
    out.note(f"use it with --base {base}")
    out.result(path, describe(path))


def _facts(base: Any) -> dict[str, Any]:
    """The facts about a published base before it is here."""
    return {
        "name": base.name,
        "title": base.title,
        "download": f"{base.download / 1e9:.1f} GB",
        "size": f"{base.bytes / 1e9:.1f} GB",
        "licence": base.licence,
        "source": base.where,
        "built_on": [str(source.reference) for role, source in base.sources.items() if role != "weights"],
        "follows": base.follows,
        "needs": base.needs,
        "tuning": "needed: `dreampose tune PHOTO`" if base.tuning else "not needed: render --photo",
    }


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


app = typer.Typer(help="List, describe, import and download bases.", no_args_is_help=True, cls=Group)
for command in (ls, info, import_, pull):
    app.command(command.__name__.rstrip("_"), help=options.described(command), cls=Command)(command)
