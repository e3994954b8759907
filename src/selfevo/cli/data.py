"""`selfevo data`: what a file was read as, before anything is asked or trained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from selfevo.config.loading import load_wording
from selfevo.data.conversations import PROMPT
from selfevo.data.loading import CORPUS_FIELDS, DUPLICATE, MAX_BAD_SHARE, Loaded, load_corpus, load_prompts
from selfevo.data.tables import BadRow, Row, Source, read_table
from selfevo.errors import DataError
from selfevo.method.prompts import ENGLISH
from selfevo.method.records import Prompt, Refined
from selfevo.models.chat_template import messages
from selfevo.report.terminal import console

app = typer.Typer()

_PLACES = 3  # of each reason


@app.command(
    epilog="Examples: `selfevo data prompts.jsonl`   `selfevo data chats.json --system 'Answer briefly.'`   "
    "`selfevo data openai/gsm8k --subset main --split train --column question --json`"
)
def data(
    file: Annotated[str, typer.Argument(help="JSONL, JSON, CSV or parquet, a folder, or a hub data set.")],
    column: Annotated[
        str, typer.Option(help="The column of the prompts; other layouts are found without it.")
    ] = PROMPT,
    system: Annotated[str, typer.Option(help="System prompt of rows that have none.")] = "",
    split: Annotated[str | None, typer.Option(help="Part of a hub data set, or of a folder saved by datasets.")] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub data set.")] = None,
    wording: Annotated[Path | None, typer.Option(help="YAML whose `wording` has D_meta's verdicts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Shows what a file of prompts or of D_meta is read as: layout, counts, reasons, and its first conversation.

    Exit code 2 if a run would not take the file.
    """
    source = Source(file, split, subset, revision)
    loaded: Loaded[Prompt] | Loaded[Refined]
    words = load_wording(wording) or ENGLISH
    if _is_corpus(source):
        loaded = load_corpus(source, {"prompt": column}, max_bad_share=1, system=system, wording=words)
    else:
        loaded = load_prompts(source, column, max_bad_share=1, setting="--column", system=system)
    summary = summarise(source, loaded)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print(summary)
    if fault := loaded.fault(MAX_BAD_SHARE):
        raise DataError(f"{source}: {fault}")


def _is_corpus(source: Source) -> bool:
    """Whether the first row that can be read has all that a trajectory has."""
    first = next((row for row in read_table(source) if isinstance(row, Row)), None)
    return first is not None and set(CORPUS_FIELDS) <= first.values.keys()


def summarise(source: Source, loaded: Loaded[Prompt] | Loaded[Refined]) -> dict[str, Any]:
    """What was read, as JSON."""
    first = loaded.rows[0]
    asked = messages(first.conversation[1:], first.system)
    if isinstance(first, Refined):
        asked += [{"role": name, "content": getattr(first, name)} for name in CORPUS_FIELDS]
    return {
        "source": source.path,
        "read_as": "D_meta" if isinstance(first, Refined) else "prompts",
        "rows": loaded.total,
        "kept": len(loaded.rows),
        "layouts": _layouts(loaded),
        "with_system": sum(bool(row.system) for row in loaded.rows),
        "with_history": sum(bool(row.history) for row in loaded.rows),
        "left_off": dict(loaded.left_off),
        "duplicates": sum(row.reason.startswith(DUPLICATE) for row in loaded.quarantined),
        "quarantined": _by_reason(row for row in loaded.quarantined if not row.reason.startswith(DUPLICATE)),
        "first": asked,
    }


def _layouts(loaded: Loaded[Any]) -> list[dict[str, Any]]:
    """Each layout with its rows, and all columns that one of them was read from."""
    found: dict[str, dict[str, Any]] = {}
    for (layout, columns), rows in loaded.layouts.items():
        one = found.setdefault(layout, {"layout": layout, "columns": [], "rows": 0})
        one["columns"] += [name for name in columns if name not in one["columns"]]
        one["rows"] += rows
    return list(found.values())


def _by_reason(rows: Iterable[BadRow]) -> list[dict[str, Any]]:
    """Reasons that differ in numbers only are one, told by its first row."""
    found: dict[str, list[BadRow]] = {}
    for row in rows:
        found.setdefault(re.sub("[0-9]+", "N", row.reason), []).append(row)
    return [
        {
            "reason": alike[0].reason,
            "rows": len(alike),
            "places": [{"file": row.file, "line": row.line} for row in alike[:_PLACES]],
        }
        for alike in sorted(found.values(), key=len, reverse=True)
    ]


def _print(summary: dict[str, Any]) -> None:
    kept = summary["kept"]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("read as", f"{summary['read_as']}, {kept} of {summary['rows']} rows")
    for each in summary["layouts"]:
        table.add_row("layout", f"{each['layout']}, from {', '.join(each['columns'])}: {each['rows']}")
    table.add_row("with system prompt", str(summary["with_system"]))
    table.add_row("with earlier turns", str(summary["with_history"]))
    for what, count in summary["left_off"].items():
        table.add_row("not asked", f"{what}: {count}")
    table.add_row("duplicates", str(summary["duplicates"]))
    table.add_row("quarantined", str(summary["rows"] - kept - summary["duplicates"]))
    for each in summary["quarantined"]:
        table.add_row("", f"{each['rows']}: {each['reason']} ({_places(each['places'], each['rows'])})")
    console.print(table)
    console.rule("the first, as it is asked", align="left")
    for message in summary["first"]:
        console.print(message["role"], style="dim")
        console.print(message["content"], soft_wrap=True)


def _places(places: Sequence[dict[str, Any]], rows: int) -> str:
    lines = ", ".join(str(place["line"]) for place in places) + ", ..." * (rows > len(places))
    return f"line{'s' * (rows > 1)} {lines} of {places[0]['file']}"
