"""The chat template of a run: another one, variables for it, a date that stays, the token that ends a turn.

They become part of the template itself, in a folder beside the models that has links to the weights. So whatever reads
that folder, or a model that was trained from it, writes the same tokens and needs no settings: engines, vLLM,
lm-evaluation-harness, a pipeline.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, RunError
from selfevo.models.resolve import noted_revision, resolve_model
from selfevo.rundir.atomic_files import CARD, MODEL_MARKER, link, make_folder, move, read_marker, write_atomic
from selfevo.rundir.layout import Layout

_MARK = "{# the settings of the run end here #}"
# Files of a model folder that are written anew, or would not be true of it any more.
_OWN = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "special_tokens_map.json")
_FORMATS = "Y m d B b A a j y".split()  # those of strftime that name a day
_CLOCK = {"H": "00", "M": "00", "S": "00", "I": "12", "p": "AM"}  # a day has no hour


def run_template(folder: Path, config: RunConfig, day: date) -> str | None:
    """The chat template that a run on `day` gives its models; None if it is that of the model in `folder`, unchanged.

    Raises ConfigError if a setting does not fit the template or the tokenizer, DataError if the
    template cannot hold a trajectory.
    """
    text = _given(config.chat_template) if config.chat_template else saved_template(folder)
    settings = "".join(_settings(folder, config, day, text))
    if not config.chat_template and not settings:
        return None
    before, mark, rest = text.partition(_MARK)  # of a model from an earlier run: its settings come first
    template = f"{before if mark else ''}{settings}{_MARK}{_shielded(rest if mark else text)}"
    _check(folder, template, config.eos_token)
    return template


def saved_template(folder: Path) -> str:
    """The chat template in a model folder; "" if there is none."""
    with suppress(OSError, ValueError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
            if isinstance(found, list):  # several, by name
                found = {each["name"]: each["template"] for each in found}["default"]
            if isinstance(found, str):
                return found
    return ""


def template_file(config: RunConfig) -> dict[str, Path]:
    """The file of the chat template, if the configuration names one. A run goes on only with the same."""
    given = config.chat_template
    return {"chat_template": Path(given).expanduser()} if given and "{" not in given else {}


def write_base(folder: Path, target: Path, template: str, eos_token: str | None) -> Path:
    """Makes `target` the model of `folder` with another chat template. The weights are links."""
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (*_OWN, MODEL_MARKER, CARD):
            try:
                (temporary / path.name).symlink_to(folder.resolve() / path.name)
            except OSError:  # a system that does not let everybody make links
                link(path, temporary / path.name)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            settings.pop("chat_template", None)
            if eos_token:
                settings["eos_token"] = eos_token
            write_atomic(temporary / name, json.dumps(settings, indent=2, ensure_ascii=False))
    write_atomic(temporary / "chat_template.jinja", template)
    shutil.rmtree(target, ignore_errors=True)
    move(temporary, target)
    return target


def start_day(root: Path) -> date:
    """The day on which the run in `root` started; today if it has not, or its template asks for no date."""
    with suppress(RunError, ValueError):
        return date.fromisoformat(str(read_marker(Layout(root).manifest).get("date")))
    return date.today()


def base_of(config: RunConfig) -> Path:
    """The base model as a run would ask it, for checks before the run. What must be written goes with the process."""
    folder = resolve_model(config.model, noted_revision(config.output, config.model))
    template = run_template(folder, config, start_day(config.output))
    if template is None:
        return folder
    scratch = tempfile.TemporaryDirectory(prefix="selfevo-base-")
    atexit.register(scratch.cleanup)
    return write_base(folder, Path(scratch.name) / "base", template, config.eos_token)


def _given(value: str) -> str:
    """The template that the configuration names: a file, or the text itself, which has braces."""
    if "{" in value:
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ConfigError(f"chat_template: {value} cannot be read ({reason}); give a file or the text") from None


def _settings(folder: Path, config: RunConfig, day: date, text: str) -> Iterator[str]:
    """The lines of Jinja that set what the configuration says, and the day."""
    if config.eos_token:
        from selfevo.models.chat_template import ENDS_WITH_EOS  # slow to import, like all that needs a tokenizer

        yield ENDS_WITH_EOS
    for name, value in config.chat_template_kwargs.items():
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise ConfigError(
                f"chat_template_kwargs: the chat template of {folder} does not use {name!r}; {_variables(text)}"
            )
        yield f"{{% set {name} = {_literal(value)} %}}"
    if "strftime_now" in text:
        codes = {code: day.strftime(f"%{code}") for code in _FORMATS} | _CLOCK
        codes |= {"e": f"{day.day:2}", "-d": str(day.day), "-m": str(day.month)}
        replaced = "".join(f" | replace('%{code}', '{value}')" for code, value in codes.items())
        yield f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}"
    elif _asks_for_day(text) and "date_string" not in config.chat_template_kwargs:
        yield f"{{% set date_string = '{day.strftime('%d %b %Y')}' %}}"


def _asks_for_day(text: str) -> bool:
    """Whether a template reads date_string, without a value of its own for it."""
    return "date_string" in text and not re.search(r"date_string\s*(?:is|=|\|)", text)


def _literal(value: Any) -> str:
    """A value of YAML as Jinja writes it."""
    match value:
        case None:
            return "none"
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_literal(str(key))}: {_literal(each)}' for key, each in value.items())}}}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _variables(text: str) -> str:
    """What a template reads, for the message about a name that it does not."""
    from jinja2 import Environment, TemplateError, meta

    given = {"messages", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"}
    try:
        names = meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)) - given
    except TemplateError:
        names = set()
    return f"it reads {', '.join(sorted(names))}" if names else "correct the name, or leave it out"


def _shielded(text: str) -> str:
    """`text` behind a block of Jinja, which swallows a line break."""
    return f"\n{text}" if text.startswith("\n") else text


def _check(folder: Path, template: str, eos_token: str | None) -> None:
    from selfevo.models.chat_template import Chat
    from selfevo.models.device import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise ConfigError(f"eos_token: {folder} has no token {eos_token!r}; {_candidates(tokenizer)}")
        tokenizer.eos_token = eos_token
    tokenizer.chat_template = template
    Chat(tokenizer)


def _candidates(tokenizer: Any) -> str:
    names = ", ".join(map(repr, tokenizer.all_special_tokens[:8]))
    return f"it has {names}" if names else "give one of its vocabulary"
