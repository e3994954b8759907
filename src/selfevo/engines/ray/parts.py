"""Which rows a worker is asked next."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfevo.method.protocols import Request

Place = tuple[int, int]  # of a row: the slice, and the row in it
UNTOUCHED = 2  # this many parts at the end of a worker's own are not given to another one


@dataclass(eq=False, slots=True)
class Part:
    """Rows that one worker is asked together. `deaths` counts the workers that died of them."""

    rows: list[Place]
    deaths: int = 0


@dataclass(slots=True)
class Parts:
    """The parts that are owed: those whose states a worker holds, and those that are free to go anywhere.

    A free part is a slice, so it is what one process would have asked together. The last come first:
    they are the longest, and a worker that began with one at the end would keep the others waiting.
    """

    free: deque[Part]
    held: dict[int, deque[Part]]

    @staticmethod
    def of(slices: Sequence[Sequence[Request]], size: int, holder: Callable[[Request], int | None]) -> Parts:
        """`holder` is the number of the worker that holds the states of a conversation, if there is one."""
        free, held = deque[Part](), defaultdict[int, list[Place]](list)
        for place, requests in reversed(list(enumerate(slices))):
            rows: list[Place] = []
            for i, request in enumerate(requests):
                owner = holder(request)
                (rows if owner is None else held[owner]).append((place, i))
            if rows:
                free.append(Part(rows))
        return Parts(
            free,
            {
                owner: deque(Part(rows[start : start + size]) for start in range(0, len(rows), size))
                for owner, rows in held.items()
            },
        )

    def __len__(self) -> int:
        return len(self.free) + sum(map(len, self.held.values()))

    def take(self, worker: int) -> Part | None:
        """The next part for a worker: its own, else a free one, else the last of whoever has most left to do."""
        if own := self.held.get(worker):
            return own.popleft()
        if self.free:
            return self.free.popleft()
        longest = max(self.held.values(), key=len, default=deque[Part]())
        return longest.pop() if len(longest) > UNTOUCHED else None

    def give_back(self, parts: Sequence[Part]) -> None:
        """Parts that a worker had and did not finish. They come first."""
        self.free.extendleft(reversed(parts))

    def lose(self, worker: int) -> None:
        """The states of this worker are gone."""
        self.free.extend(self.held.pop(worker, ()))
