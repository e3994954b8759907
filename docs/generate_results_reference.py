"""Writes the pages and JSON schemas of results and --json from the types: `python docs/generate_results_reference.py`.

They are docs/reference/results.md and json.md, with the schemas beside them.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfevo.report import documents
from selfevo.rundir.ablation import Ablation
from selfevo.rundir.results import Results
from selfevo.rundir.scores import Stored

WIDTH = 100
FOLDER = Path(__file__).with_name("reference")
FILES: dict[str, type[Stored]] = {"results": Results, "ablation": Ablation}
DOCUMENTS: dict[str, type[Stored]] = {
    "report": documents.ResultsDocument,
    "eval-harness": documents.HarnessDocument,
    "runs": documents.RunsDocument,
    "show": documents.ShowDocument,
    "verify": documents.VerifyDocument,
    "doctor": documents.DoctorDocument,
    "plan": documents.PlanDocument,
}
DOCUMENTS_HEADER = """# JSON on the command line

Generated from the types in `report/documents.py` by `python docs/generate_results_reference.py`; a
test keeps it true.

With `--json`, `runs`, `show`, `verify`, `doctor`, `eval` and `report` print one JSON document on
standard output and nothing else there. Progress, warnings and errors go to standard error. The
[exit codes](command-line.md#exit-codes) are the same as without it: with an error there is no
document, but for `verify` with faults (3), `doctor` with a failed check (2) and `eval` with alarms
(7).

```shell
selfevo runs runs --json | jq -r '.runs[].status'
selfevo show runs/my-run --json | jq '.stages[].lost'
selfevo report runs/my-run --json | jq '.accuracies["round-2"].refined.accuracy, .results.alarms'
selfevo doctor my-run.yaml --json | jq -r '.checks[].remedy'
selfevo doctor my-run.yaml --plan "8 x H100 80GB" --json | jq '.training.total'
```

`selfevo answer --json` is another thing: it prints one object a line, one for each prompt, with the
fields of [`Answer`](python.md).

JSON schemas: {schemas}.
"""
HEADER = """# Results schema

Generated from the types in `rundir/results.py` and `rundir/ablation.py` by
`python docs/generate_results_reference.py`; a test keeps it true. The same as JSON schemas:
[results.schema.json](results.schema.json) and [ablation.schema.json](ablation.schema.json).

Nothing is stored twice. Of each model the file keeps one character a problem, 1 where the answer is
right. Accuracies, intervals and paired tests are computed from them: `selfevo report RUN` prints
them all, and in Python they are properties.

```python
import selfevo

results = selfevo.load_results("runs/demo-seed0")
print(results.table())
for model in results.models:
    print(model.name, model.direct.accuracy, model.direct.ci, model.transitions.wrong_right)
for test in results.comparisons:
    print(test.a, test.b, test.mode, test.difference, test.p_value)
```

A rate such as `model.direct` has `n`, `correct`, `accuracy` and its 95 % Wilson interval `ci`;
`results.rates("kind", model, "direct")` has one for each group of problems. A file of another
version is refused, with a message that names its version.
"""


def render() -> str:
    """The page about files."""
    return HEADER + sections({f"{name}.json": kind for name, kind in FILES.items()}, set())


def render_documents() -> str:
    """The page about --json. What the page about files describes, it does not describe again."""
    links = ",\n".join(f"[{name}.schema.json]({name}.schema.json)" for name in DOCUMENTS)
    titles = {
        "report": "selfevo report and eval",
        "eval-harness": "selfevo eval --harness",
        "plan": "selfevo doctor --plan",
    }
    described = {kind for whole in FILES.values() for kind in nested(whole)}
    named = {titles.get(name, f"selfevo {name}"): kind for name, kind in DOCUMENTS.items()}
    return DOCUMENTS_HEADER.replace("{schemas}", links) + sections(named, described, "results.md")


def sections(wholes: dict[str, type[Stored]], described: set[type[Stored]], elsewhere: str = "") -> str:
    """The types of each whole, each type once. `elsewhere`: the page of the types that are `described` already."""
    parts, seen = list[str](), set(described)
    for title, whole in wholes.items():
        parts.append(f"\n## {title}\n")
        for kind in nested(whole):
            if kind not in seen:
                seen.add(kind)
                parts.append(section(kind))
    text = "".join(parts)
    for kind in described:
        text = text.replace(f"](#{kind.__name__.lower()})", f"]({elsewhere}#{kind.__name__.lower()})")
    return text


def nested(kind: type[Stored]) -> list[type[Stored]]:
    """A type and those that its fields hold, each once, in the order in which they are met."""
    found = [kind]
    for info in kind.model_fields.values():
        for inner in held(info.annotation):
            found += [each for each in nested(inner) if each not in found]
    return found


def held(annotation: Any) -> Iterator[type[Stored]]:
    if inspect.isclass(annotation) and issubclass(annotation, Stored):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from held(argument)


def section(kind: type[Stored]) -> str:
    """One type: its fields, then what is computed from them."""
    schema = kind.model_json_schema()
    meaning = textwrap.fill(" ".join((inspect.getdoc(kind) or "").split()), WIDTH, break_on_hyphens=False)
    lines = [f"\n### {kind.__name__}\n\n{meaning}\n\n| key | type | meaning |\n|---|---|---|\n"]
    for name, info in kind.model_fields.items():
        shown = type_name(schema["properties"][name], schema.get("$defs", {}))
        lines.append(f"| `{name}` | {shown} | {info.description} |\n")
    computed = [
        textwrap.fill(
            f"- `{name}`: {inspect.getdoc(value)}".rstrip("."), WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
        + "\n"
        for each in reversed(kind.__mro__)
        if issubclass(each, Stored) and each is not Stored
        for name, value in vars(each).items()
        if isinstance(value, property)
    ]
    return "".join([*lines, "\nComputed:\n\n" * bool(computed), *computed])


def type_name(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if "enum" in definitions[name]:
            return type_name(definitions[name], definitions)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(type_name(each, definitions) for each in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array" and "prefixItems" in schema:
        return f"[{', '.join(type_name(each, definitions) for each in schema['prefixItems'])}]"
    if schema["type"] == "array":
        return f"list of {type_name(schema['items'], definitions)}"
    if schema["type"] == "object":
        keys = type_name(schema["propertyNames"], definitions) if "propertyNames" in schema else "string"
        return f"{{{keys}: {type_name(schema['additionalProperties'], definitions)}}}"
    return "string of 0 and 1" if schema.get("pattern") == "^[01]*$" else str(schema["type"])


def pages() -> dict[str, str]:
    """The pages and the JSON schemas, by file name."""
    schemas = {
        f"{name}.schema.json": json.dumps(kind.model_json_schema(), indent=2) + "\n"
        for name, kind in {**FILES, **DOCUMENTS}.items()
    }
    return {"results.md": render(), "json.md": render_documents(), **schemas}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
