"""The progress bar of a terminal of any width: count, bar and time left are always there, the note is cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import ProgressColumn, Task, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from ..errors import printable
from .output import brief_note

_BAR = {100: 30, 80: 20, 60: 12, 0: 6}  # characters of the bar in a terminal of at least so many columns


class _Line(ProgressColumn):
    """One text column: the part of a line that `of` gives for a task."""

    def __init__(self, of, style: str = "none"):
        self.of, self.style = of, style
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self.of(task), style=self.style, no_wrap=True, overflow="ellipsis")


class _Bar(ProgressColumn):
    """A bar, moving where nobody knows how much there is."""

    def __init__(self, width: int):
        self.width = width
        super().__init__()

    def render(self, task: Task) -> ProgressBar:
        total = None if task.total is None else max(0, task.total)
        return ProgressBar(total, max(0, task.completed), self.width, total is None, animation_time=task.get_time())


class _Left(TimeRemainingColumn):
    """The time left, nothing where it cannot be known."""

    def render(self, task: Task) -> Text:
        if task.total is None or task.time_remaining is None:
            return Text("")
        return Text(f"{super().render(task)} left", style="progress.remaining")


def _count(task: Task) -> str:
    if task.total is None:
        return f"{int(task.completed)}" if task.completed else ""
    return f"{int(task.completed)}/{int(task.total)}"


@contextmanager
def bar(total: int | None, label: str, *, details: bool = False, console: Console | None = None) -> Iterator:
    """Yield rich's progress and the callback that moves it. `details`: what is for --verbose stays in
    the note."""
    console = console or Console(stderr=True)
    short = label if console.width >= 60 else label[:10]
    width = next(size for columns, size in _BAR.items() if console.width >= columns)

    def note_of(task: Task) -> str:
        """The text that there is room for: all other columns are of known width."""
        left = len("00:00:00 left") if task.total is not None else 0
        taken = len(short) + width + len(_count(task)) + left + 5
        note = task.fields["note"]
        room = console.width - taken
        return note if len(note) <= room else f"{note[: room - 1]}…" if room > 8 else ""

    columns = (_Line(lambda task: short), _Bar(width), _Line(_count), _Left(), _Line(note_of, "dim"))
    with Bar(*columns, console=console, transient=True) as screen:
        task = screen.add_task(label, total=total, note="")
        last = 0

        def report(done: int, total: int | None = None, note: str = "") -> None:
            nonlocal last
            note = printable(note if details else brief_note(note))
            known = screen.tasks[0].total
            if done == 0 and total is None and last:  # a stretch of which nobody knows how long it is
                screen.reset(task, note=note)
                screen.tasks[0].total = None
            elif done < last or (total is not None and known is not None and total != known):
                screen.reset(task, total=total if total is not None else known, note=note)
            elif total is not None:
                screen.update(task, total=total)
            screen.update(task, completed=done, note=note)
            last = done

        yield screen, report
