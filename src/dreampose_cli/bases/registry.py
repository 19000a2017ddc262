"""Which bases there are, and which one is meant. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .. import cache
from ..errors import BaseError
from ..reporting import Caution
from . import repositories as hub
from .config import CONFIG_FILE, read_config

MINI = "mini"
OFFICIAL_HOME = "https://github.com/johannakarras/DreamPose"
MINI_NOTE = Caution(
    "base mini knows mannequins only. For people: import the official checkpoints, which the authors link from "
    f"{OFFICIAL_HOME} (`dreampose base import DIR --name NAME`), train on videos (`dreampose train VIDEOS -o BASE "
    "--base CompVis/stable-diffusion-v1-4`), or name a base on the Hub (`--base owner/name`)."
)


@dataclass(frozen=True)
class BaseEntry:
    """A base on this machine; resolution is (height, width)."""

    name: str
    kind: str  # "bundled", "trained" or "imported"
    path: Path
    resolution: tuple[int, int] | None
    summary: str


def bundled() -> Path:
    """The folder of `mini`."""
    return Path(str(resources.files("dreampose_cli") / "data" / "mini"))


def list_bases() -> list[BaseEntry]:
    """`mini` and the bases in the store, by name; damaged ones say so in their summary."""
    folders = [(MINI, bundled(), "bundled")] if (bundled() / CONFIG_FILE).exists() else []
    home = cache.root() / "bases"
    if home.is_dir():
        folders += [(p.name, p, None) for p in sorted(home.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    entries = []
    for name, path, kind in folders:
        try:
            config = read_config(path)
        except BaseError as error:
            entries.append(BaseEntry(name, kind or "trained", path, None, f"broken: {error}"))
            continue
        kind = kind or ("imported" if "imported_from" in config.provenance else "trained")
        height, width = config.resolution
        entries.append(BaseEntry(name, kind, path, config.resolution, f"{width}x{height}, knows {config.people}"))
    return entries


def register(folder: Path, note: Callable[[str], None] | None = None) -> None:
    """Make a trained base known by its folder's name: a link in the store, so that `base ls` and the default see it.

    A base of that name that was imported stays; then the folder's path names the new one.
    """
    link = cache.path_of("base", folder.name)
    try:
        cache.ensure()
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink():
            link.unlink()
        link.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError:
        if note:
            note(f"{folder.name} is not a name for this base here; use --base {folder}.")


def resolve_base(
    name: str | None,
    note: Callable[[str], None] | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Path:
    """The folder of the base meant: `name`, else DREAMPOSE_BASE, else the only own one, else `mini` with a note.

    `name` is `mini`, a base in the store, a folder, or a repository on the Hub (owner/name[@revision]), which is
    downloaded where it is not here yet. Raises BaseError naming what there is.
    """
    name = name or os.environ.get("DREAMPOSE_BASE") or None
    if name is None:
        own = [entry for entry in list_bases() if entry.kind != "bundled" and entry.resolution]
        if len(own) == 1:
            return own[0].path
        if len(own) > 1:
            names = ", ".join(entry.name for entry in own)
            raise BaseError(f"several bases are here ({names}); choose one with --base or DREAMPOSE_BASE.")
        if note:
            note(MINI_NOTE)
        return bundled()
    if name == MINI:
        return bundled()
    if _is_stored(name):
        return cache.root() / "bases" / name
    if Path(name).is_dir():
        read_config(Path(name))
        return Path(name)
    reference = hub.parse(name)
    if reference is not None:
        return hub.pull_base(reference, update=False, progress=progress, note=note)
    known = ", ".join(entry.name for entry in list_bases()) or "none"
    raise BaseError(f"unknown base {name!r}: no folder and no base of that name; known are: {known}.")


def to_download(name: str | None = None) -> str | None:
    """The repository on the Hub that `resolve_base` would download for `name`; None where it would not. Asks nobody."""
    name = name or os.environ.get("DREAMPOSE_BASE") or MINI
    reference = hub.parse(name)
    if reference is None or _is_stored(name) or Path(name).is_dir():
        return None
    return None if hub.complete(reference) else name


def pull(
    name: str,
    note: Callable[[str], None] | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Path:
    """Download the base `owner/name[@revision]`, or what is new of it, and return its folder. Raises BaseError."""
    reference = hub.parse(name)
    if reference is None:
        raise BaseError(f"{name!r} is no repository on the Hub; it is written owner/name or owner/name@revision.")
    return hub.pull_base(reference, update=True, progress=progress, note=note)


def lasting_name(path: Path) -> str:
    """What to call the base in `path` where it must be found again: owner/name@commit from the Hub, else its name."""
    return hub.origin(path) or read_config(path).name


def _is_stored(name: str) -> bool:
    return (cache.root() / "bases" / name / CONFIG_FILE).exists()


def describe(path: Path) -> dict[str, Any]:
    """Everything `base.json` says, with the folder's size in bytes."""
    import dataclasses

    config = read_config(path)
    weights = [p for p in Path(path).rglob("*.safetensors") if "checkpoints" not in p.relative_to(path).parts]
    size = sum(p.stat().st_size for p in weights)
    source = {"hub": found} if (found := hub.origin(path)) else {}
    return {"path": str(path), **source, "bytes": size, **dataclasses.asdict(config)}
