"""Options that are not typed: from the environment (DREAMPOSE_RENDER_STEPS), and from a file of the user's.

The file is TOML: a table for each command with the options' names as they are typed, and [all] for every command that has
the option. The command line comes first, then the environment, then the command's table, then [all]::

    [all]
    device = "cuda:1"

    [render]
    steps = 50
    side-by-side = true

    [cache.prune]
    older-than = 30
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperOption

from ..errors import UsageError
from ..regular import require_regular
from .help import long_name

FILE_VARIABLE = "DREAMPOSE_CONFIG"
ALL = "all"
MAX_BYTES = 1_000_000
# What is read elsewhere and is no option.
OTHER_VARIABLES = ("DREAMPOSE_BASE", "DREAMPOSE_CACHE", "DREAMPOSE_CONFIG", "DREAMPOSE_DEBUG")


def config_file() -> Path:
    """The file that is read; it need not exist."""
    chosen = os.environ.get(FILE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_config_dir

    return Path(user_config_dir("dreampose", appauthor=False)) / "config.toml"


def leaves(command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it: (("cache", "ls"), command)."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield path, command


def options_of(command) -> dict[str, TyperOption]:
    """A command's options by their names in words."""
    return {long_name(one): one for one in command.params if isinstance(one, TyperOption)}


def variable(path, option: TyperOption) -> str:
    """The environment variable of an option: DREAMPOSE_CACHE_PRUNE_OLDER_THAN."""
    return "_".join(["DREAMPOSE", *path, long_name(option)]).upper().replace("-", "_")


def name_variables(root) -> None:
    """Let every option of every command be read from its variable."""
    for path, command in leaves(root):
        for option in options_of(command).values():
            option.envvar = variable(path, option)
            option.show_envvar = False


def unknown_variables(root, environment: Mapping[str, str] = os.environ) -> tuple[list[str], list[str]]:
    """Variables that begin as ours: those that are read, and those that nobody reads."""
    known = {variable(path, option) for path, command in leaves(root) for option in options_of(command).values()}
    ours = sorted(name for name, value in environment.items() if name.startswith("DREAMPOSE_") and value)
    return [n for n in ours if n in known], [n for n in ours if n not in known and n not in OTHER_VARIABLES]


def called(root, words: list[str]) -> tuple[tuple[str, ...], Any]:
    """The command that a command line calls, with its words; the root where there is none."""
    path: tuple[str, ...] = ()
    command = root
    for word in words:
        if word in getattr(command, "commands", {}):
            path, command = (*path, word), command.commands[word]
        elif not word.startswith("-"):
            break
    return path, command


def defaults_for(root, words: list[str]) -> dict[str, Any]:
    """The settings in the user's file, for a command line; nothing where it is about help or names, or to see what is wrong."""
    path, command = called(root, words)
    helps = not words or "--help" in words or "-h" in words or os.environ.get("_DREAMPOSE_COMPLETE")
    return {} if helps or hasattr(command, "commands") or path in (("completion",), ("doctor",)) else read(root)


def is_on(name: str, root, words: list[str], defaults: dict[str, Any]) -> bool:
    """Whether the flag `name` of the command called is set in the environment or in the user's file."""
    path, command = called(root, words)
    option = options_of(command).get(name)
    if option is None:
        return False
    given = os.environ.get(variable(path, option))
    if given:
        return given.strip().lower() in ("1", "true", "t", "yes", "y", "on")
    for word in path:
        defaults = defaults.get(word, {})
    return bool(defaults.get(option.name))


def read(root) -> dict[str, Any]:
    """The user's file as defaults of the command line's parser; {} where there is none. UsageError for what cannot be
    read, a command or an option that does not exist, and a value that an option cannot have."""
    path = config_file()
    if os.fspath(path) == os.devnull:  # none, and no other device
        return {}
    try:
        require_regular(path)
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE):
            raise UsageError(f"{path} does not exist; mend {FILE_VARIABLE}, or unset it.") from None
        return {}
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}; mend it, or remove it.") from problem
    if not raw.strip():
        return {}
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES // 10**6} MB, which no config file is; mend it.")
    import tomllib

    try:
        found = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as problem:  # also of text that is no UTF-8
        reason = "it is nested too deep" if isinstance(problem, RecursionError) else str(problem).split(";")[0]
        raise UsageError(f"{path} is no TOML that can be read ({reason}); mend it.") from problem
    return _defaults(root, found, path)


def _defaults(root, found: dict[str, Any], file: Path) -> dict[str, Any]:
    """The file's tables as the parser's nested defaults, {"cache": {"prune": {"older_than": "30"}}}."""
    commands = {path: options_of(command) for path, command in leaves(root)}
    tables = _tables(found, commands, file)
    common = tables.pop((ALL,), {})
    _require(common, {name for options in commands.values() for name in options}, ALL, "an option of no command", file)
    defaults: dict[str, Any] = {}
    for path, options in commands.items():
        title, table = ".".join(path), tables.get(path, {})
        _require(table, options, title, "no option of it", file)
        given = {name: (value, ALL) for name, value in common.items() if name in options}
        given |= {name: (value, title) for name, value in table.items()}
        values = {options[n].name: _value(options[n], v, f"{file}: {n} in [{t}]") for n, (v, t) in given.items()}
        if values:
            place = defaults
            for word in path[:-1]:
                place = place.setdefault(word, {})
            place[path[-1]] = values
    return defaults


def _tables(found: dict[str, Any], commands, file: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """The tables by the command's words, those of a group's commands too."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    first = {path[0] for path in commands}
    for name, value in found.items():
        if name != ALL and name not in first:
            raise UsageError(f"{file}: {name!r} is no command{_near(name, first | {ALL})}.")
        members = {path[1] for path in commands if path[0] == name and len(path) > 1}
        if not members or not isinstance(value, dict):
            tables[(name,)] = _table(value, name, file)
            continue
        _require(value, members, name, "no command of it", file)
        tables |= {(name, word): _table(part, f"{name}.{word}", file) for word, part in value.items()}
    return tables


def _table(value: Any, title: str, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{file}: {title} must be a table, [{title}] with options in it.")
    return value


def _require(names, known, title: str, what: str, file: Path) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{file}: [{title}] has {name!r}, which is {what}{_near(name, known)}.")


def _value(option: TyperOption, value: Any, where: str) -> Any:
    """A value as the parser takes it: text, but for a flag. UsageError for what an option cannot be."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where} is {_shown(value)}, but must be true or false.")
        return value
    if option.multiple:
        each = value if isinstance(value, list) else [value]
        return [_plain(one, where) for one in each]
    return _plain(value, where)


def _plain(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where} is {_shown(value)}, but must be text or a number.")
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        raise UsageError(f"{where} is a number out of range.") from None
    if "\0" in text:
        raise UsageError(f"{where} holds a NUL, which no option can.")
    return text


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "something else"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _near(name: str, known) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(known), 1)
    return f"; do you mean {close[0]!r}?" if close else ""
