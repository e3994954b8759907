"""A round on 64 GPUs, simulated: slices, stragglers, and a node that is lost for an hour.

    python benchmarks/cluster.py --json docs/results/simulation-64-gpus.json
    python benchmarks/cluster.py --show docs/results/simulation-64-gpus.json

Nothing runs: the numbers follow from the assumptions that stand in the file. Each skill of the round is a queue of
slices. A worker takes the next slice when it has written the last one. A skill begins when the one before it has
written all rows. The slices of a lost node go back to the head of the queue. Training goes on from its last
checkpoint when the node is back, because the number of processes decides the global batch.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HOUR = 3600.0


class Assumptions(NamedTuple):
    """Times are in seconds, speeds in tokens a second of one device."""

    nodes: int = 8
    per_node: int = 8
    rows: int = 1_000_000
    slice_rows: int = 256
    written: tuple[int, ...] = (250, 150, 250, 150)  # tokens of a row: respond, critique, refine, judge
    generate_speed: float = 4000.0
    load: float = 120.0  # a worker, or a group of processes, with the weights of the model
    trained: float = 600e6  # tokens of the round's training, over all epochs
    train_speed: float = 6500.0
    checkpoint: float = 600.0  # trainer.save_minutes
    varies: float = 0.0  # sigma of the logarithm of a slice's time
    stragglers: float = 0.0  # share of the slices
    slower: float = 3.0  # a straggler takes so many times as long
    lost_in: str = ""  # generation or training: one node is gone for an hour, 40 % of the way
    seed: int = 0

    @property
    def devices(self) -> int:
        return self.nodes * self.per_node


def generation(given: Assumptions, lost_at: float | None = None) -> tuple[float, int]:
    """Seconds of the four skills, and the rows that are written twice because a node was lost at `lost_at`."""
    dice, now, again = random.Random(given.seed), given.load, 0
    gone = set(range(given.per_node)) if lost_at is not None else set()
    back: dict[int, float] = {}  # when the workers of the lost node are there again
    for written in given.written:
        sizes = [given.slice_rows] * (given.rows // given.slice_rows)
        sizes += [given.rows % given.slice_rows] * bool(given.rows % given.slice_rows)
        queue = [
            (size, size * written / given.generate_speed * dice.lognormvariate(0, given.varies)
             * (given.slower if dice.random() < given.stragglers else 1))
            for size in sizes
        ]  # fmt: skip
        workers = [(max(now, back.get(worker, 0.0)), worker) for worker in range(given.devices)]
        heapq.heapify(workers)
        ends = [now]
        while queue:
            start, worker = heapq.heappop(workers)
            size, seconds = queue.pop(0)
            if worker in gone and lost_at is not None and start + seconds > lost_at:
                if start < lost_at:  # it was at work
                    again += size
                queue.insert(0, (size, seconds))
                gone.discard(worker)
                back[worker] = lost_at + HOUR + given.load
                heapq.heappush(workers, (max(start, back[worker]), worker))
                continue
            ends.append(start + seconds)
            heapq.heappush(workers, (start + seconds, worker))
        now = max(ends)
    return now, again


def simulated(given: Assumptions) -> dict[str, float]:
    """Hours of a round, and its share of the time in which no device ever waits."""
    undisturbed, again = generation(given)
    if given.lost_in == "generation":
        generate, again = generation(given, 0.4 * undisturbed)
    else:
        generate = undisturbed
    work = given.trained / (given.train_speed * given.devices)
    train = given.load + work
    if given.lost_in == "training":
        train += HOUR + given.load + 0.4 * work % given.checkpoint
    ideal = given.rows * sum(given.written) / (given.generate_speed * given.devices) + work
    return {
        "generate_hours": round(generate / HOUR, 3),
        "train_hours": round(train / HOUR, 3),
        "share_of_ideal": round(ideal / (generate + train), 3),
        "rows_again": again,
        "idle_device_hours": round((generate + train - ideal) * given.devices / HOUR, 1),
    }


def cases(base: Assumptions) -> list[tuple[str, Assumptions]]:
    real = base._replace(varies=0.15, stragglers=0.05)
    return [
        ("slices that all take as long", base),
        ("their lengths vary by 15 %", base._replace(varies=0.15)),
        ("and 5 % of the slices take 3 times as long", real),
        ("and a node is lost for an hour in generation", real._replace(lost_in="generation")),
        ("or a node is lost for an hour in training", real._replace(lost_in="training")),
        ("slices of 64 rows, with stragglers", real._replace(slice_rows=64)),
        ("slices of 1,024 rows, with stragglers", real._replace(slice_rows=1024)),
    ]


def results(base: Assumptions) -> dict[str, Any]:
    found = [{"case": name, **simulated(given)} for name, given in cases(base)]
    return {"assumptions": base._asdict(), "cases": found}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", type=Path, help="print the table of a JSON file")
    given = parser.parse_args(arguments)
    if given.show:
        found = json.loads(given.show.read_text(encoding="utf-8"))
    else:
        found = json.loads(json.dumps(results(planned())))
    print("| what happens | generate, h | train, h | share of ideal | rows written twice | idle device-hours |")
    print("|---|---|---|---|---|---|")
    for case in found["cases"]:
        print(
            f"| {case['case']} | {case['generate_hours']:.2f} | {case['train_hours']:.2f} | "
            f"{case['share_of_ideal']:.0%} | {case['rows_again']} | {case['idle_device_hours']:.1f} |"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def planned() -> Assumptions:
    """With the speeds that `doctor --plan` assumes for the 7B of examples/clusters with adapters on an H100."""
    from plans import FOLDER, work_of

    from selfevo.checks.machine import parse_machine
    from selfevo.checks.throughput import modelled
    from selfevo.config.loading import load_config

    config, base = load_config(FOLDER / "one-gpu.yaml"), Assumptions()
    work = work_of(config.trainer.per_device_train_batch_size)
    card = parse_machine("H100 80GB").card
    speed = modelled(config, FOLDER / "shapes" / "7b", card, work, base.slice_rows, 1)
    return base._replace(generate_speed=round(speed.generate), train_speed=round(speed.train))


if __name__ == "__main__":
    main()
