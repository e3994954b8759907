"""examples/japanese: a run in another language from end to end, and its models afterwards, which know their words."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import selfevo
from annotator import CANARY, annotation, asked, build, configured
from selfevo.checks.doctor import examine
from selfevo.checks.preview import preview
from selfevo.cli import app as cli
from selfevo.config.loading import load_config, parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import GRPOObjective, SkillsConfig
from selfevo.config.training import TrainerConfig
from selfevo.data.loading import load_corpus
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ALARMS, RunError
from selfevo.method.answer_extraction import extract_answer
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Turns
from selfevo.method.verdicts import Verdict
from selfevo.pipeline.run import build_d_meta, run_loop
from selfevo.report.page import write_report
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_marker, read_rows
from selfevo.rundir.inspect import wording_of
from selfevo.rundir.results import load_results
from selfevo.serving.refiner import Refiner
from selfevo.tasks.word_problems import check_equations
from selfevo.teachers.openai import instruction
from selfevo.teachers.written import read_written
from selfevo.trainers.grpo import VerdictRewardTrainer
from selfevo.trainers.scripted import ScriptedTrainer
from server import Answer, completion, serving

ROOT = Path(__file__).parents[1]
FOLDER = Path("examples/japanese")
YES, NO = "式も計算も正しい。\n判定：合格", "単位がない。\n判定：不合格"


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (ROOT / FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    return load_config(FOLDER / "config.yaml", [f"model={base}", f"output={tmp_path / 'run'}"])


def engine(config: RunConfig) -> ScriptedEngine:
    """Answers without a unit, finds that, and adds it. Whoever asks in other words gets nonsense."""
    gold = {row["question"]: row["answer"].rpartition(" ")[2] for row in rows("eval.jsonl")}
    wording = config.wording

    def reply(model: Path, turns: Turns) -> str:
        if len(turns) == 1:
            return f"答えは{gold.get(turns[0], '1')}"
        if turns[-1] == wording.feedback_request:
            return YES if turns[-2].endswith("です。") else NO
        return f"{turns[1]}です。" if turns[-1] == wording.refine else "?"

    return ScriptedEngine(reply)


def test_the_trajectories_are_right() -> None:
    wording = load_config(ROOT / FOLDER / "config.yaml").wording
    verdicts = Counter[Verdict]()
    for row in rows("d_meta.jsonl"):
        verdict, gold = wording.parse(row["feedback"]), extract_answer(row["refinement"])
        verdicts[verdict] += 1
        assert check_equations(row["refinement"]) == (1, ""), row
        assert gold is not None
        assert (extract_answer(row["response"]) == gold) == (verdict is Verdict.QUALIFIED), row
        assert (row["response"] == row["refinement"]) == (verdict is Verdict.QUALIFIED), row
    assert verdicts == {Verdict.QUALIFIED: 6, Verdict.NOT_QUALIFIED: 6}
    assert [ENGLISH.parse(row["feedback"]) for row in rows("d_meta.jsonl")] == [Verdict.UNKNOWN] * 12


def test_the_run_and_its_models_speak_japanese(config: RunConfig, tmp_path: Path) -> None:
    run = run_loop(config, Silent(), engine(config), ScriptedTrainer())
    results = load_results(run)
    assert [each.rows.kept for each in results.rounds] == [6, 6], "r lacks a unit, r^ has it"
    assert not (run / "data" / "quarantined.jsonl").exists()
    assert [each.refined.accuracy for each in results.models] == [1.0] * 5
    judged = list(read_rows(run / "stages/round-1/judge.jsonl"))
    assert {row["judgement"] for row in judged} == {YES}
    assert "合格" in write_report(run).read_text(encoding="utf-8")
    assert read_marker(run / "manifest.json")["d_meta"] == {
        "rows": 12,
        "verdicts": {"qualified": 6, "not qualified": 6},
        "doubtful": {},
        "quarantined": {},
    }
    for name in ("meta", "round-1", "round-2", "sft"):
        assert wording_of(run / "models" / name).learnt == config.wording.learnt
        card = (run / "models" / name / "README.md").read_text(encoding="utf-8")
        for text in (config.wording.critique, config.wording.refine, "判定：不合格", "計算が正しい"):
            assert text in card
    # The folder knows its words, wherever it goes; nobody has to tell them.
    shutil.copytree(run / "models" / "round-2", tmp_path / "elsewhere")
    for model in (run / "models" / "round-2", tmp_path / "elsewhere"):
        [answer] = Refiner(model, engine=engine(config)).answer([rows("eval.jsonl")[0]["question"]])
        assert (answer.text, answer.verdict) == ("答えは14です。", Verdict.QUALIFIED)
        [measured] = selfevo.evaluate(
            model,
            {"name": "gsm8k", "path": str(FOLDER / "eval.jsonl")},
            count=8,
            engine=engine(config),
            progress=False,
        ).models
        assert (measured.refined.accuracy, measured.verdicts.unparsed) == (1.0, 0)


def test_a_model_that_no_run_made_is_asked_in_the_words_it_is_told(config: RunConfig, tmp_path: Path) -> None:
    question = rows("eval.jsonl")[0]["question"]
    [answer] = Refiner(tmp_path / "base", engine=engine(config)).answer([question])
    assert answer.verdict is Verdict.UNKNOWN, "English is the default"
    [answer] = Refiner(tmp_path / "base", engine=engine(config), wording=config.wording).answer([question])
    assert (answer.text, answer.verdict) == ("答えは14です。", Verdict.QUALIFIED)
    task = {"name": "gsm8k", "path": str(FOLDER / "eval.jsonl")}
    for wording, unparsed in ((None, 8), (config.wording, 0), (config.wording.model_dump(), 0)):
        [found] = selfevo.evaluate(
            tmp_path / "base", task, count=8, engine=engine(config), progress=False, wording=wording
        ).models
        assert found.verdicts.unparsed == unparsed


def test_other_words_are_another_run(config: RunConfig) -> None:
    run = run_loop(config, Silent(), engine(config), ScriptedTrainer())
    other = config.model_copy(update={"wording": config.wording.model_copy(update={"rubric": "簡潔であること。"})})
    with pytest.raises(RunError, match=r"was started with another configuration \(wording\.rubric: "):
        run_loop(other, Silent(), engine(other), ScriptedTrainer())
    lineages = [read_marker(run / "models/sft/selfevo.json")["lineage"]]
    moved = other.model_copy(update={"output": run.with_name("other")})
    run_loop(moved, Silent(), engine(moved), ScriptedTrainer(), shared=(run,))
    lineages.append(read_marker(moved.output / "models/sft/selfevo.json")["lineage"])
    assert lineages[0] != lineages[1], "the words are a part of what a model is, even where it was not asked in them"


def test_an_annotator_behind_a_server_is_told_and_read_in_japanese(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RunConfig
) -> None:
    monkeypatch.setenv("TEST_API_KEY", CANARY)
    replies = [("単位がない。", "不合格", "答えは14個です。"), ("正しい。", "合格", "-"), ("?", "not qualified", "x")]

    def annotate(body: dict[str, Any]) -> Answer:
        return completion(annotation(*replies[int(asked(body)["instruction"].split()[1])]))

    with serving(annotate) as server:
        settings = configured(tmp_path, server.url, count=3).model_dump(mode="json", exclude_unset=True)
        d_meta = build(parse_config({**settings, "wording": config.wording.model_dump()}, "test"))
        call = server.calls[0]
    assert [(row.feedback, row.refinement) for row in d_meta] == [
        ("単位がない。\n判定：不合格", "答えは14個です。"),
        ("正しい。\n判定：合格", "response to ask 1"),
    ]
    stage = read_rows(tmp_path / "run/stages/d_meta/annotate.jsonl")
    assert [row["reason"] for row in stage] == ["", "", "the reply is not the JSON asked for"]
    told = call["messages"][0]["content"]
    assert told.startswith("あなたは、")
    assert told.endswith(config.wording.rubric)
    schema = call["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["合格", "不合格"]
    english = instruction(config.wording.model_copy(update={"annotator": ""}))
    assert '"verdict": "合格" if the response' in english


@pytest.mark.parametrize("verdict", ["不合格", "判定：不合格", "**不合格**", " 不合格。", "「不合格」"])
def test_the_verdict_of_an_annotator_is_read_as_a_person_reads_it(verdict: str, config: RunConfig) -> None:
    written = read_written(annotation("誤り。", verdict, "正"), config.wording)
    assert written is not None
    assert written.verdict is Verdict.NOT_QUALIFIED
    hyphens = Wording(qualified="non-defective", not_qualified="defective")
    for said in ("non-defective", "non_defective", "Non-Defective."):
        read = read_written(annotation("f", said, "r"), hyphens)
        assert read is not None, said
        assert read.verdict is Verdict.QUALIFIED


def test_tasks_annotate_with_the_verdict_of_the_run(config: RunConfig, tmp_path: Path) -> None:
    settings = config.model_dump(mode="json")
    settings["corpus"] = {"task": {"name": "demo"}, "labels": 4, "warmup_share": 0, "samples_per_prompt": 1}
    path, d_meta = build_d_meta(parse_config(settings, "test"), Silent(), ScriptedEngine(lambda *_: "1 2 3"))
    assert {config.wording.parse(row.feedback) for row in d_meta} == {Verdict.QUALIFIED, Verdict.NOT_QUALIFIED}
    assert all(ENGLISH.parse(row.feedback) is Verdict.UNKNOWN for row in d_meta)
    lessons = load_corpus(str(path), {}, wording=config.wording)
    assert len(lessons.rows) == len(d_meta)


def test_grpo_asks_and_reads_in_the_words_of_the_run(config: RunConfig) -> None:
    def key(wording: Wording) -> str:
        judge = ScriptedEngine(lambda *_: YES)
        return VerdictRewardTrainer(TrainerConfig(), GRPOObjective(), SkillsConfig(), lambda: judge, wording).key()

    assert key(Wording()) != key(config.wording)
    judge = ScriptedEngine(lambda model, turns: YES if turns[-1] == config.wording.feedback_request else "?")
    trainer = VerdictRewardTrainer(TrainerConfig(), GRPOObjective(), SkillsConfig(), lambda: judge, config.wording)
    prompt, completion = [{"role": "user", "content": "問"}], "答"
    assert trainer._rewards(judge, Path("base"), [prompt], [completion], [True], 0) == [1.0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["data", f"{FOLDER}/d_meta.jsonl", "--wording", f"{FOLDER}/config.yaml"], ""),
        (["data", f"{FOLDER}/d_meta.jsonl"], "all 12 rows are quarantined"),
        (["data", f"{FOLDER}/d_meta.jsonl", "--wording", "nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_files_are_shown_in_the_words_of_a_configuration(
    command: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["selfevo", *command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code in (0, None)) == (not words)
    assert words in " ".join(capsys.readouterr().err.split())


def test_answer_and_eval_can_be_told_the_words(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["--wording", str(FOLDER / "config.yaml"), "--max-new-tokens", "4"]
    evaluation = [
        "--task",
        "gsm8k",
        "--path",
        str(FOLDER / "eval.jsonl"),
        "--count",
        "2",
        "--output",
        str(tmp_path / "e"),
    ]
    for command in (["answer", str(tiny_model), "問", *words], ["eval", str(tiny_model), *evaluation, *words]):
        monkeypatch.setattr("sys.argv", ["selfevo", *command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, ALARMS, None), capsys.readouterr().err
    assert read_marker(tmp_path / "e/config.json")["wording"]["qualified"] == "合格"


def test_the_dry_run_and_the_doctor_read_it(tiny_model: Path, config: RunConfig, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_model), "output": tmp_path / "new"}
    config = config.model_copy(update=settings)
    checks = {check.name: check for check in examine(config)}
    assert (checks["verdicts"].status, checks["verdicts"].finding) == ("pass", "6 not qualified, 6 qualified")
    assert (checks["D_meta"].status, checks["chat template"].status) == ("pass", "pass")
    shown = io.StringIO()
    preview(config, Console(file=shown, width=200))
    assert "D_meta: 6 not qualified, 6 qualified" in shown.getvalue()
    assert config.wording.critique in shown.getvalue()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("wording.qualified=不合格", "the lines '判定：不合格' and '判定：不合格' cannot be told apart"),
        ("wording.qualified=''", "wording.qualified: '' has 0 characters"),
        ("wording.verdict='判定：'", "wording.verdict: '判定：' does not begin and end with a letter"),
        ("wording.words=x", "unknown key 'wording.words'"),
        ("wording.qualified=1", "wording.qualified is 1; give text"),
        ("wording={}", "has no readable verdict"),
    ],
)
def test_unclear_words_are_one_line(
    change: str, line: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["selfevo", "run", str(FOLDER / "config.yaml"), "--set", f"model={config.model}", "--set", change]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code not in (0, 70)
    assert line in " ".join(error.split())
    assert "Traceback" not in error
