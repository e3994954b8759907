"""Answer checkers of other people, at arm's length: in a child process with a time and a memory limit.

What a model writes can make a checker run for ever or ask for all the memory there is. Here that costs one answer.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

START_SECONDS = 120  # to start and import, on a busy machine
PATIENCE = 20  # a call may take so many times its seconds by the clock: it may have to share its processor


class ChildError(Exception):
    """The call raised, took too long or took too much memory."""


@dataclass(slots=True)
class Child:
    """Calls functions in one child process, which is started when it is needed and again after it was killed.

    `seconds` is the processor time of one call, `megabytes` the address space of the child, `imports` a module that it
    imports before its first call, whose time that is not.
    """

    seconds: float = 5.0
    megabytes: int = 4096
    imports: str = ""
    _process: BaseProcess | None = None
    _connection: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments); both must be picklable, the function by name. Raises ChildError."""
        connection = self._start()
        try:
            connection.send((self.seconds, function, arguments))
            if not connection.poll(PATIENCE * self.seconds):
                raise ChildError(f"no result within {PATIENCE * self.seconds:g} s by the clock")
            failed, result = connection.recv()
        except (EOFError, OSError) as error:
            out_of_time = self._process is not None and self._ended() == -signal.SIGPROF
            self.stop()
            reason = f"no result within {self.seconds:g} s" if out_of_time else f"the child process died: {error}"
            raise ChildError(reason) from None
        except ChildError:
            self.stop()
            raise
        if failed:
            raise ChildError(result)
        return result

    def _ended(self) -> int | None:
        assert self._process is not None
        self._process.join(START_SECONDS)
        return self._process.exitcode

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.is_alive():
            return self._connection
        self.stop()
        context = multiprocessing.get_context("spawn")  # a forked one would inherit threads and locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.megabytes, self.imports), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(START_SECONDS):
            self.stop()
            raise ChildError(f"no child process within {START_SECONDS} s")
        try:
            self._connection.recv()
        except (EOFError, OSError):
            self.stop()
            raise ChildError(f"the child process died while it imported {self.imports or 'nothing'}") from None
        return self._connection


def _serve(connection: Connection, megabytes: int, imports: str) -> None:
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    with contextlib.suppress(OSError, ValueError):  # not every system can limit the address space
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
    if imports:
        importlib.import_module(imports)
    connection.send("ready")
    while True:
        try:
            seconds, function, arguments = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF, which ends the process
            result = (False, function(*arguments))
        except Exception as error:
            result = (True, f"{type(error).__name__}: {error}"[:200])
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(result)
