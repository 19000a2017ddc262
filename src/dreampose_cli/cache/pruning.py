"""Removing what is in the cache."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..errors import StoreError
from ..locks import hold
from .entries import Entry
from .folder import FOLDERS, LOOSE_FILES, STATE_FOLDERS
from .store import Cache

# A base took hours of training or gigabytes of download: pruning leaves it alone unless it is named.
PRUNED_KINDS = ("subject", "poses", "data", "edit", "partial")


def remove(cache: Cache, entry: Entry) -> None:
    """Remove one entry. StoreError when another process is using it."""
    if not _remove_unless_used(cache, entry):
        raise StoreError(f"{entry.kind} {entry.id} is in use by another dreampose; wait for it to end and try again.")


def prune(
    cache: Cache,
    *,
    older_than_days: float | None = None,
    max_bytes: int | None = None,
    partials: bool = True,
    kinds: Iterable[str] = PRUNED_KINDS,
    dry_run: bool = False,
) -> list[Entry]:
    """Remove what is broken, unfinished work (`partials`), what was not used for `older_than_days`, and then the
    least recently used until the cache holds at most `max_bytes`; only of `kinds`, never what is in use.

    Returns the removed entries (with `dry_run`, those that would be). Remains of killed processes go too.
    """
    if not dry_run and cache.check():
        cache.sweep()
    everything = cache.list_entries()
    candidates = [entry for entry in everything if entry.kind in set(kinds)]
    horizon = time.time() - older_than_days * 86400 if older_than_days is not None else None
    chosen = [
        entry
        for entry in candidates
        if (partials if entry.kind == "partial" else entry.broken)
        or (horizon is not None and entry.used_at < horizon and entry.kind != "partial")
    ]
    if max_bytes is not None:
        total = sum(entry.bytes for entry in everything) - sum(entry.bytes for entry in chosen)
        for entry in reversed([entry for entry in candidates if entry not in chosen and entry.kind != "partial"]):
            if total <= max_bytes:
                break
            chosen.append(entry)
            total -= entry.bytes
    return [entry for entry in chosen if (_unused(cache, entry) if dry_run else _remove_unless_used(cache, entry))]


def clear(cache: Cache) -> None:
    """Remove everything in the cache, of whatever version; files in the folder that are not the cache's stay."""
    if cache.version() is None:
        cache.check()
        return
    for held in sorted((cache.root / "locks").glob("*.lock")):
        release = hold(held, 0)
        if release is None:
            raise StoreError(
                f"the cache {cache.root} is in use by another dreampose; wait for it to end and try again."
            )
        release()
    with cache.storing():
        for name in (*FOLDERS.values(), *STATE_FOLDERS, *LOOSE_FILES):
            cache.delete(cache.root / name, at_once=True)


def _unused(cache: Cache, entry: Entry) -> bool:
    release = cache.take(entry.lock_name, 0)
    if release is not None:
        release()
    return release is not None


def _remove_unless_used(cache: Cache, entry: Entry) -> bool:
    release = cache.take(entry.lock_name, 0)
    if release is None:
        return False
    try:
        with cache.storing():
            cache.delete(entry.path)
            (cache.root / "used" / f"{entry.kind}-{entry.id}").unlink(missing_ok=True)
            (cache.root / "sums" / f"{entry.kind}-{entry.id}.json").unlink(missing_ok=True)
            if entry.kind == "subject":
                (cache.root / "places" / entry.id).unlink(missing_ok=True)
    finally:
        release()
    return True
