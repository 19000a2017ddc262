"""The callbacks of the library while it works, so that whoever asked can see how far it is; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Note = Callable[[str], None]  # told one sentence


class Progress(Protocol):
    """Called with how much is done, of how much (None where nobody knows), and what it is."""

    def __call__(self, done: int, total: int | None = None, note: str = "", /) -> None: ...


class Caution(str):
    """A note about what may spoil the result: it is said even where notes are not asked for."""


def no_note(text: str, /) -> None:
    """A `Note` for those who want to hear nothing."""
