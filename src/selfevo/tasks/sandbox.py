"""Answer checkers of other people, at arm's length: in a child process with a time and a memory limit.

What a model writes can make a checker run for ever or ask for all the memory there is. Here that costs one answer. A
child that cannot start says nothing about any answer: that is a CheckerError, which ends the command.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from selfevo.errors import CheckerError

START_SECONDS = 120  # to start and import, on a busy machine
PATIENCE = 20  # a call may take so many times its seconds by the clock: it may have to share its processor
# The child is a fresh interpreter, not one forked or spawned by multiprocessing: a forked one would inherit threads and
# locks, and a spawned one runs the main script again, which fails without a `__main__` guard and on standard input.
_START = """
import sys; sys.path[:] = {path!r}
from selfevo.tasks import sandbox; sandbox.serve({fd}, {megabytes}, {imports!r})
"""

Outcome = Literal["result", "error", "not found"]


class ChildError(Exception):
    """The call raised, took too long or took too much memory."""


class RaisedError(ChildError):
    """The call raised; the message says what."""


@dataclass(slots=True)
class Child:
    """Calls functions in one child process, which is started when it is needed and again after it was killed.

    `seconds` is the processor time of one call, `megabytes` the address space of the child, `imports` a module that it
    imports before its first call, whose time that is not.
    """

    seconds: float = 5.0
    megabytes: int = 4096
    imports: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _connection: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments); both must be picklable, the function by name, from a module that can be imported.

        Raises ChildError where the call fails, CheckerError where it cannot be made.
        """
        connection = self._start()
        try:
            connection.send((self.seconds, function, arguments))
            if not connection.poll(PATIENCE * self.seconds):
                raise ChildError(f"no result within {PATIENCE * self.seconds:g} s by the clock")
            outcome, result = connection.recv()
        except (EOFError, OSError) as error:
            out_of_time = self._ended() == -signal.SIGPROF
            self.stop()
            reason = f"no result within {self.seconds:g} s" if out_of_time else f"the child process died: {error}"
            raise ChildError(reason) from None
        except ChildError:
            self.stop()
            raise
        if outcome == "not found":
            raise CheckerError(f"the checker {function!r} cannot be called in a process of its own: {result}")
        if outcome == "error":
            raise RaisedError(result)
        return result

    def _ended(self) -> int | None:
        return None if self._process is None else self._process.wait(START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self.stop()
        self._connection, theirs = multiprocessing.Pipe()
        fd = theirs.fileno()
        start = _START.format(path=sys.path, fd=fd, megabytes=self.megabytes, imports=self.imports)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        except OSError as error:
            self.stop()
            raise CheckerError(
                f"no process can be started to check answers: {error}; free memory or processes"
            ) from None
        finally:
            theirs.close()
        reason = ""
        try:
            if not self._connection.poll(START_SECONDS):
                reason = f"it was not ready within {START_SECONDS} s"
            else:
                reason = self._connection.recv()
        except (EOFError, OSError):
            reason = f"it died, exit code {self._ended()}, while it imported {self.imports or 'nothing'}"
        if reason:
            self.stop()
            raise CheckerError(
                f"the process that checks answers cannot start: {reason}; see that `{sys.executable} -c "
                f"'import {self.imports or 'selfevo'}'` works, with {self.megabytes} MiB of memory"
            )
        return self._connection


def serve(fd: int, megabytes: int, imports: str) -> None:
    """The child: says "" when it is ready, or why it never will be; then answers one call after the other."""
    import resource

    connection = Connection(fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    with contextlib.suppress(OSError, ValueError):  # not every system can limit the address space
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
    with contextlib.suppress(OSError, EOFError):  # the parent is gone
        try:
            if imports:
                importlib.import_module(imports)
        except Exception as error:
            return connection.send(_said(error))
        connection.send("")
        while True:
            connection.send(_answer(connection))
    return None


def _answer(connection: Connection) -> tuple[Outcome, Any]:
    call = connection.recv_bytes()
    try:
        seconds, function, arguments = pickle.loads(call)
    except Exception as error:
        return "not found", _said(error)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF, which ends the process
        return "result", function(*arguments)
    except Exception as error:
        return "error", _said(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
