"""The words of a run in any language: verdicts are read as safely as in English, and unclear words are refused."""

from __future__ import annotations

import ast
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

import selfevo
from selfevo.method import prompts
from selfevo.method.filters import by_verdict
from selfevo.method.prompts import CRITIQUE, ENGLISH, Wording
from selfevo.method.records import Critiqued, Judged, Prompt
from selfevo.method.skills import SKILLS
from selfevo.method.training_examples import meta_examples
from selfevo.method.verdicts import Verdict
from verdict_texts import ACCEPTED, BREAKS, DRESS, HOSTILE, INJECTED, UNSEEN, places, translated
from wordings import ARABIC, FRENCH, GERMAN, JAPANESE, KOREAN, WORDINGS

YES, NO, UNKNOWN = Verdict.QUALIFIED, Verdict.NOT_QUALIFIED, Verdict.UNKNOWN
DECIDED = st.sampled_from([YES, NO])
ANY = st.sampled_from(list(WORDINGS.values()))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SOURCE = Path(selfevo.__file__).parent


def shows(text: str, wording: Wording) -> bool:
    """Whether a text holds the label, so that one of its lines may be taken for a verdict."""
    shown = (unicodedata.normalize("NFKD", each).casefold() for each in (wording.verdict, text))
    return next(shown) in next(shown)


@given(ANY, TEXT, DECIDED, st.sampled_from(["", ".", "!", "\n", " ", "。"]))
def test_what_an_annotator_writes_is_read_back(wording: Wording, text: str, verdict: Verdict, end: str) -> None:
    assume(not shows(text, wording))
    assert wording.parse(f"{text}\n{wording.line(verdict)}{end}") is verdict


@given(ANY, TEXT, DECIDED)
def test_text_behind_a_verdict_makes_it_unknown(wording: Wording, text: str, verdict: Verdict) -> None:
    assume(not shows(text, wording))
    assert wording.parse(f"{wording.line(verdict)}\n{text}x") is UNKNOWN


@given(ANY, TEXT, DECIDED, DECIDED)
def test_two_verdicts_are_unknown_unless_they_agree(wording: Wording, text: str, first: Verdict, last: Verdict) -> None:
    assume(not shows(text, wording))
    feedback = f"{wording.line(first)}\n{text}\n{wording.line(last)}"
    assert wording.parse(feedback) is (first if first is last else UNKNOWN)


@given(ANY, TEXT)
def test_feedback_without_the_label_is_unknown(wording: Wording, feedback: str) -> None:
    assume(not shows(feedback, wording))
    assert wording.parse(feedback) is UNKNOWN


@given(ANY, DECIDED, st.data())
def test_no_character_put_inside_a_verdict_turns_it(wording: Wording, verdict: Verdict, data: st.DataObject) -> None:
    line = wording.line(verdict)
    place = data.draw(st.integers(0, len(line)))
    character = data.draw(st.characters(exclude_categories=["Cs"]))
    assert wording.parse(line[:place] + character + line[place:]) in (verdict, UNKNOWN)


@given(ANY, DECIDED, st.data())
def test_no_character_taken_out_of_a_verdict_turns_it(wording: Wording, verdict: Verdict, data: st.DataObject) -> None:
    line = wording.line(verdict)
    start = data.draw(st.integers(0, len(line)))
    shorter = line[:start] + line[start + 1 :]
    words = wording.qualified, wording.not_qualified
    if shorter not in (f"{line.removesuffix(word)}{other}" for word in words for other in words if other != word):
        assert wording.parse(shorter) in (verdict, UNKNOWN)


@given(ANY, DECIDED, DRESS)
def test_dress_makes_no_difference(wording: Wording, verdict: Verdict, dress: str) -> None:
    line, other = wording.line(verdict), wording.line(NO if verdict is YES else YES)
    assert wording.parse(f"x\n{dress.format(line)}") is verdict
    assert wording.parse(f"{dress.format(line)}\n\n{line}") is verdict
    assert wording.parse(f"{dress.format(line)}\n{other}") is UNKNOWN


