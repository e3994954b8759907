"""kill -9 on the real demo: python experiments/kill_matrix.py [--minutes 60] [--output runs/kill-matrix]

Runs the smoke demo once undisturbed. Then, until the time is up, runs it again and again and kills it at random moments
until it gets through, and compares every row and every weight with the undisturbed run. Writes OUTPUT/kill_matrix.json;
exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from selfevo.rundir.inspect import entries, verify


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--output", type=Path, default=Path("runs/kill-matrix"))
    arguments.add_argument("--seed", type=int, default=0, help="draws the moments of the kills")
    given = arguments.parse_args()
    deadline, dice = time.monotonic() + 60 * given.minutes, random.Random(given.seed)
    shutil.rmtree(given.output, ignore_errors=True)
    given.output.mkdir(parents=True)
    started = time.monotonic()
    assert demo(given.output / "undisturbed", given.output, None) == 0, "the undisturbed run failed; see demo.log"
    whole = time.monotonic() - started
    expected = hashes(given.output / "undisturbed")
    print(f"undisturbed: {whole:.0f} s, {len(expected)} files")
    runs: list[dict[str, object]] = []
    while time.monotonic() + whole < deadline:
        run, deaths = given.output / "killed", list[str]()
        shutil.rmtree(run, ignore_errors=True)
        # Two deaths at least; then what is left of the run is shorter and shorter, and at some point gets through.
        while demo(run, given.output, dice.uniform(8, whole / 2)) == -signal.SIGKILL:
            deaths.append(where(run))
        found = hashes(run)
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        faults = verify(run)[1]
        runs.append({"deaths": deaths, "different": different, "faults": faults})
        outcome = f"DIFFERS: {', '.join(different)}" if different else "the same"
        print(f"run {len(runs)}: killed in {', '.join(deaths) or 'nothing'}: {outcome}")
    result = {"undisturbed_seconds": round(whole), "files": len(expected), "runs": runs}
    (given.output / "kill_matrix.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    kills = sum(len(run["deaths"]) for run in runs if isinstance(run["deaths"], list))
    bad = sum(bool(run["different"] or run["faults"]) for run in runs)
    print(f"{len(runs)} runs, {kills} kills, {bad} that differ")
    sys.exit(1 if bad or not kills else 0)


def demo(run: Path, log: Path, seconds: float | None) -> int:
    """Starts or resumes the smoke demo in `run`, kills it after `seconds`, and returns its exit status."""
    command = [str(Path(sys.executable).with_name("selfevo")), "demo", "--smoke", "--output", str(run)]
    with (log / "demo.log").open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def where(run: Path) -> str:
    """The stage that was begun last."""
    if not (run / "config.json").exists():
        return "start"
    return next((entry.name for entry in reversed(entries(run))), "data")


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of every row file and every model file, but for the models' markers and cards, which hold a duration."""
    files = [path for folder in ("data", "stages", "models") for path in (run / folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in ("selfevo.json", "README.md")
    }


if __name__ == "__main__":
    main()
