"""Prompts that a model writes itself: each is taken or has a reason, and none comes near an evaluation set."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import MODEL, open_run, results, small_demo, tree
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import FilePrompts, SelfInstructConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, DataError
from selfevo.inputs.decontamination import Decontaminator, normal
from selfevo.inputs.self_instruct import Acceptance, first_instruction, grow, request, scripts
from selfevo.inputs.splits import draw_splits
from selfevo.method.prompts import ENGLISH
from selfevo.method.records import Prompt, Turns
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.trainers.scripted import ScriptedTrainer

WORDS = "lamp river door bridge apple horse window letter mountain candle ship garden clock basket tower mirror".split()


def sentence(seed: int, words: int = 30) -> str:
    dice = random.Random(seed)
    return f"Question {seed}: {' '.join(dice.choice(WORDS) for _ in range(words))}?"


SEEDS = [Prompt.of(sentence(i)) for i in range(8)]
NOTHING = Decontaminator([])


def acceptance(**settings: Any) -> Acceptance:
    return Acceptance(SelfInstructConfig(count=5, **settings), SEEDS, NOTHING)


# --- decontamination ----------------------------------------------------------------------------------------------

EVALUATION = [sentence(1000 + i) for i in range(100)]


def test_a_hundred_planted_prompts_are_a_hundred_blocked() -> None:
    blocked = Decontaminator(EVALUATION)
    assert [blocked.reason(text) for text in EVALUATION] == ["in an evaluation set"] * 100
    disguised = [f"  {text.upper().replace(' ', '  ')} !" for text in EVALUATION]
    assert [blocked.reason(text) for text in disguised] == ["in an evaluation set"] * 100
    wrapped = [f"Please solve this. {text} Show your work." for text in EVALUATION]
    assert [blocked.reason(text) for text in wrapped] == ["shares 13 words in a row with an evaluation set"] * 100
    assert [blocked.reason(sentence(i)) for i in range(100)] == [None] * 100


def test_a_short_prompt_is_found_within_a_longer_one() -> None:
    blocked = Decontaminator(["Add 4 to each: 15 48 32", "Sort: 3 1 2"])
    assert blocked.reason("Now add 4 to each: 15 48 32, please") == "contains a prompt of an evaluation set"
    assert blocked.reason("Add 5 to each: 15 48 32") is None


def test_what_it_sees_of_a_paraphrase() -> None:
    """One word in five replaced leaves no 13 in a row; one in forty does. A real paraphrase is out of its reach."""

    def replaced(text: str, every: int) -> str:
        return " ".join("other" if i % every == every - 1 else word for i, word in enumerate(text.split()))

    blocked = Decontaminator(EVALUATION)
    assert all(blocked.reason(replaced(text, 20)) for text in EVALUATION)
    assert not any(blocked.reason(replaced(text, 5)) for text in EVALUATION)


@given(st.lists(st.text(), max_size=5), st.text())
def test_any_text_can_be_looked_at(texts: list[str], text: str) -> None:
    assert Decontaminator([*texts, text]).reason(text) == "in an evaluation set"
    Decontaminator(texts).reason(text)


# --- what is taken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Write a poem about the sea and its ships.", None),
        ("", "no instruction"),
        ("?!", "no instruction"),
        ("Why?", "too short"),
        ("word " * 200, "too long"),
        ("Напиши стих о море и кораблях.", "another script: CYRILLIC"),
        (SEEDS[3].prompt.upper(), "duplicate"),
        (SEEDS[3].prompt.replace("Question 3", "Question 77"), "near duplicate"),
    ],
)
def test_each_fault_has_its_name(text: str, reason: str | None) -> None:
    assert acceptance().reason(text) == reason


def test_what_was_taken_counts_against_the_next() -> None:
    accept = acceptance()
    assert accept.reason("Name three rivers of Europe.") is None
    assert accept.reason("name three rivers of europe") == "duplicate"
    assert accept.reason("Name three rivers of Europe, please.") == "near duplicate"


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("Name a river.", "Name a river."),
        ("\n\n5. Name a river.\n6. Name a lake.", "Name a river."),
        ("Task 5: Name a river.", "Name a river."),
        ("- Name a river.", "Name a river."),
        ("New task: Name it", "Name it"),
        (" \n ", ""),
        ("3.5 is a number, double it", "3.5 is a number, double it"),
    ],
)
def test_the_instruction_of_a_reply(text: str, instruction: str) -> None:
    assert first_instruction(text) == instruction


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("Sure! Here is a new task:\nDescribe a river.", "Describe a river."),
        ("Sure! Here is a new task: Describe a river.", "Describe a river."),
        ("Sure! Here is a new task:", ""),
        ("Certainly!\n\nHere's one more task of the same kind:\n\n5. Describe a river.", "Describe a river."),
        ("Okay, here is a task:\n---\nDescribe a river.", "Describe a river."),
        ("Here is a problem for you.\nDescribe a river.", "Describe a river."),
        ("**Task:** Describe a river.", "Describe a river."),
        ("**New Task:**\n**Describe a river.**", "Describe a river."),
        ("### New Task\n\nDescribe a river.", "Describe a river."),
        ('"Describe a river."', "Describe a river."),
        ("<think>\nTask: sing\n</think>\nDescribe a river.", "Describe a river."),
        ("好的，这是一个新任务：\n描述一条河。", "描述一条河。"),
        ("新任务：描述一条河。", "描述一条河。"),
        ("はい、以下が新しいタスクです：\n川を説明してください。", "川を説明してください。"),
        ("Here is a list of words: cat, dog. Sort it.", "Here is a list of words: cat, dog. Sort it."),
        ("Here are 3 numbers: 4, 5, 6. Add them.", "Here are 3 numbers: 4, 5, 6. Add them."),
        ("Question 3: What is 3?", "Question 3: What is 3?"),
        ("Yes, but how many?", "Yes, but how many?"),
        ("*Describe* a *river*", "*Describe* a *river*"),
    ],
)
def test_what_announces_a_task_is_none(text: str, instruction: str) -> None:
    assert first_instruction(text) == instruction


LANGUAGES = Path(__file__).parents[1] / "cases" / "languages.jsonl"


@pytest.mark.parametrize("line", LANGUAGES.read_text("utf-8").splitlines(), ids=range(8))
def test_scripts_are_counted_by_their_own_units(line: str) -> None:
    case = json.loads(line)
    if "evaluation" in case:
        assert (Decontaminator(case["evaluation"]).reason(case["proposal"]) is None) is case["taken"]
        return
    text = first_instruction(case["proposal"])
    accept = Acceptance(SelfInstructConfig(count=5), [Prompt.of(seed) for seed in case["seeds"]], NOTHING)
    assert (accept.reason(text) is None) is case["taken"]
    assert text == case.get("as", text)


CHINESE = [
    "小明有五个苹果，妈妈又给了他七个，还剩下几个苹果？",
    "一列火车每小时行驶八十公里，三个半小时一共可以行驶多少公里？",
]
JAPANESE = ["太郎はりんごを五個持っていて、お母さんからさらに七個もらいました。全部で何個になりますか。"]
THAI = ["สมชายมีแอปเปิลห้าผลและแม่ให้เพิ่มอีกเจ็ดผล รวมแล้วสมชายมีแอปเปิลทั้งหมดกี่ผล", "รถไฟวิ่งด้วยความเร็วแปดสิบกิโลเมตรต่อชั่วโมง"]


@pytest.mark.parametrize("problem", [*CHINESE, *JAPANESE, *THAI])
@pytest.mark.parametrize("before", ["请回答下列问题", "次の問題に答えてください", "จงตอบคำถาม", "Please solve:"])
def test_a_problem_with_words_glued_to_it_or_another_end_is_known(problem: str, before: str) -> None:
    blocked = Decontaminator([problem])
    assert blocked.reason(f"{before}{problem}") is not None
    assert blocked.reason(f"{problem}{before}") is not None
    assert blocked.reason(problem[: len(problem) - len(problem) // 5] + "別的完全不同อื่นๆ") is not None
    assert blocked.reason("\u200b".join(problem)) == "in an evaluation set"


def test_other_tasks_of_the_same_language_are_not_known() -> None:
    blocked = Decontaminator(
        [
            *CHINESE,
            *JAPANESE,
            *THAI,
            "用三句话介绍一下北京的历史和文化",
            "東京の四季についてそれぞれ一文で説明してください",
        ]
    )
    for text in (
        "请用三句话介绍一下长城的历史和它的建造过程",
        "小红有三支铅笔，爸爸又买了八支，她现在一共有几支铅笔？",
        "日本の祭りについてそれぞれ二文で説明してください",
        "次郎は鉛筆を三本持っていて、友達から二本もらいました。全部で何本ですか。",
        "จงอธิบายความแตกต่างระหว่างเมืองและชนบทในประเทศไทย",
        "สมหญิงมีส้มสามผล แม่ซื้อมาเพิ่มอีกสองผล รวมมีกี่ผล",
    ):
        assert blocked.reason(text) is None


def accepts(seeds: Sequence[str], text: str) -> str | None:
    return Acceptance(SelfInstructConfig(count=5), [Prompt.of(seed) for seed in seeds], NOTHING).reason(text)


@pytest.mark.parametrize(
    ("seeds", "text", "reason"),
    [
        (CHINESE, "用Python写一个排序函数，并解释它的时间复杂度", None),
        (CHINESE, "Write a function that sorts a list.", "another script: LATIN"),
        (CHINESE, "日本の四季について一文で説明してください", "another script: KANA"),
        (CHINESE, CHINESE[1].replace("八十", "九十"), "near duplicate"),
        (CHINESE, CHINESE[1][:-1] + "！", "duplicate"),
        (JAPANESE, "コンピューターの歴史を短くまとめてください", None),
        (THAI, "จงอธิบายความแตกต่างระหว่างเมืองและชนบท", None),
        (THAI, "ทำไม", None),
        (CHINESE, "为何", "too short"),
        ([SEEDS[0].prompt], "Solve α² + β² = γ² for δ, where Δx is small.", None),
        ([SEEDS[0].prompt], "How many Ω and kΩ are in ℵ of 3 µF, exactly?", None),
        ([SEEDS[0].prompt], "Γράψε ένα ποίημα για τη θάλασσα.", "another script: GREEK"),
        ([SEEDS[0].prompt], "Переведи это слово, please, into English.", "another script: CYRILLIC"),
        ([SEEDS[0].prompt], "다음 문장을 영어로 옮기세요.", "another script: HANGUL"),
    ],
)
def test_languages_among_proposals(seeds: list[str], text: str, reason: str | None) -> None:
    assert accepts(seeds, text) == reason


def test_words_and_scripts() -> None:
    assert normal("Ｈello,  WORLD!") == ["hello", "world"]
    assert scripts("abc 123 é") == {"LATIN"}
    assert scripts("日本 abc") == {"CJK", "LATIN"}


# --- a run --------------------------------------------------------------------------------------------------------


def writer(path: Path, turns: Turns) -> str:
    """Writes each prompt twice, from what it was shown."""
    dice = random.Random(sum(map(ord, turns[0])) // 2)
    return f"5. {sentence(dice.randint(10**6, 10**7))}"


def test_proposals_stay_on_disk_with_their_reasons_and_a_resume_asks_nothing(root: Path) -> None:
    engine = ScriptedEngine(writer)
    config = SelfInstructConfig(count=6)
    blocked = Decontaminator([])
    grown = grow(open_run(root, engine), "self-instruct-2", MODEL, SEEDS, blocked, config)
    assert len(grown) == 6
    assert len(engine.calls) == 12
    assert engine.calls[0][1].turns[0].startswith("Here are 4 tasks:\n1. ")
    rows = list(read_rows(root / "stages/self-instruct-2/filter.jsonl"))
    assert len(rows) == 12
    assert [row["prompt"] for row in rows if row["kept"]] == [prompt.prompt for prompt in grown]
    assert all(row["reason"] for row in rows if not row["kept"])
    again = ScriptedEngine(writer)
    assert list(grow(open_run(root, again), "self-instruct-2", MODEL, SEEDS, blocked, config)) == list(grown)
    assert again.calls == []


def test_a_new_prompt_is_asked_under_the_system_prompt_of_its_examples(root: Path) -> None:
    talks = [
        Prompt.of(f"And now? {i}", system=system, history=(seed.prompt, "Done."))
        for i, seed in enumerate(SEEDS)
        for system in ("", "Rhyme.", "Sing.")
    ]
    config, blocked = SelfInstructConfig(count=20, tries=30, examples=2), Decontaminator([])
    engine = ScriptedEngine(writer)
    grown = list(grow(open_run(root, engine), "self-instruct-2", MODEL, talks, blocked, config))
    assert {prompt.system for prompt in grown} == {"", "Rhyme.", "Sing."}
    assert all(not prompt.history for prompt in grown)
    assert all("And now?" not in request.turns[0] for _, request in engine.calls), "a turn says little by itself"
    assert {request.system for _, request in engine.calls} == {""}
    again = ScriptedEngine(writer)
    assert list(grow(open_run(root, again), "self-instruct-2", MODEL, talks, blocked, config)) == grown


def test_one_text_under_two_system_prompts_is_two_prompts() -> None:
    seeds = [Prompt.of("Name three rivers of Europe.", system=system) for system in ("Rhyme.", "Sing.")]
    accept = Acceptance(SelfInstructConfig(count=5), seeds, NOTHING)
    assert accept.reason("Name three rivers of Europe") is None
    assert accept.reason("name three rivers of Europe!") == "duplicate"
    assert accept.reason("Name three rivers of Europe", "Sing.") == "duplicate"
    assert accept.reason("Name three rivers of Europe, please.", "Rhyme.") == "near duplicate"
    assert accept.reason("Name three rivers of Europe", "Hum.") is None


def test_a_model_that_only_repeats_is_named(root: Path) -> None:
    parrot = ScriptedEngine(lambda path, turns: turns[0].split("\n")[1])
    for _ in range(2):  # a resume says it again, instead of going on with no prompt
        with pytest.raises(DataError, match=r"none of 8 prompts that base wrote can be used \(8 duplicate\)"):
            grow(open_run(root, parrot), "self-instruct-2", MODEL, SEEDS, NOTHING, SelfInstructConfig(count=4))


def test_the_request_shows_its_examples() -> None:
    assert request(SEEDS[:2], ENGLISH).count("\n") == 3


def configured(folder: Path, **changes: Any) -> RunConfig:
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": p.prompt}) + "\n" for p in SEEDS))
    row = {"prompt": sentence(50), "response": "3", "feedback": "Verdict: not qualified", "refinement": "14"}
    (folder / "d_meta.jsonl").write_text(json.dumps(row) + "\n")
    settings: dict[str, Any] = {
        "model": str(base),
        "output": str(folder / "run"),
        "corpus": {"path": str(folder / "d_meta.jsonl")},
        "evaluation": {"task": {"name": "demo"}, "count": 4, "models": ["rounds"]},
        "rounds": [{"prompts": str(folder / "pool.jsonl")}, {"self_instruct": {"count": 5}}],
    }
    return parse_config({**settings, **changes}, "test")


def student(path: Path, turns: Turns) -> str:
    if turns[0].startswith("Here are "):
        return writer(path, turns)
    return "Fine.\nVerdict: qualified" if len(turns) == 3 else f"answer to {turns[0]}"


def test_a_second_round_on_prompts_of_its_own(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run_loop(config, Silent(), ScriptedEngine(student), ScriptedTrainer())
    first, second = (list(read_rows(config.output / f"stages/round-{t}/filter.jsonl")) for t in (1, 2))
    grown = [r for r in read_rows(config.output / "stages/self-instruct-2/filter.jsonl") if r["kept"]]
    assert [row["prompt"] for row in first] == [seed.prompt for seed in SEEDS]
    assert [row["prompt"] for row in second] == [row["prompt"] for row in grown]
    assert len(second) == 5
    assert [model.name for model in results(config).models] == ["round-1", "round-2"]
    before = tree(config.output)
    engine = ScriptedEngine(student)
    run_loop(config, Silent(), engine, ScriptedTrainer())
    assert engine.calls == []
    assert tree(config.output) == before


def test_further_evaluation_sets_are_kept_out_of_the_pool(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text(json.dumps({"prompt": SEEDS[2].prompt.lower()}) + "\n")
    config = configured(tmp_path, decontaminate=[str(tmp_path / "held.jsonl")])
    run_loop(config, Silent(), ScriptedEngine(student), ScriptedTrainer())
    rows = list(read_rows(config.output / "stages/round-1/filter.jsonl"))
    assert [row["prompt"] for row in rows] == [seed.prompt for i, seed in enumerate(SEEDS) if i != 2]
    [row] = read_rows(config.output / "data/quarantined.jsonl")
    assert row == {"file": "pool of round 1", "line": 3, "reason": "decontaminated: in an evaluation set"}


def test_no_label_is_used_that_an_evaluation_set_knows(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    known, *others = draw_splits(config).labelled
    (tmp_path / "held.jsonl").write_text(json.dumps({"prompt": f"  {known.prompt.prompt.upper()}!"}) + "\n")
    sets = draw_splits(config.model_copy(update={"decontaminate": (FilePrompts(path=str(tmp_path / "held.jsonl")),)}))
    assert sets.labelled == others
    assert ("labels", 1, "decontaminated: in an evaluation set") in [
        (row.file, row.line, row.reason) for row in sets.quarantined
    ]


def test_a_corpus_that_an_evaluation_set_knows_is_refused(tmp_path: Path) -> None:
    [row] = draw_splits(configured(tmp_path)).d_meta
    (tmp_path / "held.jsonl").write_text(json.dumps({"prompt": row.prompt}) + "\n")
    with pytest.raises(DataError, match=r"corpus\.path: all 1 prompts are in an evaluation set"):
        draw_splits(configured(tmp_path, decontaminate=[str(tmp_path / "held.jsonl")]))


def test_an_evaluation_set_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        run_loop(
            configured(tmp_path, decontaminate=[str(tmp_path / "nowhere.jsonl")]), Silent(), ScriptedEngine(student)
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 2}, "'prompts' is missing; add it, or give rounds as a list"),
        ({"rounds": []}, "the first round has no prompts"),
        ({"rounds": [{"self_instruct": {"count": 5}}]}, "the first round has no prompts"),
        ({"prompts": {"path": "p.jsonl"}}, "both prompts and a list of rounds are given"),
        ({"rounds": [{}]}, "exactly one of prompts and self_instruct"),
        ({"rounds": [{"prompts": "p.jsonl"}, {"self_instruct": {"count": 0}}]}, "count is 0"),
    ],
)
def test_an_impossible_plan_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, **change)
    assert said in str(caught.value)
