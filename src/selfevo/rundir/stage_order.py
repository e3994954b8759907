"""The order in which the stages of a run were due, also of those that left no events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from selfevo.method.skills import SKILLS

SKILL_ORDER = (*(skill.name for skill in SKILLS), "annotate", "filter")


def places(names: Iterable[str], events: Sequence[str]) -> dict[str, tuple[float, int]]:
    """A sort key for each stage and training. `events`: the names of those that left events, in their order."""
    place = {name: (float(i), 0) for i, name in reversed(list(enumerate(events)))}
    for name in sorted(set(names) - place.keys(), key=lambda name: (_round(name), _rank(name), name)):
        place[name] = _place(name, place)
    return place


def _place(name: str, place: Mapping[str, tuple[float, int]]) -> tuple[float, int]:
    """Where a stage without events belongs: a filter, one that had no rows, or one that another run has made."""
    folder = name.partition("/")[0]
    before = [each for other, each in place.items() if other.startswith(f"{folder}/") and _rank(other) < _rank(name)]
    if before:
        return max(before)[0], _rank(name)
    after = [each for other, each in place.items() if _round(other) > _round(name)]
    return (min(after)[0] - 0.5 if after else float(len(place))), _rank(name)


def _rank(name: str) -> int:
    """The order of the stages in one folder."""
    skill = name.rpartition("/")[2]
    return SKILL_ORDER.index(skill) if skill in SKILL_ORDER else len(SKILL_ORDER)


def _round(name: str) -> int:
    """The number of the round that a stage or a training belongs to; 0 before the rounds."""
    match = re.search(r"(?:round|self-instruct)-(\d+)", name)
    return int(match[1]) if match else 0
