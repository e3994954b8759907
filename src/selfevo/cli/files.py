"""Files that a command is asked to write."""

from __future__ import annotations

import os
from pathlib import Path

from selfevo.errors import ConfigError


def check_target(path: Path) -> None:
    """Raises ConfigError unless a file can be written at `path`. Called before the work that the file is for.

    A device is none: who may write in its folder would replace it.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file; give the path of a file to write")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path.parent} is no folder in which you can write; create it, or give another path")
