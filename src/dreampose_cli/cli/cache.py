"""`dreampose cache`: what is kept in the user cache, and removing it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from . import candidates, options
from .cache_travel import export, import_
from .help import Command, Group
from .output import Output, size, table, when

if TYPE_CHECKING:
    from ..cache import Entry

KINDS = ("subject", "base", "poses", "data", "partial")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _bytes(value: str | None) -> str | None:
    if value is not None:
        _count(value)
    return value


def _count(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)b?", text.strip().lower())
    if not match:
        raise UsageError(f"--max-size is {text!r}, but must be a size such as 500MB or 2GB.")
    return int(float(match[1]) * _UNITS[match[2]])


DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def folder(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Print the cache folder; DREAMPOSE_CACHE sets another one.

    Example:
      du -sh "$(dreampose cache dir)"
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import user_cache

    root = user_cache().root
    out.result(root, {"path": root})


def ls(
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Only subject, base, poses, data or partial.",
            callback=options.one_of("kind", KINDS),
            autocompletion=lambda: list(KINDS),
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """List what is kept, with its size; what was used last comes first.

    A star marks the subject tuned last, which `render` takes by default.

    Examples:
      dreampose cache ls
      dreampose cache ls --kind subject -q
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import user_cache

    cache = user_cache()
    entries = cache.list_entries(kind)
    last = cache.last_subject()
    total = sum(entry.bytes for entry in entries)
    rows = [
        [
            entry.kind,
            f"{entry.id}{' *' if entry.kind == 'subject' and entry.id == last else ''}",
            entry.name or "",
            size(entry.bytes),
            when(entry.used_at),
            entry.broken,
        ]
        for entry in entries
    ]
    lines = table(["KIND", "ID", "NAME", "SIZE", "USED", ""], rows, right={3}) if rows else ["nothing is cached"]
    document = {"path": cache.root, "bytes": total, "last_subject": last, "entries": entries}
    out.page([*lines, *([f"{size(total)} in {cache.root}"] if rows else [])], document, [e.id for e in entries])


def rm(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENTRY", help="Ids (or their beginning), names or photos.", autocompletion=candidates.entries
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Empty the cache, bases included.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove entries; print their ids.

    Examples:
      dreampose cache rm anna
      dreampose cache rm --all --dry-run
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import VERSION, remove, user_cache

    cache = user_cache()
    if bool(entries) == everything:
        raise UsageError("say which entries to remove, or --all.")
    if everything and cache.version() not in (None, str(VERSION)):
        _clear_other_version(out, dry_run=dry_run, yes=yes)
        return
    chosen = cache.list_entries() if everything else list({e.path: e for e in map(cache.find_entry, entries or [])}.values())

    def act() -> list[Entry]:
        for entry in chosen:
            remove(cache, entry)
        return chosen

    _remove(out, chosen, act, dry_run=dry_run, yes=yes)


def prune(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            help="Also what was not used for this many days.",
            callback=options.positive("--older-than", zero=True),
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Also the least recently used, down to this size, such as 2GB.",
            callback=_bytes,
        ),
    ] = None,
    bases: Annotated[bool, typer.Option("--bases", help="Bases too.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove broken entries and unfinished work; print their ids.

    With --older-than and --max-size also what is old or too much. Bases stay unless --bases is given, and what is in
    use stays in any case.

    Examples:
      dreampose cache prune
      dreampose cache prune --older-than 30 --max-size 5GB --yes
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import KINDS, PRUNED_KINDS, user_cache
    from ..cache import prune as prune_cache

    kinds = KINDS if bases else PRUNED_KINDS
    limit = None if max_size is None else _count(max_size)

    def act(dry_run: bool = False) -> list[Entry]:
        return prune_cache(user_cache(), older_than_days=older_than, max_bytes=limit, kinds=kinds, dry_run=dry_run)

    _remove(out, act(dry_run=True), act, dry_run=dry_run, yes=yes)


def repair(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Make a damaged cache usable again; print its folder.

    After a backup that was restored in part, a killed process, or a lost version file. Removes no entry: broken ones
    are for `cache prune`.

    Example:
      dreampose cache repair
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import repair as repair_cache
    from ..cache import user_cache

    cache = user_cache()
    done = repair_cache(cache)
    for line in done or ["nothing was to repair"]:
        out.note(line)
    broken = [entry for entry in cache.list_entries() if entry.broken and entry.kind != "partial"]
    for entry in broken:
        out.warn(f"{entry.kind} {entry.id} is broken ({entry.broken}); `dreampose cache prune` removes it")
    out.result(cache.root, {"path": cache.root, "done": done, "broken": broken})


def verify(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Check every entry against the checksums of its making; print those that differ.

    The exit code is 1 where there is one.

    Example:
      dreampose cache verify
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..cache import user_cache
    from ..cache import verify as verify_cache
    from ..errors import StoreError

    cache = user_cache()
    entries = [entry for entry in cache.list_entries() if entry.kind != "partial"]
    found: dict[str, str | None] = {}
    with out.progress(len(entries), "verifying") as progress:
        for number, entry in enumerate(entries, start=1):
            found |= verify_cache(cache, [entry])
            progress(number, len(entries), entry.id)
    faults = {name: fault for name, fault in found.items() if fault}
    for name, fault in faults.items():
        out.warn(f"{name}: {fault}")
    out.result(list(faults), {"checked": len(found), "faults": faults})
    if faults:
        raise StoreError(
            f"{options.counted(len(faults), 'entry is', 'entries are')} not as made; remove with `dreampose cache rm` "
            "what stands above, and it is made anew when it is needed."
        )
    out.note(f"{options.counted(len(found), 'entry is', 'entries are')} as made")


def _remove(out: Output, entries: list[Entry], act: Callable[[], list[Entry]], *, dry_run: bool, yes: bool) -> None:
    """Show which entries go, ask, let `act` remove them; the ids are the result."""
    total = sum(entry.bytes for entry in entries)
    for entry in entries:
        label = f" ({entry.name})" if entry.name else ""
        out.note(f"{'would remove' if dry_run else 'remove'} {entry.kind} {entry.id}{label}, {size(entry.bytes)}")
    if not entries:
        out.note("nothing to remove")
    elif not dry_run:
        what = f"{options.counted(len(entries), 'entry', 'entries')}, {size(total)}"
        if out.confirm(f"Remove {what}?", yes=yes):
            entries = act()
        else:
            out.note("nothing removed")
            entries = []
    total = sum(entry.bytes for entry in entries)
    out.result([entry.id for entry in entries], {"dry_run": dry_run, "bytes": total, "removed": entries})


def _clear_other_version(out: Output, *, dry_run: bool, yes: bool) -> None:
    """Empty a cache whose entries cannot be read."""
    from ..cache import clear, user_cache

    cache = user_cache()
    folder = cache.root
    done = not dry_run and out.confirm(f"Remove everything in {folder}, made by another version?", yes=yes)
    if done:
        clear(cache)
    out.result([folder] if done else [], {"dry_run": dry_run, "cleared": folder if done else None})


app = typer.Typer(help="List, move and remove cached subjects, bases and poses.", no_args_is_help=True, cls=Group)
COMMANDS: dict[str, Callable] = {"dir": folder, "ls": ls, "rm": rm, "prune": prune, "repair": repair, "verify": verify}
for name, command in (COMMANDS | {"export": export, "import": import_}).items():
    app.command(name, help=options.described(command), cls=Command)(command)
