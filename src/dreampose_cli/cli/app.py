"""The Typer application: which commands there are. Each lives in a file of its own, and imports torch only when run."""

from __future__ import annotations

import functools
import os
from typing import Annotated

import typer
from typer.core import TyperGroup

from ..version import __version__
from . import base, batch, cache, completion, demo, doctor, edit, poses, render, subject, synth, train, tune
from . import eval as evaluation
from .help import Command, Group
from .options import described
from .settings import name_variables

app = typer.Typer(
    name="dreampose",
    cls=Group,
    subcommand_metavar="COMMAND ...",
    help="A fashion photo and a dance become a video, with the method of DreamPose.\n\n"
    "\b\n"
    "  dreampose demo                 see it work, without files of your own\n"
    "  dreampose tune photo.jpg\n"
    "  dreampose render --poses dance.mp4 -o out.mp4",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,  # `dreampose completion` prints the script, without asking which shell runs
    rich_markup_mode=None,  # plain help: twice as fast, and every option fits into 80 columns
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"dreampose {__version__}")
        raise typer.Exit


@app.callback()
def dreampose(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command in (
    tune.tune,
    render.render,
    batch.batch,
    edit.edit,
    poses.poses,
    evaluation.eval,
    demo.demo,
    train.train,
    synth.synth,
    doctor.doctor,
    completion.completion,
):
    app.command(command.__name__, help=described(command), cls=Command)(command)
app.add_typer(base.app, name="base")
app.add_typer(subject.app, name="subject")
app.add_typer(cache.app, name="cache")


def command_tree() -> TyperGroup:
    """The commands as the parser has them, every option with its environment variable."""
    if os.environ.get(completion.VARIABLE):
        from typer.completion import completion_init

        completion_init()
    return _tree()


@functools.cache  # it takes a tenth of a second, and several command lines can run in one process
def _tree() -> TyperGroup:
    tree = typer.main.get_group(app)
    name_variables(tree)
    return tree
