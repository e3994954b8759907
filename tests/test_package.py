"""What a user installs: the wheel, in an environment of its own, without a checkout anywhere near."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path

import pytest

from run_directory import write_run

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make dist` builds it: from the source distribution, so that this one is complete too."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, env=clean_environment())
    assert (folder / f"selfevo-{version('selfevo')}.tar.gz").is_file()
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The `selfevo` command of a new environment that has the wheel and the tested versions of what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin/pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(command, check=True, env=clean_environment(), cwd=folder)
    yield folder / "bin/selfevo"
    shutil.rmtree(folder)  # pytest would keep it, and it is large


def clean_environment() -> dict[str, str]:
    """Nothing in it leads to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def call(program: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], cwd=folder, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_with_its_types_and_templates_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = message_from_bytes(archive.read(metadata))
    files = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/selfevo").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("selfevo/")} == {f for f in files if "__pycache__" not in f}
    for name in ("py.typed", "config/template.yaml", "report/page.html.jinja", "report/page.css.jinja"):
        assert f"selfevo/{name}" in names
    assert {name.split("/")[0] for name in names} == {"selfevo", metadata.split("/")[0]}
    assert {link.split(",")[0] for link in about.get_all("Project-URL", [])} >= {"Homepage", "Documentation", "Issues"}
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in about.get_all("Classifier", [])


def test_it_is_the_installed_package_that_answers(program: Path, tmp_path: Path) -> None:
    assert call(program, tmp_path, "--version").strip() == version("selfevo")
    path = call(program.with_name("python"), tmp_path, "-c", "import selfevo; print(selfevo.__file__)")
    assert Path(path).is_relative_to(program.parents[1])


def test_init_writes_the_template(program: Path, tmp_path: Path) -> None:
    call(program, tmp_path, "init", "mine.yaml")
    assert (tmp_path / "mine.yaml").read_bytes() == (ROOT / "src/selfevo/config/template.yaml").read_bytes()


def test_doctor_passes_a_sound_model(program: Path, tmp_path: Path, tiny_model: Path) -> None:
    row = {"prompt": "Sort: 9 8", "response": "9 8", "feedback": "Wrong.\nVerdict: not qualified", "refinement": "8 9"}
    (tmp_path / "d_meta.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"Sort: {i} 1"}) + "\n" for i in range(6)))
    settings = {
        "model": str(tiny_model),
        "output": "out",
        "prompts": {"path": "pool.jsonl"},
        "corpus": {"path": "d_meta.jsonl"},
        "rounds": 1,
        "skills": {name: {"max_new_tokens": 64} for name in ("respond", "critique", "refine", "judge")},
        "trainer": {"device": "cpu", "dtype": "float32"},
        "engine": {"device": "cpu", "dtype": "float32"},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    out = call(program, tmp_path, "doctor", "run.yaml")
    for check in ("versions", "chat template", "engine", "time"):
        assert check in out
    assert not (tmp_path / "out").exists()


def test_report_writes_the_page_of_a_run(program: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert "round-2" in call(program, tmp_path, "report", "run")
    assert "round-2" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
