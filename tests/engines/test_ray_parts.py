"""What of the generation on Ray needs no cluster: who is asked what, the worker by itself, models that travel."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import on_ray
import selfevo
from selfevo.config.cluster import ClusterConfig
from selfevo.config.loading import parse_config
from selfevo.config.sections import TransformersSettings
from selfevo.engines.ray.parts import Part, Parts
from selfevo.engines.ray.weights import KEPT, Files, Folder, find, names
from selfevo.engines.ray.worker import Worker, versions
from selfevo.errors import ConfigError, EngineError, MissingExtraError
from selfevo.method.protocols import Request, Sampling
from selfevo.pipeline.build import build_engine

REQUESTS = [Request((str(i),), i) for i in range(12)]
SLICES = [REQUESTS[i : i + 3] for i in range(0, 12, 3)]
MINIMAL = {"model": "m", "output": "o", "prompts": {"path": "p"}}


def rows(part: Part | None) -> list[tuple[int, int]]:
    assert part is not None
    return part.rows


def test_without_states_a_part_is_a_slice_and_the_longest_comes_first() -> None:
    parts = Parts.of(SLICES, 3, lambda request: None)
    assert [rows(parts.take(worker)) for worker in (1, 2, 1, 3)] == [[(p, i) for i in range(3)] for p in (3, 2, 1, 0)]
    assert not parts and parts.take(1) is None


def test_a_worker_gets_what_it_holds_first_then_what_is_free_then_the_last_of_the_longest() -> None:
    parts = Parts.of(SLICES, 2, lambda request: {0: 1, 2: 2}.get(request.seed % 3))
    assert len(parts) == 8
    assert rows(parts.take(1)) == [(3, 0), (2, 0)]
    assert rows(parts.take(1)) == [(1, 0), (0, 0)]
    assert [rows(parts.take(1)) for _ in range(4)] == [[(place, 1)] for place in (3, 2, 1, 0)], "free ones"
    assert parts.take(1) is None, "the others soon do these themselves"
    parts = Parts.of(SLICES, 1, lambda request: 2)
    assert rows(parts.take(1)) == [(0, 2)]
    parts.lose(2)
    assert rows(parts.take(1)) == [(3, 0)]
    lost = [Part([(0, 0)]), Part([(0, 1)])]
    parts.give_back(lost)
    assert [parts.take(3), parts.take(3)] == lost, "in their order, before all others"


def worker(tmp_path: Path, make: object = on_ray.faulty) -> Worker:
    return Worker(pickle.dumps(make))


def test_a_worker_answers_with_plain_values(tmp_path: Path) -> None:
    one, nothing = worker(tmp_path), Folder.of(tmp_path / "no-folder")
    reply = one.generate(nothing, None, REQUESTS[:2], Sampling(4))
    assert [g.text for g in reply.generations] == ["0 gives 1", "1 gives 1"]
    assert one.generate(nothing, None, [Request(("refuse",), 0)], Sampling(4)).fault == (
        "EngineError",
        "this prompt is refused",
    )
    broken = one.generate(nothing, None, [Request(("crash",), 0)], Sampling(4))
    assert broken.lost == "RuntimeError: CUDA error: an illegal memory access"
    assert one.hello().keys() == {*versions(), "host"}
    one.release()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFEVO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/weights"


def model(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    (folder / "README.md").write_text("a card, which may change")
    (folder / "optimizer.pt").write_bytes(b"of no use")
    return folder


class Moved(Files):
    """Reads what the driver sees at a path, although it lies elsewhere now."""

    def __init__(self, places: dict[Path, Path]) -> None:
        self.places = places

    def hashes(self, folder: Path) -> dict[str, str]:
        return super().hashes(self.places[folder])

    def read(self, path: Path, start: int) -> bytes:
        return super().read(self.places[path.parent] / path.name, start)


def test_a_model_at_its_path_is_used_where_it_is_and_another_one_is_not(tmp_path: Path, cache: Path) -> None:
    folder = Folder.of(model(tmp_path / "a"))
    assert find(folder, None) == tmp_path / "a" and not cache.exists()
    (tmp_path / "a/README.md").write_text("another card")
    assert find(folder, None) == tmp_path / "a"
    (tmp_path / "a/model.safetensors").write_bytes(b"WEIGHTS")
    assert find(folder, None) is None, "an earlier run of this machine had the same path"
    source = Moved({tmp_path / "a": model(tmp_path / "b")})
    found = find(folder, source)
    assert found is not None and found.parent == cache
    assert names(found) == ["config.json", "model.safetensors"] == sorted(path.name for path in found.iterdir())
    assert (found / "model.safetensors").read_bytes() == b"weights"
    assert find(folder, None) == found, "it is copied once"


def test_an_adapter_finds_its_base_wherever_that_came_to(tmp_path: Path, cache: Path) -> None:
    base, adapter = model(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 4}))
    (adapter / "adapter_model.safetensors").write_bytes(b"small")
    folder = Folder.of(adapter)
    assert find(folder, None) == adapter
    there = tmp_path / "there"
    there.mkdir()
    for path in (base, adapter):
        path.rename(there / path.name)
    found = find(folder, Moved({base: there / "base", adapter: there / "adapter"}))
    assert found is not None and found.parent == cache
    named = Path(json.loads((found / "adapter_config.json").read_text())["base_model_name_or_path"])
    assert named.parent == cache and (named / "model.safetensors").read_bytes() == b"weights"
    shutil.move(there / "base", base)
    assert find(folder, Moved({adapter: there / "adapter"})) != found, "the base lies at its path again"


def test_a_copy_that_came_wrong_is_no_model(tmp_path: Path, cache: Path) -> None:
    folder = Folder.of(model(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")

    class Noisy(Moved):
        def read(self, path: Path, start: int) -> bytes:
            return super().read(path, start).replace(b"w", b"v")

    with pytest.raises(EngineError, match=r"model\.safetensors came to .* with another SHA-256"):
        find(folder, Noisy({tmp_path / "a": tmp_path / "b"}))
    assert find(folder, None) is None


def test_the_cache_keeps_the_models_that_were_used_last(tmp_path: Path, cache: Path) -> None:
    for number in range(KEPT + 2):
        folder = Folder.of(model(tmp_path / "a", b"weights %d" % number))
        (tmp_path / "a").rename(tmp_path / "b")
        assert find(folder, Moved({tmp_path / "a": tmp_path / "b"})) is not None
        shutil.rmtree(tmp_path / "b")
    assert len([path for path in cache.iterdir() if path.is_dir()]) == KEPT


@pytest.mark.parametrize("address", ["local", "auto", "10.0.0.1:6379", "head:6379", "[::1]:6379", "a-b.c_d:1"])
def test_addresses(address: str) -> None:
    assert ClusterConfig(address=address).address == address


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster": {"address": "ray://10.0.0.1:10001"}}, "cluster.address: .*Ray's client, which is not supported"),
        ({"cluster": {"address": "10.0.0.1"}}, "'10.0.0.1' is no address; give local, auto, or host:port"),
        ({"cluster": {"address": "http://a:1"}}, "is no address"),
        ({"cluster": {"address": "a b:1"}}, "is no address"),
        ({"cluster": {"address": "a:0"}}, "is no address"),
        ({"cluster": {"address": "a:65536"}}, "is no address"),
        ({"cluster": {"address": ""}}, "is no address"),
        ({"cluster": {"num_cpus": 0}}, "cluster.num_cpus"),
        ({"cluster": {"num_gpus": -1}}, "cluster.num_gpus"),
        ({"cluster": {"timeout_seconds": 0}}, "cluster.timeout_seconds"),
        ({"cluster": {"adress": "auto"}}, "unknown key 'cluster.adress'.*address"),
        ({"cluster": {"address": "auto"}}, "there are none; set engine.workers"),
        ({"engine": {"workers": -1}}, "engine.workers"),
        ({"engine": {"workers": 1.5}}, "engine.workers"),
        ({"engine": {"kind": "vllm", "tensor_parallel_size": 0}}, "engine.tensor_parallel_size"),
        ({"engine": {"tensor_parallel_size": 2}}, "unknown key 'engine.tensor_parallel_size'"),
        ({"engine": {"workers": 2, "device": "cuda:1"}}, "a device of its own; set cuda or auto"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_config({**MINIMAL, **changes}, "x.yaml")
    assert "\n" not in str(caught.value)


def test_what_is_not_used_is_not_written_down() -> None:
    written = parse_config(MINIMAL, "x.yaml").model_dump(mode="json")
    assert "cluster" not in written and "workers" not in written["engine"]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.pipeline.build.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"engine\.workers is 2, which needs Ray: pip install 'selfevo\[ray\]'"):
        build_engine(TransformersSettings(workers=2))


def test_nothing_but_the_engine_imports_ray() -> None:
    source = Path(selfevo.__file__).parent
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if any(name.partition(".")[0] == "ray" for name in named):
                assert path.parent == source / "engines/ray" and path.stem in ("engine", "crew"), path
    code = "import sys, selfevo.pipeline.run, selfevo.engines.ray.worker; print('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
