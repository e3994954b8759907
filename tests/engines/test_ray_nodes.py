"""A Ray cluster of two nodes, which are processes of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfevo.config.cluster import ClusterConfig
from selfevo.errors import EngineError
from selfevo.method.protocols import Request, Sampling, stream

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray", reason="the extra is not installed: pip install 'selfevo[ray]'")
# ruff: noqa: E402
from ray.cluster_utils import Cluster

from on_ray import ROWS, engine
from selfevo.engines.ray.crew import connect


@pytest.fixture
def nodes() -> Iterator[Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_that_is_killed_costs_no_row(tiny_model: Path, nodes: Any, caplog: pytest.LogCaptureFixture) -> None:
    second = nodes.add_node(num_cpus=1)
    two = engine(2, address=nodes.address)
    rows = [Request((row.prompt,), i) for i, row in enumerate(ROWS)]
    slices = [rows[start : start + 4] for start in range(0, len(rows), 4)] * 4
    sampling = Sampling(24, temperature=1.0)
    while two._crew is None or len(two._crew.ready) < 2:
        two.generate(tiny_model, rows[:1], Sampling(1))
    found: dict[int, Any] = {}
    for place, generations in stream(two, tiny_model, slices, sampling):
        if not found:
            nodes.remove_node(second, allow_graceful=False)
        found[place] = generations
    assert found == dict(stream(engine(0), tiny_model, slices, sampling))
    assert "is lost" in caplog.text
    with pytest.raises(EngineError, match=rf"works on the cluster at {nodes.address} already"):
        connect(ClusterConfig(address="local"), 1)


def test_there_is_no_cluster_at_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for wrong in (address, "no-such-host.invalid:6379", "auto"):
        with pytest.raises(
            EngineError, match=rf"there is no cluster at cluster.address {wrong}.*; start one"
        ) as caught:
            connect(ClusterConfig(address=wrong), 1)
        assert "\n" not in str(caught.value)


def test_something_else_answers_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.engines.ray.crew.PROBE_SECONDS", 2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(EngineError, match="nothing answered within 2 seconds"):
            connect(ClusterConfig(address=f"127.0.0.1:{other.getsockname()[1]}"), 1)