@given(ANY, st.lists(st.tuples(st.integers(0, 30), st.sampled_from(UNSEEN + BREAKS)), max_size=4), TEXT)
def test_nothing_unseen_hides_a_no(wording: Wording, put: list[tuple[int, str]], between: str) -> None:
    line = list(wording.line(NO))
    for place, character in put:
        line.insert(place, character)
    assert wording.parse(f"{''.join(line)}\n{between}\n{wording.line(YES)}") is not YES


@given(ANY, DECIDED, st.sampled_from(["NFC", "NFD"]))
def test_composed_and_decomposed_letters_are_the_same(wording: Wording, verdict: Verdict, form: str) -> None:
    as_form = {name: unicodedata.normalize(form, text) for name, text in wording.learnt.items()}  # type: ignore[arg-type]
    assert Wording(**as_form) == wording
    line = unicodedata.normalize(form, wording.line(verdict))  # type: ignore[arg-type]
    assert wording.parse(f"x\n{line}") is verdict


@pytest.mark.parametrize("name", WORDINGS)
def test_the_injection_suite_turns_no_verdict_in_any_language(name: str) -> None:
    """As in test_prompts.py: what a feedback finds is read as that or not at all."""
    wording = WORDINGS[name]
    texts = [*INJECTED, *(translated(text, wording) for text in INJECTED)]
    cases = [(text, verdict, row) for text in texts for verdict in (YES, NO) for row in places(text, verdict, wording)]
    assert len(cases) >= 400
    for text, verdict, row in cases:
        read = wording.parse(row.judgement)
        assert read in (verdict, UNKNOWN), row
        assert by_verdict(row, wording) is not None or verdict is YES
        assert row.prompt != text or read is verdict


@pytest.mark.parametrize("name", [name for name in WORDINGS if name not in ("English", "inverted")])
def test_what_is_no_verdict_in_english_is_none_in_another_language(name: str) -> None:
    wording = WORDINGS[name]
    for text in HOSTILE:
        if text != "Verdict: qualifiziert":  # which is one in German
            assert wording.parse(translated(text, wording)) is UNKNOWN, text
    for text, verdict in ACCEPTED:
        read = wording.parse(translated(text, wording))
        assert read in (verdict, UNKNOWN), text
        assert read is verdict or text.startswith("The verdict"), text


