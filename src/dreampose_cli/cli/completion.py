"""`dreampose completion`: the script by which a shell completes commands, options, names and files."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .output import Output

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
VARIABLE = "_DREAMPOSE_COMPLETE"


def completion(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="SHELL",
            help=f"{', '.join(SHELLS[:-1])} or {SHELLS[-1]}.",
            callback=options.one_of("shell", SHELLS),
            autocompletion=lambda: list(SHELLS),
        ),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Print the script by which a shell completes commands and names.

    Put it where the shell looks for such scripts, and open a new terminal.

    Examples:
      dreampose completion bash >> ~/.bashrc
      dreampose completion zsh > ~/.zfunc/_dreampose
      dreampose completion fish > ~/.config/fish/completions/dreampose.fish
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from typer.completion import get_completion_script

    script = get_completion_script(prog_name="dreampose", complete_var=VARIABLE, shell=shell)
    out.result(script, {"shell": shell, "script": script})
