"""Which bases there are, and which one is meant. Imports no torch."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..cache import Cache
from ..errors import BaseError
from ..reporting import Caution, Note, Progress
from . import repositories as hub
from .config import CONFIG_FILE, read_config
from .published import FOR_PEOPLE, PUBLISHED

MINI = "mini"
OFFICIAL_HOME = "https://github.com/johannakarras/DreamPose"
MINI_NOTE = Caution(
    "the base is mini, which ships with the package and knows mannequins only, at 128x160; for people get one with "
    f"`dreampose base pull {FOR_PEOPLE}`, which is used from then on."
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


def list_bases(cache: Cache) -> list[BaseEntry]:
    """`mini` and the bases in the store, by name; damaged ones say so in their summary."""
    folders: list[tuple[str, Path, str | None]] = []
    if (bundled() / CONFIG_FILE).exists():
        folders.append((MINI, bundled(), "bundled"))
    home = cache.root / "bases"
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


def register(cache: Cache, folder: Path, note: Note | None = None) -> None:
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


@dataclass(frozen=True)
class DefaultBase:
    """The base that is used where none is named; `missing`: it would be downloaded first."""

    name: str
    why: str
    missing: bool = False


def default_base(cache: Cache, device: str = "auto") -> DefaultBase:
    """DREAMPOSE_BASE, else the only own one, else one for people where a GPU is there, else `mini`. Asks no network.

    `device`: what is to be computed on. Raises BaseError where there are several to choose from.
    """
    if name := os.environ.get("DREAMPOSE_BASE"):
        return DefaultBase(name, "DREAMPOSE_BASE names it", not is_here(cache, name))
    own = [entry for entry in list_bases(cache) if entry.kind != "bundled" and entry.resolution]
    if len(own) > 1:
        names = ", ".join(entry.name for entry in own)
        raise BaseError(f"several bases are here ({names}); choose one with --base or DREAMPOSE_BASE.")
    if own:
        return DefaultBase(own[0].name, "the only one of your own here")
    if device != "cpu" and gpu_is_there():
        return DefaultBase(FOR_PEOPLE, "this machine has a GPU, and no other base is here", True)
    return DefaultBase(MINI, "no GPU and no other base is here")


def gpu_is_there() -> bool:
    """Whether this machine has a GPU that torch can use; torch, which takes seconds to import, is asked where one may be."""
    devices = ("nvidia[0-9]*", "kfd", "dxg")  # of NVIDIA, of AMD, and of Windows below Linux
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in devices):
        return False
    from ..device import pick_device

    return pick_device("auto").type != "cpu"


def resolve_base(
    cache: Cache,
    name: str | None,
    note: Note | None = None,
    progress: Progress | None = None,
    device: str = "auto",
) -> Path:
    """The folder of the base meant: `name`, or the `default_base` for `device`, where that is `mini` with a warning.

    `name` is `mini`, a base in the store, a folder, a short name (`published.PUBLISHED`), or a repository on the Hub
    (owner/name[@revision]); what is not here yet is downloaded. Raises BaseError naming what there is.
    """
    if name is None:
        default = default_base(cache, device)
        name = default.name
        if note and name == MINI and not os.environ.get("DREAMPOSE_BASE"):
            note(MINI_NOTE)
        if note and default.missing and name in PUBLISHED:
            note(f"the base is {name}, since {default.why}; --base mini goes without it.")
    if name == MINI:
        return bundled()
    if _is_stored(cache, name):
        return cache.root / "bases" / name
    if Path(name).is_dir():
        read_config(Path(name))
        return Path(name)
    if name in PUBLISHED:
        from .pulling import pull_published

        return pull_published(cache, PUBLISHED[name], progress=progress, note=note)
    reference = hub.parse(name)
    if reference is not None:
        return hub.pull_base(reference, update=False, progress=progress, note=note)
    known = ", ".join(entry.name for entry in list_bases(cache)) or "none"
    raise BaseError(
        f"unknown base {name!r}: no folder and no base of that name; known are: {known}; to be downloaded: "
        f"{', '.join(PUBLISHED)}."
    )


def is_here(cache: Cache, name: str) -> bool:
    """Whether `name` can be used without being downloaded first. Asks nobody."""
    if name == MINI or _is_stored(cache, name) or Path(name).is_dir():
        return True
    reference = hub.parse(name)
    return name not in PUBLISHED and (reference is None or hub.complete(reference) is not None)


def to_download(cache: Cache, name: str | None = None) -> str | None:
    """The repository that `resolve_base` would download for `name`; None where it would not. Asks nobody."""
    if name is None:
        default = default_base(cache)
        return default.name if default.missing else None
    return None if is_here(cache, name) else name


def default_estimator(cache: Cache, note: Note | None = None, progress: Progress | None = None) -> str:
    """The estimator of the base that is used where none is named, which is not downloaded for it. Raises BaseError."""
    default = default_base(cache)
    if default.missing and default.name in PUBLISHED:
        return PUBLISHED[default.name].estimator
    return read_config(resolve_base(cache, default.name, note, progress)).estimator


def pull(
    cache: Cache,
    name: str,
    note: Note | None = None,
    progress: Progress | None = None,
    *,
    keep_downloads: bool = False,
) -> Path:
    """Download the base `owner/name[@revision]`, or what is new of it, or the one of a short name; its folder.

    Raises BaseError.
    """
    if name in PUBLISHED:
        from .pulling import pull_published

        return pull_published(cache, PUBLISHED[name], keep_downloads=keep_downloads, progress=progress, note=note)
    if keep_downloads:
        raise BaseError("--keep-downloads is for the short names: a base on the Hub is used as it was downloaded.")
    reference = hub.parse(name)
    if reference is None:
        raise BaseError(
            f"{name!r} is no repository on the Hub; it is written owner/name or owner/name@revision; short names are "
            f"{', '.join(PUBLISHED)}."
        )
    return hub.pull_base(reference, update=True, progress=progress, note=note)


def lasting_name(path: Path) -> str:
    """The name of the base in `path` by which it must be found again: owner/name@commit from the Hub, else its name."""
    return hub.origin(path) or read_config(path).name


def _is_stored(cache: Cache, name: str) -> bool:
    return (cache.root / "bases" / name / CONFIG_FILE).exists()


def describe(path: Path) -> dict[str, Any]:
    """Everything `base.json` says, with the folder's size in bytes."""
    import dataclasses

    config = read_config(path)
    weights = [p for p in Path(path).rglob("*.safetensors") if "checkpoints" not in p.relative_to(path).parts]
    size = sum(p.stat().st_size for p in weights)
    source = {"hub": found} if (found := hub.origin(path)) else {}
    return {"path": str(path), **source, "bytes": size, **dataclasses.asdict(config)}
