"""lm-evaluation-harness runs on a model of ours, on a local file, and its outputs are scored by our rule too."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from selfevo.cli import app as cli
from selfevo.config.sections import TransformersSettings
from selfevo.errors import ConfigError, DataError, MissingExtraError
from selfevo.evaluation import lm_eval_harness as harness
from selfevo.evaluation.lm_eval_harness import own_data, run_harness, score

ENGINE = TransformersSettings(batch_size=2, device="cpu")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gsm8k") / "test.jsonl"
    rows = [
        {"question": f"How much is {n} + {n}?", "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"}
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_model_is_measured_by_the_harness_and_by_us(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    found = run_harness(
        tiny_model, ["gsm8k"], path=problems, limit=3, num_fewshot=0, max_new_tokens=4, engine=ENGINE, output=tmp_path
    )["gsm8k"]
    assert (found.documents, found.ours) == (3, 0.0)
    assert found.scores["exact_match,flexible-extract"] == 0.0
    samples = [json.loads(line) for line in (tmp_path / "samples_gsm8k.jsonl").read_text().splitlines()]
    assert len({sample["doc_id"] for sample in samples}) == 3
    assert samples[0]["arguments"][0][0].startswith("<|im_start|>user\nQuestion: How much is 0 + 0?")
    assert json.loads((tmp_path / "harness.json").read_text())["gsm8k"] == asdict(found)


def test_the_harness_asks_under_a_system_prompt(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    limits = {"limit": 1, "num_fewshot": 0, "max_new_tokens": 4}
    run_harness(tiny_model, ["gsm8k"], path=problems, system="Be brief.", engine=ENGINE, output=tmp_path, **limits)
    sample = json.loads((tmp_path / "samples_gsm8k.jsonl").read_text().splitlines()[0])
    assert sample["arguments"][0][0].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion:")


# What models write, and what the harness's rule "flexible-extract" (the last number) makes of it.
TEXTS = [
    ("It is 3 + 3 = 6.\n#### 6", True),
    ("She has 6 left.", True),
    ("The answer is $6.00", True),
    ("The answer is 60", False),
    ("I do not know", False),
]


def test_our_rule_and_theirs_agree_on_the_same_outputs(problems: Path, tmp_path: Path) -> None:
    manager = TaskManager()
    task = manager.load([own_data("gsm8k", problems, manager, tmp_path)])["tasks"]["gsm8k"]
    document = list(task.test_docs())[3]
    filters = {ensemble.name: ensemble for ensemble in task._filters}
    for text, right in TEXTS:
        assert score(document, text) is right
        instance = task.construct_requests(document, "", metadata=("gsm8k", 3, 1), chat_template=None)
        instance.resps = [text]
        filters["flexible-extract"].apply([instance])
        theirs = task.process_results(document, [instance.filtered_resps["flexible-extract"]])["exact_match"]
        assert theirs == float(right) or "6.00" in text  # they compare as text


def test_a_document_without_a_number_is_not_ours_to_score() -> None:
    assert score({"ctx": "a", "endings": ["b"]}, "b") is None
    assert score({"question": "q", "answer": "yes"}, "yes") is None


def test_what_cannot_be_run_is_said(tiny_model: Path, problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no task 'gsm9k'; `lm-eval ls tasks`"):
        run_harness(tiny_model, ["gsm9k"], engine=ENGINE)
    with pytest.raises(ConfigError, match="give the documents of one task"):
        run_harness(tiny_model, ["gsm8k", "hellaswag"], path=problems, engine=ENGINE)
    with pytest.raises(DataError, match=r"--count is 999, and gsm8k has \d+ documents; lower it, or leave it out"):
        run_harness(tiny_model, ["gsm8k"], path=problems, limit=999, engine=ENGINE)
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfevo\[harness\]'"):
        run_harness(tiny_model, ["gsm8k"], engine=ENGINE)


@pytest.mark.parametrize("arguments", [[], ["--task", "demo", "--harness", "gsm8k"]])
def test_one_of_task_and_harness(
    arguments: list[str], tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["selfevo", "eval", str(tiny_model), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "give exactly one of --task and --harness" in capsys.readouterr().err
