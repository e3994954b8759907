"""The errors that selfevo raises. Every message names the value, the place and the remedy.

SelfevoError                 exit code 1   the base of all others
├── CheckerError             exit code 1   answers cannot be checked, right or wrong
├── ConfigError              exit code 2   the configuration or a command-line argument
├── DataError                exit code 2   a prompt file, a corpus, a problem set
├── MissingExtraError        exit code 2   an optional package is not installed
├── RunError                 exit code 3   the run directory belongs to another configuration, or is damaged
├── EngineError              exit code 4   generation failed
│   ├── EngineLostError      exit code 4   the process that generates has ended; another one may do better
│   └── RowsError            exit code 4   some rows end every process that generates them
├── ClusterError             exit code 4   machines that should work together do not
├── TrainingError            exit code 5   training failed, or produced something that must not be kept
├── BudgetError              exit code 6   the next call could exceed the budget of money or tokens
└── HubError                 exit code 8   the hub refuses an upload, or cannot be reached

Any other exception is a mistake of this program. The command line saves its traceback and ends with
exit code 70.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

# A file system's answers, and what to do about each.
REMEDIES = {
    errno.EACCES: "give a path that you may use, or change its permissions",
    errno.EPERM: "give a path that you may use, or change its permissions",
    errno.EROFS: "give a path on a file system that can be written",
    errno.ENOSPC: "free some space or inodes, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.ENOENT: "correct the path, or make what is missing",
    errno.ENOTDIR: "correct the path: a part of it is a file, not a folder",
    errno.EISDIR: "give a file, not a folder",
    errno.EEXIST: "give another path, or move what is there",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "correct the link, which leads back to itself",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has too many open files",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system",
    errno.ENOTCONN: "check the network file system",
    errno.ENODEV: "give another path",
    errno.ENXIO: "give another path",
    errno.EINVAL: "give another path",
    errno.ETXTBSY: "end the program that uses it",
    errno.EBUSY: "end the program that uses it",
}

ALARMS = 7  # the exit code of a command that did all that was asked, but found something to look at first

# What the exit codes say, for --help and the docs.
EXIT_CODES = {
    0: "done",
    1: "any other error, or a question that was not answered with yes",
    2: "a mistake in the configuration, an argument or the data, or a package that is missing",
    3: "the run directory belongs to another configuration, or is damaged",
    4: "generation failed, or machines that should work together do not",
    5: "training failed",
    6: "the next call could exceed the budget",
    ALARMS: "finished with alarms, which the last lines name",
    8: "the hub refuses an upload, or cannot be reached",
    70: "an error that nobody foresaw; the line names a file with the traceback, please report it",
    130: "stopped by Ctrl-C (SIGINT); the same command goes on",
    143: "stopped by SIGTERM; the same command goes on",
}


class SelfevoError(Exception):
    """Base of every error that selfevo raises on purpose."""

    exit_code = 1


class CheckerError(SelfevoError):
    """The program that checks answers cannot run, so nothing can be said about any answer."""


class ConfigError(SelfevoError):
    """The configuration is wrong: unknown key, wrong type, impossible combination."""

    exit_code = 2


class DataError(SelfevoError):
    """Input rows cannot be used: missing file, missing column, empty pool, splits that overlap."""

    exit_code = 2


class MissingExtraError(SelfevoError):
    """An optional package is needed and not installed."""

    exit_code = 2


class RunError(SelfevoError):
    """The run directory was made with another configuration, or is damaged."""

    exit_code = 3


class EngineError(SelfevoError):
    """The model could not be loaded or could not generate."""

    exit_code = 4


class EngineLostError(EngineError):
    """The process that generates has ended."""


class RowsError(EngineError):
    """Each process that is given some rows ends. `rows` has them: the slice, and the row in it."""

    def __init__(self, message: str, rows: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class ClusterError(SelfevoError):
    """A process or a machine that should take part is missing, has other packages or does not see the same disk."""

    exit_code = 4


class TrainingError(SelfevoError):
    """Training stopped: non-finite loss, nothing to learn from, or an unusable base model."""

    exit_code = 5


class BudgetError(SelfevoError):
    """The next call could exceed the budget of money or tokens. Everything paid for is kept."""

    exit_code = 6


class HubError(SelfevoError):
    """The hub refuses an upload, or cannot be reached."""

    exit_code = 8
