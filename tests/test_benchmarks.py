"""Files of benchmarks that pages show: they bear the pages out, and what can be computed again is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from test_docs import ROOT, script

RESULTS = ROOT / "docs" / "results"


def recorded(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_the_simulation_gives_what_its_file_says() -> None:
    cluster, found = script("benchmarks/cluster.py"), recorded("simulation-64-gpus.json")
    base = cluster.Assumptions(**{**found["assumptions"], "written": tuple(found["assumptions"]["written"])})
    assert json.loads(json.dumps(cluster.results(base))) == found


def test_no_row_of_the_simulation_is_lost_and_each_fault_costs_time() -> None:
    cluster = script("benchmarks/cluster.py")
    base = cluster.Assumptions()._replace(rows=64_000, slice_rows=50, trained=1e6, load=0.0)
    ideal = base.rows * sum(base.written) / (base.generate_speed * base.devices)
    plain, again = cluster.generation(base)
    assert ideal <= plain and again == 0
    slow, _ = cluster.generation(base._replace(stragglers=0.2))
    lost, again = cluster.generation(base, 0.4 * plain)
    assert slow > plain and lost > plain
    assert 0 < again <= base.per_node * base.slice_rows


@pytest.mark.parametrize(
    "case", recorded("benchmark-memory.json")["cases"], ids=lambda case: case["name"] + case["mode"]
)
def test_the_estimated_memory_is_within_a_quarter_of_the_measured(case: dict[str, Any]) -> None:
    assert 0.75 <= case["estimated"] / case["measured"] <= 1.25
