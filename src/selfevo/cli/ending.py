"""How a command ends: with its exit code, and with one line on standard error if it did not do what was asked."""

from __future__ import annotations

import errno
import io
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from selfevo.config.loading import shown, wanted
from selfevo.errors import ALARMS, REMEDIES, RunError, SelfevoError
from selfevo.report.terminal import complain
from selfevo.rundir.results import Alarm

_Refused: Any = typer.BadParameter.__base__.__base__  # type: ignore[union-attr]  # typer has its own copy of click


class StoppedError(BaseException):
    """A signal to stop. It is no Exception, so that no code handles it as a failure."""

    def __init__(self, number: int) -> None:
        self.number = number


def end(command: Callable[[], int | None]) -> int:
    """Calls `command`. Returns its exit code; every error becomes one line on standard error.

    The exit codes of errors are those of errors.py.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the stream cannot write is no failure
    try:
        code = command()
        if sys.stdout:
            sys.stdout.flush()
        return code or 0
    except SelfevoError as error:
        complain(str(error))
        return error.exit_code
    except StoppedError as stopped:
        complain("stopped; run the same command again to resume")
        return 128 + stopped.number
    except typer.Abort:
        complain("nothing was done, because the question was not answered with yes")
        return 1
    except MemoryError:
        complain("not enough memory; lower engine.batch_size or trainer.per_device_train_batch_size, or free some")
        return 1
    except _Refused as error:
        return _refused(error)
    except BrokenPipeError:  # nobody reads the output any more
        _drop_output()
        return 1
    except OSError as error:
        return _file_system(error)
    except Exception as error:
        return _unforeseen(error)


def say_alarms(alarms: Iterable[Alarm]) -> None:
    """The last lines of a command: what to look at before its results are used."""
    for alarm in alarms:
        complain(f"alarm: {alarm}")


def finish(alarms: Sequence[Alarm]) -> None:
    """Says the alarms. Raises typer.Exit with their exit code if there are any."""
    say_alarms(alarms)
    if alarms:
        raise typer.Exit(ALARMS)


def _refused(error: Any) -> int:
    """An argument that the command line does not understand; without any arguments, the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        asked = error.ctx.command_path if error.ctx else "selfevo"
        said = error.format_message().rstrip(".")
        if isinstance(cause := error.__cause__, ValidationError):
            details = cause.errors()[0]
            said = f"{' or '.join(error.param.opts)} is {shown(details['input'])}; {wanted(details)}"
        complain(f"{said}; see: {asked} --help")
    return int(error.exit_code)


def _file_system(error: OSError) -> int:
    remedy = REMEDIES.get(error.errno or 0)
    place = error.filename if error.filename2 is None else error.filename2
    if place is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        place = "standard output, or a file"
        _drop_output()
    if place is None or remedy is None:
        return _unforeseen(error)
    name = os.fsdecode(place) if isinstance(place, str | bytes) else place
    complain(f"{name}: {os.strerror(error.errno or 0)}; {remedy}")
    return RunError.exit_code


def _drop_output() -> None:
    """Drops what standard output still holds if it cannot be written, so that Python does not try again at its end."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)


def _release() -> tuple[str, str]:
    """The version of this package and the address of its issues."""
    try:
        package = metadata("selfevo")
    except PackageNotFoundError:  # run from its source
        return "unknown", "the project's issues"
    urls = package.get_all("Project-URL") or []
    return package["Version"], next((url.partition(", ")[2] for url in urls if url.startswith("Issues,")), "its issues")


def _unforeseen(error: Exception) -> int:
    """The last resort. The line says where the traceback was saved."""
    what = f"unforeseen {type(error).__name__}: {str(error)[:200]}; please report it"
    version, issues = _release()
    head = f"selfevo {version}, Python {platform.python_version()}, {platform.platform()}\n"
    try:
        descriptor, name = tempfile.mkstemp(prefix="selfevo-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.writelines((head, *traceback.format_exception(error)))
        complain(f"{what} with {name}, at {issues}")
    except OSError as unsaved:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name} line {last.lineno}"
        complain(f"{what}, from {place}, at {issues}; its traceback cannot be saved ({unsaved.strerror})")
    return 70
