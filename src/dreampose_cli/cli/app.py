"""The Typer application: which commands there are. Each lives in a file of its own, and imports torch only when run."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import base, cache, demo, doctor, poses, render, synth, train, tune

app = typer.Typer(
    name="dreampose",
    help="A fashion photo and a dance become a video, with the method of DreamPose.\n\n"
    "First `dreampose tune photo.jpg`, then `dreampose render --poses dance.mp4 -o out.mp4`. "
    "`dreampose demo` shows both on generated material.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"dreampose {__version__}")
        raise typer.Exit


@app.callback()
def dreampose(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


MAIN, MORE = "From a photo to a video", "Bases, data and this machine"

app.command("tune", rich_help_panel=MAIN)(tune.tune)
app.command("render", rich_help_panel=MAIN)(render.render)
app.command("poses", rich_help_panel=MAIN)(poses.poses)
app.command("demo", rich_help_panel=MAIN)(demo.demo)
app.command("train", rich_help_panel=MORE)(train.train)
app.command("synth", rich_help_panel=MORE)(synth.synth)
app.add_typer(base.app, name="base", rich_help_panel=MORE)
app.add_typer(cache.app, name="cache", rich_help_panel=MORE)
app.command("doctor", rich_help_panel=MORE)(doctor.doctor)
