"""Which step is next: those whose needs are met, videos first, so that what is tuned is soon seen; pure bookkeeping."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque

from .plan import POSES, VIDEO, Plan, Step

CLAIMED = 1 << 60  # added to the order of people whom a worker has loaded already
NEARBY = 64


class Schedule:
    """The steps of a plan as they become ready, are done, or are given up."""

    def __init__(self, plan: Plan):
        self.steps = plan.steps
        self._open = {id: {need for need in step.needs if need in plan.steps} for id, step in plan.steps.items()}
        self._waiting: dict[str, list[str]] = defaultdict(list)
        self._videos: dict[str, deque[Step]] = {}  # by who is in them
        self._people: list[tuple[int, str]] = []  # a heap; some may have no videos any more
        self._others: list[tuple[int, str, str]] = []  # a heap
        self.left = set(plan.steps)  # neither done nor given up
        for id, needs in self._open.items():
            for need in needs:
                self._waiting[need].append(id)
            if not needs:
                self.put_back(self.steps[id])

    def __len__(self) -> int:
        return len(self.left)

    def put_back(self, step: Step) -> None:
        """A step is ready (again)."""
        if step.kind != VIDEO:
            heapq.heappush(self._others, (step.order, step.kind, step.id))
            return
        person = step.task["person"]
        if person not in self._videos:
            self._videos[person] = deque()
            heapq.heappush(self._people, (step.order, person))
        self._videos[person].append(step)

    def take(self, person: str | None = None) -> Step | None:
        """The next step, for a worker that has `person` loaded; None where none is ready.

        First videos of that person, then of people whom no worker has, then anybody's, then what others wait for.
        """
        if person is not None and person in self._videos:
            return self._next_video(person)
        while self._people:
            order, found = heapq.heappop(self._people)
            if found in self._videos:
                step = self._next_video(found)
                if found in self._videos:
                    heapq.heappush(self._people, (order | CLAIMED, found))
                return step
        return self.steps[heapq.heappop(self._others)[2]] if self._others else None

    def _next_video(self, person: str) -> Step:
        step = self._videos[person].popleft()
        if not self._videos[person]:
            del self._videos[person]
        return step

    def next_poses(self) -> Step | None:
        """The step that estimates the poses needed next, of those that are ready: for a worker to begin ahead."""
        found = [item for item in self._others[:NEARBY] if item[1] == POSES]
        return self.steps[min(found)[2]] if found else None

    def done(self, step: Step) -> None:
        """A step is done; what waited for nothing else is ready."""
        self.left.discard(step.id)
        for id in self._waiting.pop(step.id, ()):
            self._open[id].discard(step.id)
            if not self._open[id] and id in self.left:
                self.put_back(self.steps[id])

    def give_up(self, step: Step) -> list[Step]:
        """A step has failed for good; returns the steps that cannot be done without it."""
        self.left.discard(step.id)
        lost: list[Step] = []
        for id in self._waiting.pop(step.id, ()):
            if id in self.left:
                lost += [self.steps[id], *self.give_up(self.steps[id])]
        return lost
