"""Collections of rows, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


class Rows(Protocol[T_co]):
    """Rows that can be counted and read again, in memory or on disk."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


@dataclass(frozen=True, slots=True)
class Mapped(Generic[T, U]):
    """`rows` with `change` applied to each row when it is read."""

    rows: Rows[T]
    change: Callable[[T], U]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[U]:
        return map(self.change, self.rows)
