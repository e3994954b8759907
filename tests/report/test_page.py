"""The report of a small run directory, written by hand in run_directory.py."""

from __future__ import annotations

import json
import re
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest

from reports import HOME, SHAPES, write_log
from run_directory import (
    CONFIG,
    judged,
    model,
    page,
    results,
    watched,
    write_json,
    write_round,
    write_rows,
    write_run,
)
from selfevo.errors import RunError
from selfevo.evaluation.monitors import MEANING
from selfevo.report.chart import draw
from selfevo.report.page import LONGEST_TEXT, SAMPLES, write_report
from selfevo.rundir.results import Alarm, GateResults, GateRound, load_results, write_results


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "my-run")
    return tmp_path / "my-run"


def test_summary_states_the_run_in_three_sentences(run: Path) -> None:
    assert (
        "After 2 rounds the model answers 81.0 % of 300 held-out problems, against 55.3 % for plain fine-tuning "
        "(sft) on the same labels (+25.7 points, p\u2011value < 0.001). Criticising and refining its own answers "
        "takes it from 81.0 % to 82.3 %: 9 turn from wrong to right and 5 from right to wrong (p\u2011value "
        "0.424); the net effect may be chance. Of 22 unlabelled prompts the filter kept 10 of the model's own "
        "answers; 80.0 % of those kept are right, against 66.7 % of all it judged."
    ) in page(run).text


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (150, "50.0 % of 300 held-out problems, fewer than the 60.0 % for {} (\u221210.0"),
        (183, "against 60.0 % for {}; a difference of +1.0 points may be chance"),
        (177, "against 60.0 % for {}; a difference of \u22121.0 points may be chance"),
    ],
)
def test_summary_is_neutral_about_a_loss_and_about_chance(run: Path, right: int, words: str) -> None:
    write_results(run, results(model("sft", 180), model("round-1", right)))
    shown = page(run).text
    assert words.format("plain fine-tuning (sft) on the same labels") in shown
    assert "After 1 round the model" in shown
    assert "turns none from wrong to right" in shown


def test_tables_show_the_numbers_of_the_run(run: Path) -> None:
    shown = page(run).text
    assert "round-2 81.0 % 76.2–85.0 % 82.3 % 77.6–86.2 % 5 9 87.5 % of 240 86.4 % 4 5 / 11 1 min 15 s" in shown
    assert "base 10.0 %" in shown
    assert "round-2 against sft direct +25.7 +20.5 to +30.5 77 0 < 0.001" in shown
    assert "round-2 against meta refined +26.3" in shown
    assert "sort-numbers 300 10.0 10.0" in shown.replace(" %", "")
    assert "2 steps 300 10.0 10.0" in shown.replace(" %", "")
    assert "meta base 120 0 240 51 234 2.500 → 0.125 900 3.25 1 min 01 s" in shown
    assert "2 h 15 min" in shown
    assert "transformers: 4.57.0" in shown
    assert "filter: - kind: verdict - kind: distinct" in shown


def test_gate_monitors_and_cost_are_shown_where_a_run_has_them(run: Path) -> None:
    shown = page(run).text
    for heading in ("The gate", "Monitors, without labels"):
        assert heading not in shown
    figures = dict.fromkeys(MEANING, 0.5) | {"mean_length": 12.25, "yes": None, "self_bleu": 0.991}
    alarm = "self-BLEU 0.99, above 0.98: the responses are nearly the same"
    monitored = watched("round-1").model_copy(update={"monitors": figures})
    round_1 = GateRound(
        a="round-1",
        b="meta",
        mode="direct",
        difference=0.02,
        ci=(-0.05, 0.01),
        gained=10,
        lost=16,
        p_value=0.3,
        promoted=False,
    )
    more = {
        "rounds": (monitored,),
        "gate": GateResults(alpha=0.05, patience=2, best="meta", rounds=(round_1,)),
        "bounds": {"max_self_bleu": 0.98, "min_yes": 0.01, "max_yes": 0.99},
        "alarms": (Alarm(kind="monitor", place="round-1", finding=alarm, remedy="lower trainer.round_epochs"),),
        "stopped": "round-1 is not significantly better than meta",
    }
    write_results(run, load_results(run).model_copy(update=more))
    # The bounds of now: those in config.json are of the start, and a resume may change them.
    write_json(run / "config.json", CONFIG | {"monitors": {"max_self_bleu": 0.5}})
    write_rows(
        run / "events.jsonl",
        [
            {"event": "generate", "stage": "round-1/respond", "seconds": 61, "prompt_tokens": 1200, "new_tokens": 34},
            {"event": "annotate", "stage": "d_meta/annotate", "seconds": 9, "dollars": 1.5, "new_tokens": 6},
            {"event": "train", "stage": "meta", "seconds": 30, "sequences": 4, "tokens": 5000},
        ],
    )
    shown = page(run).text
    assert "The rounds ended before their number: round-1 is not significantly better than meta." in shown
    assert "p-value below 0.05; after 2 in a row that are not, the run stops. Best: meta." in shown
    assert "round-1 meta direct +2.0 \u22125.0 to +1.0 10 16 0.300 no" in shown
    assert "mean length, tokens – 12.2 " in shown
    assert "self-BLEU BLEU-4 of the responses against each other ≤ 0.98 0.991 alarm" in shown
    assert "share of qualified among the readable verdicts on r and r^ ≥ 0.01 ≤ 0.99 –" in shown
    assert f"One alarm: look here before you use the numbers round-1 : {alarm}; lower trainer.round_epochs ." in shown
    assert "round-1/respond 1 min 01 s 1 min 01 s 1 200 34 0 –" in shown
    assert "total 1 min 40 s 1 min 31 s 1 200 40 5 000 1.50" in shown