@pytest.mark.parametrize(
    ("wording", "feedback", "verdict"),
    [
        (JAPANESE, "判定：合格", YES),
        (JAPANESE, "判定：不合格", NO),
        (JAPANESE, "計算は正しい。\n判定: 合格。", YES),
        (JAPANESE, "**判定：不合格**", NO),
        (JAPANESE, "判定 ： 不合格", NO),
        (JAPANESE, "判定︓合格", YES),
        (JAPANESE, "## 判定\n\n判定：合格", YES),
        (JAPANESE, "「判定：不合格」とは言えない。\n判定：合格", YES),
        (JAPANESE, "不合格ではない。\n判定：合格", YES),
        (JAPANESE, "判定：合格\n判定：不合格", UNKNOWN),
        (JAPANESE, "最終判定：不合格\n判定：合格", UNKNOWN),
        (JAPANESE, "最終判定：不合格\n判定：不合格", NO),
        (JAPANESE, "判定は不合格です。\n判定：合格", UNKNOWN),
        (JAPANESE, "【判定】不合格\n判定：合格", UNKNOWN),
        (JAPANESE, "判定結果：不合格。\n判定：合格", UNKNOWN),
        (JAPANESE, "判定＝不合格\n判定：合格", UNKNOWN),
        (JAPANESE, "判\u200b定：不合格\n判定：合格", UNKNOWN),
        (JAPANESE, "判定：不\u2028合格\n判定：合格", UNKNOWN),
        (JAPANESE, "判定：合格（条件付き）", UNKNOWN),
        (JAPANESE, "判定：不　合格", UNKNOWN),
        (JAPANESE, "判定：\n合格", UNKNOWN),
        (JAPANESE, "判定：合格です", UNKNOWN),
        (JAPANESE, "判定：不可", UNKNOWN),
        (JAPANESE, "<think>\n判定：不合格？\n</think>\n判定：合格", YES),
        (JAPANESE, "```\n判定：合格\n```", YES),
        (GERMAN, "URTEIL: NICHT QUALIFIZIERT", NO),
        (GERMAN, "Urteil: Qualifiziert.", YES),
        (GERMAN, "Das Urteil ist nicht qualifiziert.\nUrteil: qualifiziert", UNKNOWN),
        (GERMAN, "Mein Urteil: unqualifiziert\nUrteil: qualifiziert", UNKNOWN),
        (GERMAN, "Mein Urteil: qualifiziert\nUrteil: qualifiziert", YES),
        (GERMAN, "Ein Vorurteil: alle Vögel fliegen.\nUrteil: nicht qualifiziert", NO),
        (
            GERMAN,
            "Das Urteil des Gerichts: Der Kläger hat die Kosten des Verfahrens zu tragen.\nUrteil: qualifiziert",
            YES,
        ),
        (GERMAN, "Urteil: disqualifiziert", UNKNOWN),
        (GERMAN, "Urteil: nicht\u00a0qualifiziert", NO),
        (GERMAN, "Urteil: nichtqualifiziert", UNKNOWN),
        (ARABIC, "الحكم: مقبول", YES),
        (ARABIC, "الحكم: غير مقبول.", NO),
        (ARABIC, "\u200fالحكم:\u200f مقبول\u200f", YES),
        (ARABIC, "الحكم: غير مقبول\nالحكم: مقبول", UNKNOWN),
        (ARABIC, "الحـكم: غير مقبول\nالحكم: مقبول", UNKNOWN),
        (ARABIC, "والحكم النهائي: غير مقبول\nالحكم: مقبول", UNKNOWN),
        (ARABIC, "الحُكم: غير مقبول\nالحكم: مقبول", UNKNOWN),
        (ARABIC, "\u202eالحكم: مقبول", UNKNOWN),
        (KOREAN, "판정: 불합격", NO),
        (KOREAN, "판정은 불합격이다.\n판정: 합격", UNKNOWN),
        (FRENCH, "Décision : qualifiée", YES),
        (FRENCH, "DÉCISION : NON QUALIFIÉE", NO),
        (FRENCH, "De\u0301cision: non qualifie\u0301e", NO),
        (FRENCH, "Decision: qualifiee", UNKNOWN),
        (FRENCH, "Decision: non qualifiee\nDécision : qualifiée", UNKNOWN),
    ],
)
def test_verdicts_are_read_as_a_person_reads_them(wording: Wording, feedback: str, verdict: Verdict) -> None:
    assert wording.parse(feedback) is verdict


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"qualified": "ok", "not_qualified": "ok"}, "cannot be told apart"),
        ({"qualified": "ok", "not_qualified": "OK"}, "cannot be told apart"),
        ({"qualified": "e", "not_qualified": "é"}, "cannot be told apart"),
        ({"qualified": "合格", "not_qualified": "合\u200b格"}, "cannot be told apart"),
        ({"qualified": "a b", "not_qualified": "a *b* c"}, "cannot be told apart, or not be read"),
        ({"qualified": ""}, "has 0 characters"),
        ({"verdict": " "}, "has 0 characters"),
        ({"qualified": "x" * 41}, "has 41 characters"),
        ({"verdict": "\u3164"}, "shows no letter or digit"),
        ({"qualified": "\u115f\u1160"}, "shows no letter or digit"),
        ({"qualified": "ｙｅｓ", "not_qualified": "yes"}, "cannot be told apart"),
        ({"qualified": "а", "not_qualified": "a"}, "cannot be told apart"),  # the first is Cyrillic
        ({"qualified": "**ok**"}, "does not begin and end with a letter"),
        ({"qualified": "ok", "not_qualified": "_ok_"}, "does not begin and end with a letter"),
        ({"qualified": "ok", "not_qualified": "ok!"}, "does not begin and end with a letter"),
        ({"verdict": "判定："}, "does not begin and end with a letter"),
        ({"verdict": "1. Urteil"}, "or not be read"),
        ({"not_qualified": "not\nqualified"}, "has a line break"),
        ({"not_qualified": "not\u2028qualified"}, "has a line break"),
        ({"critique": " \n "}, "it is empty; write the request"),
        ({"refine": CRITIQUE}, "critique and refine are the same request"),
        ({"rubric": "a\0b"}, "holds a NUL character"),
        ({"annotator": "JSON with feedback, verdict and refinement"}, "annotator does not name 'qualified'"),
        ({"new_prompt": "Noch eine {example}"}, "new_prompt has no {examples}; write it where the examples are"),
        ({"qualified": "合格", "not_qualified": "不合格", "annotator": prompts.CRITIQUE}, "does not name 'feedback'"),
    ],
)
def test_unclear_words_are_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Wording(**words)


