"""A run directory belongs to one configuration, and to one process at a time."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

from selfevo.errors import REMEDIES, RunError
from selfevo.rundir.atomic_files import HELD, check_there, hash_file, is_alive, read_marker, write_atomic
from selfevo.rundir.layout import FORMAT, Layout
from selfevo.rundir.ledger import write_event

PATIENCE = 0.2  # seconds; `in_use` in another process holds the lock for a moment
NOTES = ("parts", "continued")  # keys of config.json that are no settings
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # what file systems without say


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds, or held, the lock of a run directory, and what it is doing."""

    process: int
    host: str
    boot: str  # another one after a restart of the host
    started: str  # when the process began: numbers of processes are used again
    work: str = "start"

    @staticmethod
    def here(work: str = "start") -> Owner:
        boot = Path("/proc/sys/kernel/random/boot_id")
        return Owner(
            os.getpid(), platform.node(), boot.read_text().strip() if boot.exists() else "", _started(os.getpid()), work
        )

    @staticmethod
    def read(path: Path) -> Owner | None:
        """The owner that the file names. None if there is none, or none that this program wrote."""
        try:
            owner = Owner(**json.loads(path.read_text(encoding="utf-8")))
            known = isinstance(owner.process, int) and 0 < owner.process < 2**31
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (owner.host, owner.boot, owner.started, owner.work)
        return owner if known and all(isinstance(text, str) for text in texts) else None

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self)))

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is a process of another host, of which nobody can see from here whether it lives.

        Containers of one machine have names of their own, but share its start, and its locks.
        """
        return self.host != platform.node() and (not self.boot or self.boot != Owner.here().boot)

    @property
    def lives(self) -> bool:
        here = Owner.here()
        return (
            self.host == here.host
            and self.boot == here.boot
            and is_alive(self.process)
            and _started(self.process) == self.started
        )


def _started(process: int) -> str:
    """When a process started, in clock ticks after the start of the host; "" where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def locked(root: Path, patience: float = PATIENCE) -> Iterator[str]:
    """Holds the lock of a run directory. The lock ends with its process, even after a kill.

    Gives what the last process was doing if it was killed, "" if it ended by itself.

    Raises RunError if another process keeps the lock for more than `patience` seconds. The message
    names the process and how long it has held the lock. The file of the owner counts beside the
    lock: somebody may have deleted the lock file, and few file systems lock across hosts. An owner
    of another host is never taken over by itself, for it may live. Who knows that it has ended
    deletes its file. If it lives after all, it ends when it writes the next time.

    Raises RunError too if the directory goes away meanwhile, whatever error comes of that.
    """
    path, here = Layout(root).owner, Owner.here()

    def is_there() -> bool:
        found = Owner.read(path)
        return found is not None and replace(found, work=here.work) == here

    with _acquire(root, patience):
        last = Owner.read(path)
        if _is_owned(root):
            raise RunError(_in_use(root))
        here.write(path)
        HELD[root] = is_there
        try:
            yield last.work if last else ""
        except Exception as error:
            check_there(root)
            if isinstance(error, FileNotFoundError) and Path(str(error.filename)).is_relative_to(root):
                raise RunError(
                    f"{error.filename} has gone while it was in use: it was moved or deleted; put it back, or run the "
                    "same command again to have it made again"
                ) from error
            raise
        finally:
            del HELD[root]
            if is_there():
                path.unlink(missing_ok=True)


def note_work(root: Path, work: str) -> None:
    """Notes what the process that holds the lock begins, to be read after a kill."""
    if root in HELD:
        Owner.here(work).write(Layout(root).owner)


def _acquire(root: Path, patience: float) -> AcquireReturnProxy[BaseFileLock]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _lock(root, patience).acquire()
    except Timeout:
        raise RunError(_in_use(root)) from None
    except (OSError, ValueError, NotImplementedError) as error:
        lock = Layout(root).lock
        if isinstance(error, NotImplementedError) or getattr(error, "errno", None) in NO_LOCKS:
            remedy = "its file system has no locks (flock); give an output directory on another one"
        elif lock.is_symlink() or (lock.exists() and not lock.is_file()):
            remedy = f"{lock} is no file; delete it"
        else:
            remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "give another output directory")
        what = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{root} cannot be locked ({what}); {remedy}") from None


def in_use(root: Path) -> bool:
    """Whether a process holds the lock of `root` now.

    If this user may not write to the directory, the owner file decides. That file stays after a
    kill. So does that of another host: its process may live.
    """
    layout = Layout(root)
    if _is_owned(root):
        return True
    if not layout.lock.exists():
        return False
    try:
        with _lock(root, PATIENCE):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return layout.owner.exists()


def _lock(root: Path, patience: float) -> BaseFileLock:
    return FileLock(Layout(root).lock, timeout=patience, poll_interval=PATIENCE / 10)


