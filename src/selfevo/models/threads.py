"""How many threads our processes have, and how these wait for each other.

Between two operations torch's OpenMP threads spin: they look again and again whether there is work. Where another
program wants the processor too, the thread that the others wait for is the one that does not get it, and what they burn
is lost to everybody. So ours spin for a bounded time and then sleep. benchmarks/busy.py measures it.

The library reads these variables once, when torch is loaded, so they are set before that, and for processes of ours
alone: the command line and what it starts. A program that imports selfevo decides for itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

SPINS = "1000"  # of libgomp, whose default is 300,000
# Whoever has set one of these has chosen how threads wait.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
MEMBERSHIP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def share_processors(environment: MutableMapping[str, str], processes: int = 1) -> None:
    """Sets how the threads of one of `processes` processes wait, and their number where torch's default is too many.

    What the user has set stays. Has no effect in a process that has loaded torch, but on its children.
    """
    if not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = SPINS
    if processes > 1 or processors() < affine():
        environment.setdefault("OMP_NUM_THREADS", str(max(1, processors() // processes)))


@contextmanager
def sharing_processors() -> Iterator[None]:
    """Within it, children of this process are started with that environment."""
    before = dict(os.environ)
    share_processors(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def affine() -> int:
    """The processors on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processors() -> int:
    """The processors whose time this process may use. A container often has a quota of fewer than it sees."""
    count = affine()
    with suppress(OSError, ValueError, ZeroDivisionError):  # no Linux, no cgroups of version 2, or no quota ("max")
        own = MEMBERSHIP.read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        quota, period = (CGROUPS / own / "cpu.max").read_text(encoding="utf-8").split()
        count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)
