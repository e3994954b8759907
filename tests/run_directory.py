"""A small run directory written by hand, as the page may rely on it, and the page as a reader sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from selfevo.method.verdicts import Verdict
from selfevo.report.page import write_report
from selfevo.rundir.layout import FORMAT
from selfevo.rundir.results import Audit, ModelResults, Results, RoundResults, RowCounts, Verdicts, write_results

GOOD, BAD = "It holds.\nVerdict: qualified", "Wrong sum.\nVerdict: not qualified"
HOSTILE = """<script>alert(1)</script> "double" 'single' & <img src=x onerror="alert(2)"> {{ config }} </pre>"""
CONFIG = {
    "model": "tiny/base",
    "seed": 7,
    "policy": "restart",
    "rounds": 2,
    "beta": 0.5,
    "filter": [{"kind": "verdict"}, {"kind": "distinct"}],
    "evaluation": {"task": {"name": "demo"}},
}


class Page(HTMLParser):
    """The page as a browser sees it: visible text, and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.texts, self.tags = html, list[str](), list[tuple[str, dict[str, str | None]]]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """One space between any two words, also where the page has a no-break one."""
        return " ".join(" ".join(self.texts).split())


def page(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def model(name: str, direct: int, gained: int = 0, lost: int = 0, n: int = 300) -> ModelResults:
    """Right on the first `direct` problems; refinement spoils the first `lost` and mends the next `gained`."""
    refined = "0" * lost + "1" * (direct + gained - lost) + "0" * (n - direct - gained)
    return ModelResults(
        name=name,
        answers={"direct": "1" * direct + "0" * (n - direct), "refined": refined},
        verdicts=Verdicts(qualified=min(240, n), qualified_right=min(210, direct), unparsed=min(4, n)),
        seconds=75.0,
    )


def results(*models: ModelResults, rounds: Sequence[RoundResults] = (), n: int = 300) -> Results:
    return Results(
        task="demo",
        seed=7,
        policy="restart",
        models=tuple(models),
        groups={"kind": {"sort-numbers": "1" * n}, "difficulty": {"2 steps": "1" * n}} if models else {},
        rounds=tuple(rounds),
        seconds=8100.0,
    )


def watched(name: str) -> RoundResults:
    """Eleven rows, of which nine are judged and five kept."""
    audit = Audit(
        judged=9,
        response_right=3,
        right=6,
        both_right=3,
        kept=5,
        kept_right=4,
        verdicts={Verdict.QUALIFIED: (5, 4), Verdict.NOT_QUALIFIED: (2, 1), Verdict.UNKNOWN: (2, 1)},
    )
    rows = RowCounts(kept=5, rejected=4, quarantined=2)
    return RoundResults(name=name, rows=rows, monitors={}, audit=audit)


def judged(i: int, *, kept: bool, changed: bool, **texts: str) -> dict[str, Any]:
    row = {
        "id": f"{i:016x}",
        "prompt": f"prompt {i}",
        "response": f"answer {i}",
        "feedback": BAD if changed else GOOD,
        "refinement": f"better {i}" if changed else f"answer {i}",
        "judgement": GOOD if kept else BAD,
    }
    return {**row, **texts, "kept": kept, "reason": None if kept else "verdict not qualified"}


def write_round(run: Path, name: str, rows: list[dict[str, Any]], quarantined: list[dict[str, Any]]) -> None:
    """Stage files as Room writes them. `quarantined` rows fail at critique."""
    folder = run / "stages" / name
    texts = [{k: v for k, v in row.items() if k not in ("kept", "reason")} for row in rows]
    for cut, skill in enumerate(("respond", "critique", "refine", "judge")):
        fields = ("id", "prompt", "response", "feedback", "refinement", "judgement")[: cut + 3]
        lines = [{**{f: row[f] for f in fields}, "status": "ok"} for row in texts]
        if skill == "respond":
            lines += [{**row, "status": "ok"} for row in quarantined]
        if skill == "critique":
            lines += [
                {
                    "id": row["id"],
                    "status": "quarantined",
                    "reason": "length",
                    "generation": {"text": "and then and then", "finish": "length"},
                }
                for row in quarantined
            ]
        write_rows(folder / f"{skill}.jsonl", lines)
    write_rows(folder / "filter.jsonl", rows)


def write_run(root: Path) -> None:
    write_json(root / "config.json", CONFIG)
    write_json(root / "manifest.json", {"format": FORMAT, "python": "3.11.2", "versions": {"transformers": "4.57.0"}})
    write_results(
        root,
        results(
            model("base", 30),
            model("sft", 166),
            model("meta", 160, gained=12, lost=4),
            model("round-1", 210, gained=9, lost=2),
            model("round-2", 243, gained=9, lost=5),
            rounds=[watched("round-1"), watched("round-2")],
        ),
    )
    rows = [judged(i, kept=True, changed=True) for i in range(1, 4)]
    rows += [judged(i, kept=True, changed=False) for i in range(4, 6)]
    rows += [judged(i, kept=False, changed=True) for i in range(6, 10)]
    lost = [{"id": f"{i:016x}", "prompt": f"prompt {i}", "response": f"answer {i}"} for i in (10, 11)]
    write_round(root, "round-1", rows, lost)
    write_round(root, "round-2", rows, lost)
    write_rows(root / "data" / "d_meta.jsonl", [{k: v for k, v in row.items() if k != "judgement"} for row in rows])
    for name, terms in (("meta", {"answer": 120, "skills": 240}), ("round-2", {"skills": 240, "self": 1234})):
        write_json(
            root / "models" / name / "selfevo.json",
            {
                "name": name,
                "start": "base",
                "examples": terms,
                "figures": {
                    "tokens": 51234.0,
                    "loss_first": 2.5,
                    "loss_last": 0.125,
                    "tokens_per_second": 900.4,
                    "peak_memory_gib": 3.25,
                },
                "seconds": 61.0,
            },
        )