def _is_owned(root: Path) -> bool:
    """Whether the process that the owner's file names lives, or may live. This one may have left its name when it let
    go."""
    owner = Owner.read(Layout(root).owner)
    if owner is None or owner.is_elsewhere:
        return owner is not None
    return owner.lives and (owner.process != os.getpid() or root in HELD)


def _in_use(root: Path) -> str:
    path = Layout(root).owner
    owner, name = Owner.read(path), "another process"  # it may be just taking or releasing the lock
    remedy = "wait until it ends, or give another output directory"
    if owner is not None:
        with suppress(OSError):
            minutes, host = (time.time() - path.stat().st_mtime) / 60, ""
            if owner.is_elsewhere:
                host = f" of host {owner.host}"
                remedy = (
                    f"from here nobody can see whether it still runs. If it does, {remedy}; if it has ended, delete "
                    f"{path} and run the same command again"
                )
            name = f"process {owner.process}{host}, for {max(0, minutes):.0f} minutes at: {owner.work}"
    return f"{root} is in use by {name}; {remedy}"


def claim(
    root: Path,
    config: dict[str, Any],
    manifest: dict[str, Any],
    config_text: str,
    may_change: Collection[str] = (),
    parts: Mapping[str, Path] = MappingProxyType({}),
    amendment: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes the configuration into a new run directory `root`, or checks it against an old one.

    `may_change` holds dotted keys that may differ on a resume, because no row depends on them.
    `amendment` holds keys that get a new value in config.json of an old one, and notes beside them.
    `parts` holds the source files of your own parts, by the name in the configuration. Their
    SHA-256 is kept under "parts" of config.json.

    Raises RunError if `root` has another configuration (the message lists the keys), if the source
    of a part has changed, or if `root` is not a run directory.
    """
    layout = Layout(root)
    if layout.config.exists():
        check_format(root)
        # A run may be moved or copied, so its own path does not count.
        held = read_marker(layout.config)
        old = {**held, "output": config.get("output")}
        if changed := changed_parts(root, parts):
            raise RunError(
                f"{root} was started with another {changed[0]}: {parts[changed[0]]} was changed since; restore it to "
                "resume, or give a new output directory"
            )
        for note in NOTES:
            old.pop(note, None)
        differences = [line for line in differing_keys(old, config) if line.partition(":")[0] not in may_change]
        if differences:
            raise RunError(
                f"{root} was started with another configuration ({'; '.join(differences)}); "
                "use the same one to resume, or give a new output directory"
            )
        if amendment:
            amended = {**held, **amendment}
            settings = {key: value for key, value in amended.items() if key not in NOTES}
            write_atomic(layout.config_yaml, yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False))
            write_atomic(layout.config, json.dumps(amended, indent=2))
        return
    # A run that was killed right after its start leaves only these files.
    ours = (layout.lock, layout.owner, layout.config_yaml, layout.manifest)
    foreign = [path.name for path in root.iterdir() if path not in ours]
    if any(not (name.startswith(".") and name.endswith(".tmp")) for name in foreign):
        raise RunError(f"{root} is not empty and not a selfevo run; give a new output directory")
    write_atomic(layout.config_yaml, config_text)
    write_atomic(layout.manifest, json.dumps({"format": FORMAT, **manifest}, indent=2))
    hashes = {"parts": {name: hash_file(file) for name, file in parts.items()}} if parts else {}
    write_atomic(layout.config, json.dumps({**config, **hashes}, indent=2))


def note_start(root: Path, versions: Mapping[str, str], rounds: int) -> list[str]:
    """Adds this start to events.jsonl. Returns the versions that the run was not started with."""
    write_event(root, "start", stage="", seconds=0, platform=dict(versions), rounds=rounds)
    first = read_marker(Layout(root).manifest).get("platform", {})
    return [
        f"{name} {first[name]}, now {versions.get(name)}"
        for name in ("torch", "transformers", "trl", "peft", "device")
        if name in first and first[name] != versions.get(name)
    ]


def check_format(root: Path) -> None:
    """Raises RunError if another version of selfevo made the run directory and it has other files."""
    found = read_marker(Layout(root).manifest).get("format")
    if found != FORMAT:
        made = "before run directories had a format" if found is None else f"in format {found!r}"
        raise RunError(
            f"{root} was made {made}, and this selfevo reads format {FORMAT}; give a new output directory, or use the "
            "version of selfevo that its manifest.json names"
        )


def changed_parts(root: Path, parts: Mapping[str, Path]) -> list[str]:
    """The names of `parts` whose source file has changed since the run in `root` started."""
    path = Layout(root).config
    before = read_marker(path).get("parts", {}) if path.exists() else {}
    return [name for name, file in parts.items() if name in before and before[name] != hash_file(file)]


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The dotted keys that differ between two nested configurations, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differing_keys(old.get(k), new.get(k), f"{prefix}.{k}" if prefix else k)]
    return [] if old == new else [f"{prefix}: {old!r} in the run, {new!r} now"]
