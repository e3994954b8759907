"""Models go to the hub in one commit, with their card, and without what belongs to this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import one_line
from hub import TOKEN, Hub, Repo, hub
from selfevo.api import RunResult
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, HubError, RunError, SelfevoError
from selfevo.rundir.atomic_files import check_folder, read_marker, seal
from selfevo.sharing.push import push_model


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def pushed(server: Hub, name: str, branch: str = "main") -> dict[str, bytes]:
    return server.repos[name].branches[branch]


def test_the_best_model_and_its_card_are_pushed(server: Hub, finished: RunConfig) -> None:
    found = push_model(finished.output, "me/my-model")
    files = pushed(server, "me/my-model")
    folder = finished.output / "models/round-3"
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert files["README.md"] == (folder / "README.md").read_bytes()
    assert files.keys() == {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert (found.model, found.files, found.url) == ("round-3", len(files), f"{server.url}/me/my-model")
    assert found.size == sum(map(len, files.values()))
    for content in files.values():
        assert str(finished.output.parent).encode() not in content
    assert not server.repos["me/my-model"].private


def test_model_branch_and_privacy_can_be_chosen(server: Hub, finished: RunConfig) -> None:
    for _ in range(2):  # what is there already is no error
        push_model(finished.output, "me/my-model", model="round-1", private=True, revision="first")
    assert server.repos["me/my-model"].private
    assert pushed(server, "me/my-model") == {}
    card = (finished.output / "models/round-1/README.md").read_bytes()
    assert pushed(server, "me/my-model", "first")["README.md"] == card


def test_a_public_repo_gets_nothing_private(server: Hub, finished: RunConfig) -> None:
    server.repos["me/open"] = Repo()
    with pytest.raises(ConfigError, match="me/open is public on the hub; make it private there"):
        push_model(finished.output, "me/open", private=True)
    assert pushed(server, "me/open") == {}


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("repos/create", 401, r"refuses me/my-model \(401: .*give a token that may write there"),
        ("repos/create", 403, r"\(403: .*give a token that may write there"),
        ("preupload", 403, r"\(403: .*give a token that may write there"),
        ("commit", 400, r"\(400: .*correct this, or try again"),
        ("objects/batch", 500, "500"),
    ],
)
def test_what_the_hub_refuses_is_one_line_without_the_token(
    server: Hub, finished: RunConfig, part: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.refuse[part] = status
    with pytest.raises(HubError, match=said) as caught:
        push_model(finished.output, "me/my-model")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert all(not files for repo in server.repos.values() for files in repo.branches.values())


def test_nothing_is_asked_before_what_can_be_known_here(
    server: Hub, copy: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'a/b/c' is no name for the hub; give owner/name"):
        push_model(copy.output, "a/b/c")
    with pytest.raises(RunError, match="has no model 'round-9'; it has sft, warm-up, meta, round-1, round-2, round-3"):
        push_model(copy.output, "me/my-model", model="round-9")
    with pytest.raises(RunError, match="is not a run directory"):
        push_model(tmp_path, "me/my-model")
    (copy.output / "models/round-2/model.safetensors").write_bytes(b"changed")
    with pytest.raises(RunError, match="was changed after it was finished"):
        push_model(copy.output, "me/my-model", model="round-2")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("selfevo.sharing.push.get_token", lambda: None)
    with pytest.raises(ConfigError, match="there is no token for the hub; run `hf auth login`, or put it in HF_TOKEN"):
        push_model(copy.output, "me/my-model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"):
        push_model(copy.output, "me/my-model")
    assert server.calls == []


def as_adapter(config: RunConfig, base: str) -> None:
    """Makes the last model an adapter of `base`."""
    folder = config.output / "models/round-3"
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(config.model)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    marker = {**read_marker(folder / "selfevo.json")}
    (folder / "selfevo.json").unlink()
    seal(folder, marker)
    path = config.output / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": base}))


def test_an_adapter_names_its_base_on_the_hub(server: Hub, copy: RunConfig, tmp_path: Path) -> None:
    as_adapter(copy, "owner/base")
    push_model(copy.output, "me/my-adapter")
    settings = json.loads(pushed(server, "me/my-adapter")["adapter_config.json"])
    assert settings == {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for name, content in pushed(server, "me/my-adapter").items():
        (fetched / name).write_bytes(content)
    check_folder(fetched)


def test_an_adapter_of_a_folder_is_refused(server: Hub, copy: RunConfig) -> None:
    as_adapter(copy, copy.model)
    with pytest.raises(ConfigError, match="is an adapter of a model that is a folder here"):
        push_model(copy.output, "me/my-adapter")
    assert server.calls == []


def test_a_hub_that_is_away_is_one_line(finished: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"the hub at http://127\.0\.0\.1:9 cannot be reached \(Connect"):
        push_model(finished.output, "me/my-model")


def test_python_has_it_too(server: Hub, finished: RunConfig) -> None:
    assert RunResult(finished.output).push("me/my-model") == f"{server.url}/me/my-model"


def test_the_command(finished: RunConfig) -> None:
    """As a user calls it, in a process of its own: the address and the token come from the environment."""

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_TOKEN": TOKEN, "HF_ENDPOINT": own.url, "HF_HUB_DISABLE_XET": "1", **more}
        command = [sys.executable, "-m", "selfevo", "push", str(finished.output), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env)

    with hub() as own:
        done = call("me/my-model", "--private")
        assert done.returncode == 0, done.stderr
        assert "pushed round-3: " in done.stdout
        assert done.stdout.count("\n") == 1
        assert f"{own.url}/me/my-model" in done.stdout
        assert own.repos["me/my-model"].private
        offline = call("me/my-model", HF_HUB_OFFLINE="1")
        assert (offline.returncode, "HF_HUB_OFFLINE is set" in one_line(offline.stderr)) == (2, True)
        wrong = call("me/my-model", HF_TOKEN="hf_wrong")
        assert wrong.returncode == HubError.exit_code == 8
        assert "give a token that may write there" in one_line(wrong.stderr)
        assert "hf_wrong" not in wrong.stderr
    assert issubclass(HubError, SelfevoError)
