"""A model of the hub by id and revision, from a server that speaks as much of the hub's API as a download needs."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from runs import small_demo, student
from selfevo.config.loading import parse_config
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, DataError
from selfevo.models.resolve import noted_revision, resolve_model
from selfevo.pipeline.run import run_loop
from selfevo.report.model_card import hub_id
from selfevo.report.progress import Silent
from selfevo.rundir.adapter_folder import weights_folder
from selfevo.rundir.atomic_files import hash_model
from selfevo.rundir.hub import parse, reference
from selfevo.trainers.scripted import ScriptedTrainer

NAME = "someone/a-model"
OLD, NEW = "a" * 40, "b" * 40


@dataclass(slots=True)
class Server:
    """`commits` has the files of each; `names` of branches and tags."""

    commits: dict[str, dict[str, bytes]]
    names: dict[str, str]
    url: str = ""
    gated: bool = False
    calls: list[str] = field(default_factory=list)

    def tree(self, commit: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self.commits[commit].items()
        ]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            server.calls.append(path)
            parts = path.strip("/").split("/")
            headers, content, status = {}, b"", 200
            known = {**server.names, **{commit: commit for commit in server.commits}}
            if "/".join(parts[-2:]) != NAME and f"/{NAME}/" not in f"{path}/":
                status, headers = 404, {"X-Error-Code": "RepoNotFound"}
            elif server.gated:
                status, headers = 403, {"X-Error-Code": "GatedRepo"}
            elif parts[0] == "api" and parts[-1] == parts[3]:
                content = json.dumps({"id": NAME, "sha": known["main"]}).encode()
            elif parts[0] == "api":
                commit = known.get(parts[5])
                if commit is None:
                    status, headers = 404, {"X-Error-Code": "RevisionNotFound"}
                elif parts[4] == "revision":
                    content = json.dumps({"id": NAME, "sha": commit}).encode()
                else:
                    content = json.dumps(server.tree(commit)).encode()
            else:
                commit = known[parts[3]]
                content = server.commits[commit]["/".join(parts[4:])]
                headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "train.py": b"import os", "x.bin": b"pickle"}
    changed = {**files, "model.safetensors": b"others" * 1000}
    server = Server({OLD: files, NEW: changed}, {"main": OLD, "v1": OLD}, f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    address = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", server.url + address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    http.shutdown()
    http.server_close()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_an_id_may_have_a_revision() -> None:
    assert parse("a/b") == ("a/b", None)
    assert parse("a/b@v1") == ("a/b", "v1")
    assert parse("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
    assert parse("a/b@") == ("a/b", None)
    assert hub_id("someone/a-model@v1") == hub_id("someone/a-model") == "someone/a-model"


def test_two_revisions_lie_side_by_side_without_code_or_pickles(hub: Server) -> None:
    old = resolve_model(NAME)
    hub.names["main"] = NEW
    new = resolve_model(NAME)
    assert (reference(old), reference(new)) == ((NAME, OLD), (NAME, NEW))
    assert hash_model(old) != hash_model(new)
    assert {path.name for path in old.iterdir()} == {"config.json", "model.safetensors"}
    assert resolve_model(f"{NAME}@v1") == resolve_model(f"{NAME}@{OLD}") == resolve_model(NAME, OLD) == old
    assert (old / "config.json").resolve() == (new / "config.json").resolve(), "what is the same is there once"


def test_without_the_hub_the_cache_will_do(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model(f"{NAME}@v1")
    offline(monkeypatch)
    assert resolve_model(f"{NAME}@v1") == resolve_model(f"{NAME}@{OLD}") == folder
    for missing in (f"{NAME}@{NEW}", f"{NAME}@v2", "someone/another"):
        with pytest.raises(
            ConfigError, match=r"it is not whole in the cache; connect to the hub, and run the same"
        ) as no:
            resolve_model(missing)
        assert "\n" not in str(no.value)


def test_a_download_that_was_interrupted_goes_on(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    get = file_download.http_get

    def lost(url: str, temp_file: Any, **settings: Any) -> None:
        if not url.endswith("model.safetensors"):
            return get(url, temp_file, **settings)
        temp_file.write(b"weights" * 500)
        raise ConnectionError("the connection was lost")

    with monkeypatch.context() as context:
        context.setattr(file_download, "http_get", lost)
        with pytest.raises(ConfigError, match=f"model: {NAME} is not a folder and cannot be loaded from the hub"):
            resolve_model(NAME)
        offline(context)
        with pytest.raises(ConfigError, match="it is not whole in the cache"):
            resolve_model(NAME)
    folder = resolve_model(NAME)
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 1000


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{NAME}@v9", "correct the revision 'v9'"),
        ("someone/another", "correct the name"),
        ("some one/a model", "correct the name"),
        (f"{NAME}/too/deep", "does not exist; give a model folder or a hub id like owner/name"),
        ("nothing", "does not exist; give a model folder"),
        ("@v1", "does not exist; give a model folder"),
        (f"{NAME}@../../x", "correct the"),
    ],
)
def test_what_is_not_there_is_said_with_the_remedy(hub: Server, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_model(name)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert name in str(refused.value)


def test_a_model_behind_a_gate_says_how_to_get_in(hub: Server) -> None:
    hub.gated = True
    with pytest.raises(ConfigError, match="ask for access on its page, then log in with `hf auth login`"):
        resolve_model(NAME)


def test_a_run_notes_the_revision_and_resumes_with_it(hub: Server, tmp_path: Path) -> None:
    given = small_demo(tmp_path, tmp_path / "out")
    config = parse_config({**given.model_dump(mode="json"), "model": NAME, "rounds": 1, "evaluation": None}, "test")
    answer = student(given)
    engine = ScriptedEngine(lambda model, turns: answer(Path("base") if model.name == OLD else model, turns))
    run_loop(config, Silent(), engine, ScriptedTrainer())
    manifest = json.loads((config.output / "manifest.json").read_text())
    assert manifest["hub"] == {"model": NAME, "revision": OLD}
    hub.names["main"] = NEW
    shutil.rmtree(config.output / "stages/round-1")
    shutil.rmtree(config.output / "models/round-1")
    trainer = ScriptedTrainer()
    run_loop(config, Silent(), engine, trainer)
    assert len(trainer.calls) == 1, "all other rows and models are still those of the run's own base"
    assert noted_revision(config.output, NAME) == noted_revision(config.output, f"{NAME}@v1") == OLD
    assert noted_revision(config.output, "someone/another") is None
    assert noted_revision(tmp_path / "nowhere", NAME) is None


def test_a_run_from_a_folder_notes_no_hub(copy: Any) -> None:
    assert "hub" not in json.loads((copy.output / "manifest.json").read_text())


def test_an_adapter_is_loaded_on_the_revision_that_it_names(hub: Server, tmp_path: Path) -> None:
    hub.names["main"] = NEW
    settings = {"base_model_name_or_path": NAME, "revision": OLD}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert reference(weights_folder(tmp_path)) == (NAME, OLD)
    hub.names.clear()
    hub.commits.pop(NEW)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "revision": NEW}))
    with pytest.raises(
        DataError, match=r"cannot be loaded from the hub: .*; correct the revision .*, or put that model back, or merge"
    ):
        weights_folder(tmp_path)
