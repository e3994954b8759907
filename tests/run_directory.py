"""A small run directory written by hand, as the page may rely on it, and the page as a reader sees it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from selfevo.evaluation.statistics import compare, wilson
from selfevo.report.page import write_report

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


def rate(correct: int, n: int = 300) -> dict[str, Any]:
    return {"n": n, "correct": correct, "accuracy": correct / n if n else None, "ci": list(wilson(correct, n))}


def stage(name: str, direct: int, gained: int = 0, lost: int = 0, **extra: Any) -> dict[str, Any]:
    rates: dict[str, Any] = {"direct": rate(direct), "refined": rate(direct + gained - lost)}
    return {
        "name": name,
        **rates,
        "transitions": {
            "right_right": direct - lost,
            "right_wrong": lost,
            "wrong_right": gained,
            "wrong_wrong": 300 - direct - gained,
        },
        "verdict": {"precision": 0.875, "precision_ci": [0.8, 0.9], "recall": 0.93, "qualified": 240, "unparsed": 4},
        "by_kind": {"sort-numbers": rates},
        "by_difficulty": {"2 steps": rates},
        "rows": None,
        "audit": None,
        "seconds": 75.0,
        **extra,
    }


def results(*stages: dict[str, Any], comparisons: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "task": "demo",
        "seed": 7,
        "policy": "restart",
        "stages": list(stages),
        "comparisons": comparisons or [],
        "seconds": 8100.0,
    }


def pair(a: str, b: str, difference: float, p: float) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "mode": "direct",
        "difference": difference,
        "ci": [-0.05, 0.01],
        "gained": 10,
        "lost": 16,
        "p_value": p,
    }


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


def rewrite_results(run: Path, content: dict[str, Any]) -> None:
    write_json(run / "results.json", content)


def write_run(root: Path) -> None:
    write_json(root / "config.json", CONFIG)
    write_json(root / "manifest.json", {"python": "3.11.2", "versions": {"transformers": "4.57.0"}})
    audit = {
        "judged": 9,
        "right": 6,
        "kept": 5,
        "kept_right": 4,
        "precision": 0.8,
        "recall": 4 / 6,
        "response_right": 3,
        "transitions": {"right_right": 3, "right_wrong": 0, "wrong_right": 3, "wrong_wrong": 3},
        "verdicts": {"qualified": [5, 4], "not qualified": [2, 1], "unknown": [2, 1]},
    }
    counts = {"in": 11, "kept": 5, "rejected": 4, "quarantined": 2}
    write_json(
        root / "results.json",
        results(
            stage("base", 30),
            stage("sft", 166),
            stage("meta", 160, gained=12, lost=4),
            stage("round-1", 210, gained=9, lost=2, rows=counts, audit=audit),
            stage("round-2", 243, gained=9, lost=5, rows=counts, audit=audit),
            comparisons=[
                compare("round-2", [True] * 300, "sft", [True] * 223 + [False] * 77, "direct"),
                pair("meta", "sft", -0.02, 0.3269),
            ],
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
                "figures": {"tokens": 51234.0, "loss_first": 2.5, "loss_last": 0.125, "tokens_per_second": 900.4},
                "seconds": 61.0,
            },
        )
