"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: Literal["pass", "warn", "fail"]
    finding: str
    remedy: str = ""
    seconds: float = 0.0
