"""Help that can be read: options in groups, a line each where it fits; `-h` shows on one screen what is used most."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ..errors import UsageError

FEW = 8  # options that need no groups
BRIEF_LINES = 23  # of a terminal with 24, since the prompt takes one
NAME_COLUMN = 26
PANELS = {
    "Input": "photo photo_pose subject subjects poses jobs edit edit_where base photo_index photos start end suite "
    "compare clips min_gap frames size:eval align_by image_encoder control vae test_subjects "
    "doodles kind stable_diffusion epoch",
    "Result": "output size fps png side_by_side audio format preview per_frame report c2pa_key name untuned dry_run overwrite",
    "Scores": "metrics fail_under fail_over tune ablations",
    "Poses": "estimator trust_code estimator_size person facing interpolate align pose_pictures where face",
    "Denoising": "model prompt guidance image_guidance pose_guidance guidance_interval steps sampler strength seed noise "
    "start_noise window appearance_once",
    "Learning": "preset stages resume epochs max_steps steps:tune tune_steps decoder_steps learning_rate "
    "decoder_learning_rate optimizer lora_rank ema size:train pose_window pose_channels unet_image_input clip_only null_pose "
    "reference control_alone frames:train stride save_every keep validate_every tracker seed:tune seed:train",
    "Machine": "engine workers devices shard retries max_failures timeout batch_size gradient_accumulation_steps "
    "gradient_checkpointing eight_bit_adam prepare_workers prefetch_threads memory compile device dtype",
    "Screen": "json quiet verbose help",
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
BRIEF = {  # what `-h` names of commands whose options do not fit a screen
    "tune": "base name poses lora_rank steps memory",
    "render": "poses output subject photo base steps seed fps side_by_side audio overwrite",
    "batch": "poses output jobs base steps workers dry_run",
    "edit": "output where face guidance steps overwrite",
    "poses": "output estimator person fps preview overwrite",
    "eval": "metrics report fail_under suite output overwrite",
    "train": "output preset base resume epochs max_steps device",
    "synth": "subjects test_subjects frames size seed workers overwrite",
    "base import": "name kind stable_diffusion overwrite",
    "cache prune": "older_than max_size dry_run yes",
}


def long_name(option: TyperOption) -> str:
    """An option's name in words, as it is typed: "side-by-side"."""
    return next(text[2:] for text in option.opts if text.startswith("--"))


class Command(TyperCommand):
    """A command whose help is grouped, and whose errors say where a value that was not typed comes from."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["brief"] = "-h" in args and "--help" not in args
        with _attributed(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any):
        with _attributed(ctx):
            return super().invoke(ctx)

    def format_help(self, ctx, formatter) -> None:
        if not ctx.meta.get("brief"):
            super().format_help(ctx, formatter)
            return
        self.format_usage(ctx, formatter)
        summary, _, rest = (self.help or "").partition("\n\n")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(summary)
        if examples := re.search(r"Examples?:\n((?: +.*\n?)+)", rest):
            formatter.write_paragraph()
            for line in examples[1].splitlines()[:2]:
                formatter.write(f"  {line.rstrip()}\n")
        self.format_options(ctx, formatter)

    def format_options(self, ctx, formatter) -> None:
        options = [one for one in self.get_params(ctx) if isinstance(one, TyperOption) and not one.hidden]
        arguments = [
            (one.metavar or one.name, _shorter((one.get_help_record(ctx) or ("", ""))[1]).removesuffix("  [required]"))
            for one in self.get_params(ctx)
            if one.param_type_name == "argument"
        ]
        path = " ".join(ctx.command_path.split()[1:])
        shown = [one for one in options if one.name in BRIEF[path].split()] if self._is_brief(ctx, path) else options
        rows = {one.name: (_names(one), _text(one, ctx)) for one in shown}
        width = min(NAME_COLUMN, max((len(term) for term, _ in [*rows.values(), *arguments]), default=0))
        if arguments:
            _section(formatter, "Arguments", arguments, width)
        if len(shown) < len(options):
            _section(formatter, "Options", list(rows.values()), width)
            formatter.write(f"\n{len(options) - len(shown)} more options: dreampose {path} --help\n")
            return
        panels: dict[str, list] = {}
        for option in shown:
            panel = _PANEL_OF.get(f"{option.name}:{path}") or _PANEL_OF.get(option.name, "Options")
            panels.setdefault(panel if len(shown) > FEW else "Options", []).append(rows[option.name])
        for panel in sorted(panels, key=[*PANELS, "Options"].index):
            _section(formatter, panel, panels[panel], width)

    def _is_brief(self, ctx, path: str) -> bool:
        return bool(ctx.meta.get("brief")) and path in BRIEF


class Group(TyperGroup):
    """A group whose help is its commands, a line each, so that it fits a screen."""

    def format_options(self, ctx, formatter) -> None:
        rows = [(name, _summary(command.help or "")) for name, command in self.commands.items() if not command.hidden]
        version = any(one.name == "version" for one in self.params)
        with formatter.section(f"Commands (-h after one says more{'; -V prints the version' if version else ''})"):
            formatter.write_dl(rows)


def _summary(help: str) -> str:
    """The purpose of a command, without what it prints."""
    return f"{help.partition(chr(10))[0].partition(';')[0].rstrip('.')}."


def _section(formatter, title: str, rows: list[tuple[str, str]], width: int) -> None:
    """A group with its second column where the other groups have theirs: the first term is padded to the width."""
    (term, text), *others = rows
    with formatter.section(title):
        formatter.write_dl([(term.ljust(width), text), *others], col_max=width)


def _names(option: TyperOption) -> str:
    """ "-o, --output PATH": one name of each kind; further ones follow the text."""
    short = [name for name in option.opts if not name.startswith("--")]
    return ", ".join([*short, f"--{long_name(option)}"]) + ("" if option.is_flag else f" {option.metavar}")


def _text(option: TyperOption, ctx) -> str:
    """The line of help, with the default in brackets and other names."""
    if option.name == "help":
        return "All of this; -h: what is used most."
    text = _shorter((option.get_help_record(ctx) or ("", ""))[1])
    others = [name for name in option.opts if name.startswith("--") and name != f"--{long_name(option)}"]
    return f"{text} Also {', '.join(others)}." if others else text


def _shorter(text: str) -> str:
    """ "[default: (base's)]" as "[base's]", and nothing where the default is 0."""
    return re.sub(r"  \[default: \(?(.*?)\)?\]", lambda match: f" [{match[1]}]", text)


@contextlib.contextmanager
def _attributed(ctx: typer.Context) -> Iterator[None]:
    """A wrong value that nobody typed: the sentence says which variable or file it comes from."""
    from typer._click.exceptions import UsageError as WrongCommandLine

    try:
        yield
    except UsageError as problem:
        problem.args = (_with_origin(ctx, str(problem)),)
        raise
    except WrongCommandLine as problem:
        problem.message = _with_origin(ctx, problem.message, getattr(problem, "param", None))
        raise


def _with_origin(ctx: typer.Context, text: str, parameter=None) -> str:
    from .settings import config_file, variable

    path = ctx.command_path.split()[1:]
    for option in ctx.command.params:
        if not isinstance(option, TyperOption):
            continue
        named = option is parameter or re.search(rf"--{re.escape(long_name(option))}(?![a-z0-9-])", text)
        source = getattr(ctx.get_parameter_source(option.name), "name", "")
        if named and source in ("ENVIRONMENT", "DEFAULT_MAP"):
            origin = variable(path, option) if source == "ENVIRONMENT" else config_file()
            return f"{text.rstrip('.')}; --{long_name(option)} comes from {origin}."
    return text