@given(st.fixed_dictionaries(dict.fromkeys(("verdict", "qualified", "not_qualified"), TEXT)))
def test_words_are_refused_or_read_back(words: dict[str, str]) -> None:
    try:
        wording = Wording(**words)
    except ValidationError:
        return
    for verdict in (YES, NO):
        assert wording.parse(f"x\n{wording.line(verdict)}") is verdict
        assert wording.parse(f"{wording.line(YES)}\n{wording.line(NO)}") is UNKNOWN


def test_conversations_hold_the_words_of_the_run() -> None:
    wording = JAPANESE.model_copy(update={"rubric": "計算の各行を確かめること。"})
    row = Judged("1", "問", "答", "評価", "改善", "判定：合格")
    asked = f"{wording.critique}\n\n{wording.rubric}"
    assert [skill.turns(row, wording) for skill in SKILLS] == [
        ("問",),
        ("問", "答", asked),
        ("問", "答", asked, "評価", wording.refine),
        ("問", "改善", asked),
    ]
    assert SKILLS[1].request(row, 0, wording).turns == ("問", "答", asked)
    assert meta_examples([row], 0.0, wording)[0].turns == ("問", "答", asked, "評価", wording.refine, "改善")


def test_the_default_is_english_and_leaves_keys_alone() -> None:
    assert Wording() == ENGLISH
    assert ENGLISH.identity == ()
    assert Wording(annotator="feedback, verdict, refinement: qualified or not qualified").identity == ()
    assert Wording(new_prompt="{examples}").identity == ()
    assert len({repr(wording.identity) for wording in WORDINGS.values()}) == len(WORDINGS)
    row = Critiqued("1", "p", "r", "f")
    assert prompts.refine(row, "r", "f") == prompts.refine(Prompt.of("p"), "r", "f", ENGLISH)


@pytest.mark.parametrize("wording", [JAPANESE, ARABIC])
def test_english_feedback_gets_the_verdict_of_the_run(wording: Wording) -> None:
    for verdict in (YES, NO):
        assert wording.restated(f"6 + 7 = 13.\nVerdict: {verdict.value}") == f"6 + 7 = 13.\n{wording.line(verdict)}"
        assert wording.restated(wording.line(verdict)) == wording.line(verdict)
        assert wording.restated(ENGLISH.line(verdict)) == wording.line(verdict)
        assert ENGLISH.restated(f"x\n{ENGLISH.line(verdict)}") == f"x\n{ENGLISH.line(verdict)}"
    assert wording.restated("no verdict") == "no verdict"


def test_the_package_never_forgets_the_words_of_a_run() -> None:
    """Functions of the method take English words by default, which serves tests and tasks. Other code says which."""
    functions = (
        "meta_examples round_figures criticise elect answer audit by_verdict balance altered load_corpus".split()
    )
    functions += "build_teacher parse_verdict verdict_line without_verdict".split()
    skills = ("skill", *(skill.name.upper() for skill in SKILLS))
    methods = [
        "prompts.critique",
        "prompts.refine",
        *(f"{each}.{does}" for each in skills for does in ("turns", "request")),
    ]
    english = [*(SOURCE / "tasks").iterdir(), SOURCE / "method/prompts.py", SOURCE / "method/skills.py"]
    said = []
    for path in sorted(set(SOURCE.rglob("*.py")) - set(english)):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in (*functions, *methods):
                said.append(ast.unparse(call))
    assert [call for call in said if "wording" not in call] == []
    assert len(said) > 20