def test_every_row_of_a_round_is_accounted_for(run: Path) -> None:
    shown = page(run).text
    assert "round-1 11 2 4 5 verdict not qualified (4)" in shown
    assert "round-1 33.3 % 3 of 9 66.7 % 6 of 9 3 0 80.0 % 4 of 5 66.7 % 4 of 6 2 1 right" in shown
    assert "verdict not qualified (4)" in shown
    assert "critique: cut at max_new_tokens (2)" in shown


def test_trajectories_cover_each_fate_and_are_the_smallest_ids(run: Path) -> None:
    html = page(run)
    for group, count in SAMPLES.items():
        assert html.texts.count(group) == 2 * count, group
    shown = html.text
    assert "prompt 6 Reason: verdict not qualified" in shown
    assert "Reason: critique: cut at max_new_tokens p prompt prompt 10" in shown
    assert "answer 10 … what critique gave and then and then" in shown
    assert shown.count("prompt 9") == 0


def test_a_row_quarantined_at_respond_finds_its_prompt_in_the_data(run: Path) -> None:
    write_rows(run / "data" / "prompts.jsonl", [{"id": "a", "prompt": "where it began"}])
    write_rows(
        run / "stages" / "round-3" / "respond.jsonl",
        [
            {
                "id": "a",
                "status": "quarantined",
                "reason": "overlong",
                "generation": {"text": "", "finish": "overlong"},
            },
            {"id": "b", "status": "quarantined", "reason": "empty", "generation": {"text": "", "finish": "empty"}},
        ],
    )
    shown = page(run).text
    assert "where it began Reason: respond: the conversation does not fit the context" in shown
    assert "round-3 2 2 0 0" in shown


def test_hostile_text_is_escaped_everywhere(tmp_path: Path) -> None:
    SHAPES["hostile"](tmp_path / "run")
    html = page(tmp_path / "run")
    assert "<script" not in html.html
    assert "<img" not in html.html
    assert "{{ config }}" in html.text, "text is never a template"
    assert '"double"' not in html.html
    assert "'single'" not in html.html
    assert not re.search(r"&(?!amp;|lt;|gt;|#34;|#39;)", html.html), "every ampersand starts an escape"
    assert html.text.count("<script>alert(1)</script>") > 20, "the reader still sees it"
    assert {tag for tag, _ in html.tags} & {"script", "img", "iframe", "object", "link", "base", "form"} == set()
    assert not [name for _, attributes in html.tags for name in attributes if name.startswith("on")]


