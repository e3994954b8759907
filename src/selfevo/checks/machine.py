"""Machines that are described and not there, such as `2 nodes x 8 x H100 80GB`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfevo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Card:
    """`flops`: operations a second of dense bfloat16 products; `bandwidth`: bytes a second. Both as the vendor says."""

    name: str
    gib: int
    flops: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Machine:
    nodes: int
    per_node: int
    card: Card

    @property
    def devices(self) -> int:
        return self.nodes * self.per_node

    def __str__(self) -> str:
        nodes = f"{self.nodes} nodes x " if self.nodes > 1 else ""
        return f"{nodes}{self.per_node} x {self.card.name} {self.card.gib}GB"


# Memory in GB, then TFLOP/s of dense bfloat16 (T4, V100: float16) and TB/s, from the vendors' data sheets.
_CARDS: dict[str, tuple[tuple[int, ...], float, float]] = {
    "A10": ((24,), 125, 0.6),
    "A10G": ((24,), 70, 0.6),
    "A100": ((40, 80), 312, 2.0),
    "A6000": ((48,), 155, 0.77),
    "B200": ((180,), 2250, 7.7),
    "H100": ((80,), 989, 3.35),
    "H200": ((141,), 989, 4.8),
    "L4": ((24,), 121, 0.3),
    "L40S": ((48,), 362, 0.86),
    "MI300X": ((192,), 1307, 5.3),
    "RTX3090": ((24,), 71, 0.94),
    "RTX4090": ((24,), 165, 1.0),
    "T4": ((16,), 65, 0.32),
    "V100": ((16, 32), 125, 0.9),
}
_GRAMMAR = re.compile(
    r"(?:(?P<nodes>\d{1,5})\s*nodes?\s*(?:x|\*|×|of)\s*)?(?:(?P<count>\d{1,5})\s*(?:x|\*|×)\s*)?"
    r"(?P<name>[a-z][a-z0-9]*(?:[ -](?!\d+\s*gi?b)[a-z0-9]+)*?)(?:[\s-]*(?P<memory>\d{1,5})\s*gi?b)?"
    r"(?:\s+(?P<flops>\d{1,6}(?:\.\d+)?)\s*tflops?(?:/s)?\s+(?P<bandwidth>\d{1,4}(?:\.\d+)?)\s*tb/s)?",
    re.IGNORECASE,
)
_FORM = "describe it as in '8 x H100 80GB', '2 nodes x 8 x A100 40GB' or '4 x Name 96GB 400TFLOPS 2TB/s'"


def parse_machine(text: str) -> Machine:
    """Raises ConfigError if `text` describes no machine, or one with a card that is not known."""
    found = _GRAMMAR.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--plan {text!r} is no machine; {_FORM}")
    nodes, count = int(found["nodes"] or 1), int(found["count"] or 1)
    if not nodes or not count:
        raise ConfigError(f"--plan {text!r} has no device; {_FORM}")
    return Machine(nodes, count, _card(text, found))


def _card(text: str, found: re.Match[str]) -> Card:
    name = re.sub(r"[ -]|nvidia|amd", "", found["name"], flags=re.IGNORECASE).upper()
    memory = int(found["memory"]) if found["memory"] else None
    if found["flops"]:
        if not memory:
            raise ConfigError(f"--plan {text!r} does not say how much memory a card has; {_FORM}")
        return Card(found["name"], memory, float(found["flops"]) * 1e12, float(found["bandwidth"]) * 1e12)
    if name not in _CARDS:
        raise ConfigError(
            f"--plan {text!r}: {found['name']!r} is no known card; known are {', '.join(_CARDS)}; for another one add "
            "its memory, arithmetic in bfloat16 and bandwidth, as in '4 x Name 96GB 400TFLOPS 2TB/s'"
        )
    sizes, flops, bandwidth = _CARDS[name]
    if memory is None and len(sizes) > 1:
        both = " and ".join(f"{size}GB" for size in sizes)
        raise ConfigError(f"--plan {text!r}: {name} comes with {both}; say which, as in '{name} {sizes[-1]}GB'")
    if memory is not None and memory not in sizes:
        raise ConfigError(
            f"--plan {text!r}: {name} has {' or '.join(map(str, sizes))} GB, not {memory}; correct it, or give "
            "arithmetic and bandwidth too, as in '4 x Name 96GB 400TFLOPS 2TB/s'"
        )
    return Card(name, memory or sizes[0], flops * 1e12, bandwidth * 1e12)
