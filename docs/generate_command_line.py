"""Writes docs/reference/command-line.md from the command line itself: `python docs/generate_command_line.py`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import typer.main

from selfevo import errors
from selfevo.cli.app import app

HEADER = """# Command line

Generated from the commands themselves by `python docs/generate_command_line.py`; a test keeps it
true. `selfevo --help` and `selfevo COMMAND --help` print the same. All other options of a run are
keys of its [configuration](configuration.md).
"""


def render() -> str:
    root: Any = typer.main.get_command(app)
    parts = [HEADER, "\n| command | what it does |\n|---|---|\n"]
    for name, command in root.commands.items():
        first = inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ")
        parts.append(f"| [`{name}`](#selfevo-{name}) | {escaped(first)} |\n")
    parts += (describe(name, command) for name, command in root.commands.items())
    return "".join([*parts, exit_codes()])


def describe(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join(["selfevo", name, *(placeholder(each) for each in arguments), "[OPTIONS]" * bool(options)])
    parts = [f"\n## selfevo {name}\n\n{inspect.cleandoc(command.help)}\n\n```text\n{usage.strip()}\n```\n"]
    if arguments:
        parts.append("\n| argument | default | meaning |\n|---|---|---|\n")
        parts += (f"| `{metavar(each)}` | {default(each)} | {escaped(each.help or '')} |\n" for each in arguments)
    if options:
        parts.append("\n| option | default | meaning |\n|---|---|---|\n")
        for each in options:
            names = ", ".join(f"`{text}`" for text in (*each.opts, *each.secondary_opts))
            parts.append(f"| {names} | {default(each)} | {escaped(each.help or '')} |\n")
    if examples := [each for each in re.findall(r"`(.+?)`", command.epilog or "") if "selfevo " in each]:
        parts.append("\nExamples:\n\n```shell\n" + "\n".join(examples) + "\n```\n")
    return "".join(parts)


def placeholder(argument: Any) -> str:
    return metavar(argument) if argument.required else f"[{metavar(argument)}]"


def metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name).upper()


def default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or callable(parameter.default):
        return ""
    return "on" if parameter.default is True else f"`{parameter.default}`" if str(parameter.default) else ""


def escaped(text: str) -> str:
    return text.replace("|", r"\|")


def exit_codes() -> str:
    """What errors.py says: the codes, and the exceptions of the Python interface that each stands for."""
    parts = [
        "\n## Exit codes\n\nAn error is one line on standard error. It names the value, the place and the remedy.\n",
        "\n| code | meaning | in Python |\n|---|---|---|\n",
    ]
    classes = [errors.SelfevoError, *errors.SelfevoError.__subclasses__()]
    for code, meaning in errors.EXIT_CODES.items():
        names = ", ".join(f"`{each.__name__}`" for each in classes if each.exit_code == code)
        parts.append(f"| {code} | {meaning} | {names} |\n")
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("reference").joinpath("command-line.md").write_text(render(), encoding="utf-8")
