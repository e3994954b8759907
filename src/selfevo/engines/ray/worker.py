"""What runs on the cluster: a worker holds an engine, as one process does, and answers with plain values.

It does not import Ray itself, and `hello` needs nothing of this package but this file, so that other
versions are found before anything else is understood wrongly.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import pickle
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfevo.engines.ray.weights import Folder, Source, find
from selfevo.errors import EngineLostError, SelfevoError
from selfevo.method.protocols import Engine, Generation, Request, Sampling
from selfevo.models.threads import share_processors


@dataclass(frozen=True, slots=True)
class Reply:
    """The generations for a part, or why there are none.

    `fault` is an error of the engine, by name and message. `lost`: the worker is of no use any more.
    `missing`: the model is not on its machine. `said` holds the warnings since the last reply.
    """

    generations: tuple[Generation, ...] = ()
    prefilled: int = 0
    fault: tuple[str, str] | None = None
    lost: str = ""
    missing: bool = False
    said: tuple[str, ...] = ()


class Worker:
    """`made` is the engine's maker, pickled: it is read after the versions have been compared."""

    def __init__(self, made: bytes) -> None:
        share_processors(os.environ)  # before the engine loads torch
        self._made = made
        self._engine: Engine | None = None
        self._said = _Kept()
        logging.getLogger("selfevo").addHandler(self._said)

    def hello(self) -> dict[str, str]:
        """The versions of what decides a text, and the host."""
        return {**versions(), "host": platform.node()}

    def generate(
        self,
        folder: Folder,
        source: Source | None,
        requests: Sequence[Request],
        sampling: Sampling,
    ) -> Reply:
        """`source` has the files of the model, if it is known that they are not on this machine."""
        try:
            model = find(folder, source)
            if model is None:
                return Reply(missing=True)
            engine = self._loaded()
            before = getattr(engine, "prefilled", 0)
            generations = engine.generate(model, requests, sampling)
            prefilled = getattr(engine, "prefilled", 0) - before
            return Reply(tuple(generations), prefilled, said=self._said.taken())
        except EngineLostError as error:
            return Reply(lost=str(error), said=self._said.taken())
        except SelfevoError as error:
            return Reply(fault=(type(error).__name__, str(error)), said=self._said.taken())
        except Exception as error:  # such as one of CUDA, after which the process cannot be used
            return Reply(lost=" ".join(f"{type(error).__name__}: {error}".split())[:500], said=self._said.taken())

    def release(self) -> None:
        if self._engine is not None:
            self._engine.release()

    def _loaded(self) -> Engine:
        if self._engine is None:
            self._engine = pickle.loads(self._made)()
        return self._engine


def versions() -> dict[str, str]:
    """Of Python, the packages that decide a text, and the files of this one."""
    import selfevo

    digest, here = hashlib.sha256(), Path(selfevo.__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(str(path.relative_to(here)).encode() + path.read_bytes())
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("torch", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return {"selfevo": f"{importlib.metadata.version('selfevo')} ({digest.hexdigest()[:8]})", **found}


class _Kept(logging.Handler):
    """Keeps warnings, for the next reply."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: Any) -> None:
        self._messages.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        found = tuple(self._messages)
        self._messages.clear()
        return found
