"""What a page or a card says about this machine: nothing. People share both."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any


def _home(user: str) -> re.Pattern[str]:
    """Home folders, with what leads to them. `user`: what a user name may look like."""
    folders = rf"(?:/[\w.-]+)*?/(?:home|[Uu]sers)/{user}|/root(?![\w-])|[A-Za-z]:[\\/]Users[\\/]{user}"
    return re.compile(rf"(?<![\w.:~/-])(?:(?:file://)?(?:(?:\.\.?/)*\.\.)?(?:{folders})|~[A-Za-z]\w*(?=/|$))")


_IN_PATH, _IN_TEXT = _home(r"[^/\\]+"), _home(r"[^\s/\\\"'`:;,()]+")
_PATH = re.compile(r"(?:file://)?(?:/|~|\.\.?/|[A-Za-z]:[\\/])[^\n\0]*")


def shareable(value: Any, run: Path) -> Any:
    """`value`, of JSON's types, without home folders and the user names in them.

    A path becomes relative to the run directory `run`, unless that leads into a home folder. Home
    folders become "~", also within other text.
    """
    if isinstance(value, dict):
        return {shareable(key, run): shareable(each, run) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(each, run) for each in value]
    if not isinstance(value, str):
        return value
    if not _PATH.fullmatch(value):
        return _IN_TEXT.sub("~", value)
    value = os.path.normpath(value) if value.startswith("/") else value
    home = _IN_PATH.match(value)
    if value.startswith("/") and (not home or run.is_relative_to(home.group())):
        return os.path.relpath(value, run)
    return _IN_PATH.sub("~", value)