def test_page_is_self_contained_and_repeatable(run: Path) -> None:
    path = write_report(run)
    html = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert not re.search(r"https?://|url\(|@import|src=|href=", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert write_report(run).read_text(encoding="utf-8") == html
    assert str(run.parent) not in html


def test_chart_is_well_formed_and_titled(run: Path) -> None:
    html = page(run).html
    start = html.index("<figure")
    figure = xml.dom.minidom.parseString(html[start : html.index("</figure>") + 9]).documentElement
    assert figure is not None
    svg = figure.getElementsByTagName("svg")[0]
    assert svg.getAttribute("aria-labelledby") == "chart-title chart-description"
    description = svg.getElementsByTagName("desc")[0].firstChild
    assert "round-2, direct: 81.0\u00a0%, 95 % interval 76.2\u00a0% to 85.0\u00a0%" in getattr(description, "data", "")
    assert len(figure.getElementsByTagName("circle")) == 5 + 1, "one per model and one in the legend"


def test_chart_heights_follow_the_accuracy() -> None:
    chart = draw([model("sft", 150), model("meta", 30), model("round-1", 290)])
    assert chart is not None
    sft, meta, last = (column.points["direct"] for column in chart.columns)
    assert last.y < sft.y < meta.y
    assert last.high < last.y < last.low
    assert chart.reference == sft.y
    assert chart.links["direct"] == [(chart.columns[1].x, meta.y, chart.columns[2].x, last.y)]
    assert chart.ticks[-1][1] == "100"
    low = draw([model("base", 30)])
    assert low is not None and low.ticks[-1][1] == "20", "a low accuracy is not pressed flat"


def test_a_model_without_problems_has_no_point(run: Path) -> None:
    assert draw([model("base", 0, n=0)]) is None
    write_results(run, results(model("base", 0, n=0), n=0))
    html = page(run)
    assert "<circle" not in html.html
    assert "This run has not been measured yet" in html.text


def test_the_page_says_in_which_words_the_model_is_asked(run: Path) -> None:
    words = {"critique": "Prüfe <das>.", "verdict": "Urteil", "qualified": "gut", "not_qualified": "nicht gut"}
    write_json(run / "config.json", {**json.loads((run / "config.json").read_text()), "wording": words})
    shown = page(run).html
    assert '<p class="note">asked for feedback</p><pre dir="auto">Prüfe &lt;das&gt;.</pre>' in shown
    assert '<pre dir="auto">Write the improved answer.</pre>' in shown
    assert '<pre dir="auto">Urteil: gut or Urteil: nicht gut</pre>' in shown


@pytest.mark.parametrize(("of_meta", "said"), [(3, True), (1000, False)])
def test_that_the_baseline_repeats_its_answers_is_said(run: Path, of_meta: int, said: bool) -> None:
    for name, count in (("sft", 9), ("meta", of_meta)):
        marker = {"name": name, "start": "base", "examples": {"answer": count}, "seconds": 9.0}
        write_json(run / f"models/{name}/selfevo.json", marker)
    assert ("The answers of sft are repeated" in page(run).text) == said


def test_a_run_with_the_gold_filter_says_so(run: Path) -> None:
    assert "gold answers" not in page(run).text
    write_json(run / "config.json", {**CONFIG, "ablation": {"gold_filter": True}})
    assert "verdict, distinct, gold answers instead of the filters that judge (ablation)" in page(run).text


@pytest.mark.parametrize("evaluation", [None, CONFIG["evaluation"]])
def test_run_without_evaluation_still_shows_what_it_did(run: Path, evaluation: Any) -> None:
    write_json(run / "config.json", {**CONFIG, "evaluation": evaluation})
    write_results(run, results())
    html = page(run)
    why = "was not evaluated on held-out problems" if evaluation is None else "has not been measured yet"
    assert f"This run {why}, so it says nothing about accuracy. Models trained so far: meta, round-2." in html.text
    assert "Of 22 unlabelled prompts the filter kept 10 of the model's own answers; 8 were rejected and 4" in html.text
    assert "<svg" not in html.html
    assert "prompt 1" in html.text


def test_run_that_has_only_begun(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model": "tiny/base"})
    shown = page(tmp_path).text
    assert "No model has been trained yet. No round has produced rows yet." in shown
    assert "tiny/base" in shown


def test_rounds_and_models_are_in_order_of_number(run: Path) -> None:
    write_round(run, "round-10", [judged(1, kept=True, changed=True)], [])
    marker = (run / "models" / "meta" / "selfevo.json").read_text()
    for name in ("sft", ".round-3.tmp"):
        write_json(run / "models" / name / "selfevo.json", {**json.loads(marker), "name": name})
    shown = page(run).text
    assert shown.index("round-2 11") < shown.index("round-10 1")
    assert shown.index("sft base 120") < shown.index("meta base 120") < shown.index("round-2 base 0")
    assert ".round-3.tmp" not in shown


def test_long_text_is_cut_and_says_so(run: Path) -> None:
    write_round(run, "round-1", [judged(1, kept=True, changed=True, response="x" * (LONGEST_TEXT + 1500))], [])
    html = page(run)
    assert "1 500 more characters are in the run directory" in html.text
    assert "x" * (LONGEST_TEXT + 1) not in html.html


def test_lone_surrogate_does_not_cost_the_page(run: Path) -> None:
    write_round(run, "round-1", [judged(1, kept=True, changed=True, response="odd \ud800 text")], [])
    assert "odd ? text" in page(run).text


def test_missing_or_damaged_run_says_what_to_do(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json.*give the folder"):
        write_report(tmp_path / "nowhere")
    (run / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"results\.json is damaged .*; delete it and run the command"):
        write_report(run)
    (run / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match="holds list"):
        write_report(run)


def test_alarms_stand_on_top_and_the_empty_round_is_among_them(run: Path, tmp_path: Path) -> None:
    assert "look here" not in page(run).text, "no alarm, no banner"
    SHAPES["nothing_kept"](tmp_path / "empty")
    shown = page(tmp_path / "empty").text
    alarm = shown.index("One alarm: look here before you use the numbers round-1 : it kept none of its 4 rows")
    assert alarm < shown.index("After 1 round the model answers")
    SHAPES["twelve_rounds"](tmp_path / "many")
    shown = page(tmp_path / "many").text
    assert shown.index("12 alarms") < shown.index("round-4 : verdict yes") < shown.index("8 more")


def test_a_list_of_rounds_is_a_table(tmp_path: Path) -> None:
    SHAPES["listed_rounds"](tmp_path / "run")
    shown = page(tmp_path / "run").text
    assert "Rounds 3 Policy" in shown
    assert "Round Prompts round-1 ~/data/pool.jsonl, train, 1 200 of them round-2 gsm8k, ~/gsm8k.jsonl" in shown
    assert "model itself (self-instruct), at most 400" in shown


def test_the_page_names_no_home_folder(tmp_path: Path) -> None:
    SHAPES["listed_rounds"](tmp_path / "run")
    html = page(tmp_path / "run")
    assert HOME not in html.html and "some.person" not in html.html
    assert "my filter cannot read ~/words.txt (1)" in html.text
    assert "Reason: my filter cannot read ~/words.txt" in html.text
    assert "path: ../d_meta.jsonl" in html.text, "relative to the run directory"
    assert str(tmp_path) not in html.html


def test_votes_and_incomplete_answers_are_columns_where_there_are_any(run: Path) -> None:
    found = load_results(run)
    assert "Consistency" not in page(run).text and "Incomplete" not in page(run).text
    last = found.models[-1]
    answers = last.answers | {"consistency": last.answers["direct"], "both": last.answers["refined"]}
    voted = last.model_copy(update={"answers": answers, "incomplete": {"empty": 1, "length": 12}})
    write_results(run, found.model_copy(update={"models": (*found.models[:-1], voted)}))
    shown = page(run).text
    assert (
        "Model Direct Refined Consistency Both Right → wrong Wrong → right Precision Recall Unparsed Incomplete"
        in shown
    )
    assert "round-2 81.0 % 76.2–85.0 % 82.3 % 77.6–86.2 % 81.0 % 76.2–85.0 % 82.3 % 77.6–86.2 % 5 9" in shown
    assert "86.4 % 4 13 12 length 1 empty 5 / 11" in shown
    assert "Consistency: several samples vote." in shown and "Incomplete: first answers that were cut" in shown


def test_every_training_has_its_curves(run: Path, tmp_path: Path) -> None:
    assert "Training curves" not in page(run).text, "no log, no curve"
    SHAPES["twelve_rounds"](tmp_path / "many")
    write_log(tmp_path / "many", "meta", 40, eval_loss=2.0)
    html = page(tmp_path / "many")
    names = re.findall(r"<figcaption><strong>([\w-]+)</strong> [\d\u202f]+ steps", html.html)
    assert names == ["meta", *(f"round-{i}" for i in range(1, 13))]
    assert (
        "meta 40 steps, last held-out loss 1 loss 0 to 2.42 learning rate 0 to 0.00039 gradient norm 0 to 30"
        in html.text
    )
    assert html.html.count("<polyline") == 13 * 3 + 1
    assert "Dashed: the loss on texts that are not trained on." in html.text
