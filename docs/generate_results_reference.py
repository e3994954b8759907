"""Writes docs/reference/results.md and its JSON schemas from the types: `python docs/generate_results_reference.py`."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfevo.rundir.ablation import Ablation
from selfevo.rundir.results import Results
from selfevo.rundir.scores import Stored

WIDTH = 100
FOLDER = Path(__file__).with_name("reference")
FILES: dict[str, type[Stored]] = {"results": Results, "ablation": Ablation}
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
    """The page."""
    parts, seen = [HEADER], set[type[Stored]]()
    for name, whole in FILES.items():
        parts.append(f"\n## {name}.json\n")
        for kind in nested(whole):
            if kind not in seen:
                seen.add(kind)
                parts.append(section(kind))
    return "".join(parts)


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


def schemas() -> dict[str, str]:
    """The JSON schemas, by file name."""
    return {
        f"{name}.schema.json": json.dumps(kind.model_json_schema(), indent=2) + "\n" for name, kind in FILES.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in {"results.md": render(), **schemas()}.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
