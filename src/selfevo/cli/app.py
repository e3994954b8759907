"""The command line: parses arguments, calls the pipeline, prints results."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer
import yaml

import selfevo.config
from selfevo.cli.data import app as data_commands
from selfevo.cli.ending import StoppedError, end, finish, say_alarms
from selfevo.cli.files import check_target
from selfevo.cli.models import app as model_commands
from selfevo.cli.options import AsJson, Overrides, Quiet, progress
from selfevo.cli.runs import app as run_commands
from selfevo.cli.sharing import app as sharing_commands
from selfevo.config.loading import load_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import EXIT_CODES, ConfigError, RunError
from selfevo.inputs.sources import check_sources
from selfevo.models.threads import share_processors
from selfevo.report.terminal import WarningLines, console
from selfevo.rundir.atomic_files import write_atomic

app = typer.Typer(
    name="selfevo",
    help="A language model improves itself with language feedback (SELF, arXiv 2310.00533).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog="\n\n".join(["Exit codes:", *(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items())]),
)
app.add_typer(data_commands)
app.add_typer(run_commands)
app.add_typer(model_commands)
app.add_typer(sharing_commands)

TEMPLATE = Path(selfevo.config.__file__).with_name("template.yaml")


def main() -> None:
    """Entry point of `selfevo`. Exit codes: those of errors.py; 70 for an error that nobody foresaw (EX_SOFTWARE); 130
    after SIGINT, 143 after SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    logging.getLogger("selfevo").handlers = [WarningLines()]
    share_processors(os.environ)  # before any command loads torch
    sys.exit(end(lambda: app(standalone_mode=False)))


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process directly
    raise StoppedError(number)


def _version(value: bool) -> None:
    if value:
        console.print(installed_version("selfevo"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Examples: `selfevo demo --smoke`   `selfevo demo --task instructions --seed 1 --output runs/try`")
def demo(
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="The same steps on a few rows, in minutes; shows the path, measures nothing."),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The size of the published results; so far it is the default.")
    ] = False,
    task: Annotated[
        str, typer.Option(help="demo: small sums; instructions: instructions that a program can check.")
    ] = "demo",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Draws problems, samples and the order of training.")
    ] = 0,
    output: Annotated[Path | None, typer.Option(help="Run directory; give the same one to resume.")] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Write the configuration for `selfevo run`, `doctor` and `ablate`; do not run.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Runs the whole loop with SmolLM2-135M on small problems, on this machine."""
    from selfevo.cli.demo import DEFAULT, FULL, SMOKE, demo_config, demo_model

    if smoke and full:
        raise ConfigError("--smoke and --full are two sizes of the demo; give one of them")
    size = SMOKE if smoke else FULL if full else DEFAULT
    part = "-smoke" if smoke else "-full" if size != DEFAULT else ""
    config = demo_config(demo_model(), output or Path("runs") / f"{task}{part}-seed{seed}", seed, size, task)
    check_sources(config)
    if write_config is None:
        _run_and_report(config, quiet, smoke)
        return
    if write_config.exists():
        raise ConfigError(f"{write_config} exists; give another name")
    write_config.parent.mkdir(parents=True, exist_ok=True)
    check_target(write_config)
    write_atomic(write_config, yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False))
    console.print(f"wrote {write_config}")


@app.command(
    epilog="Examples: `selfevo run config.yaml --dry-run`   `selfevo run config.yaml --set trainer.learning_rate=1e-5`"
)
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file; `selfevo init` writes one.")],
    set_: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show training sequences and requests, then stop.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Run the checks of `selfevo doctor` before the first start.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Runs the SELF loop on your model and prompts. The same command resumes a stopped run.

    Exit code 7: finished with alarms, such as a round that kept nothing; the last lines name them.
    """
    settings = _settings(config, set_)
    if dry_run:
        from selfevo.checks.preview import preview

        preview(settings, console)
        return
    from selfevo.rundir.inspect import is_run

    if check and not is_run(settings.output):
        _examine(settings, quiet)
    _run_and_report(settings, quiet)


@app.command(
    epilog="Examples: `selfevo doctor config.yaml --set model=my-model`   "
    "`selfevo doctor config.yaml --plan '8 x H100 80GB' --price 2.50`"
)
def doctor(
    config: Annotated[Path, typer.Argument(help="YAML, as for `selfevo run`.")],
    set_: Overrides = None,
    plan: Annotated[
        str | None,
        typer.Option(help="A machine, such as '2 nodes x 8 x H100 80GB': plan the run on it instead of the checks."),
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="With --plan: US dollars for one device and hour.")] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="With --plan: a run on such a device, whose speed counts instead of a model of it."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Checks what can go wrong before a run: versions, disk, memory, chat template, stop token, engine, lengths.

    `selfevo run` makes the same checks and does not start if one fails. Exit code 2 if one fails.

    With `--plan` nothing is loaded: memory, hours and dollars of the run on a machine that need not be there.
    """
    settings = _settings(config, set_)
    if plan is None:
        if price is not None or measured is not None:
            raise ConfigError(f"{'--price' if price is not None else '--measured'} is for a plan; add --plan MACHINE")
        _examine(settings, quiet, as_json)
        return
    from selfevo.checks.machine import parse_machine
    from selfevo.checks.plan import plan_of
    from selfevo.report.documents import print_document
    from selfevo.report.plan import print_plan

    found = plan_of(settings, parse_machine(plan), price, measured)
    if as_json:
        print_document(found)
    else:
        print_plan(console, found)
    if found.fault:
        raise ConfigError(found.fault)


@app.command(
    epilog="Examples: `selfevo annotate config.yaml --dry-run`   "
    "`selfevo annotate config.yaml --set corpus.annotator.max_dollars=5`"
)
def annotate(
    config: Annotated[
        Path, typer.Argument(help="A YAML file, as for `selfevo run`, with corpus.task or corpus.prompts.")
    ],
    set_: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the number of annotations, the cost and one call, then stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Writes D_meta only: the model answers, the annotator criticises and refines.

    `selfevo run` continues from there. Exit code 7: most prompts gave no row.
    """
    settings = _settings(config, set_)
    if dry_run:
        from selfevo.checks.preview import preview_annotation

        preview_annotation(settings, console)
        return
    from selfevo.evaluation.alarms import of_annotation
    from selfevo.inputs.annotation import unannotated
    from selfevo.inputs.corpus_check import check_sound, count
    from selfevo.pipeline.run import build_d_meta
    from selfevo.rundir.layout import Layout

    path, rows = build_d_meta(settings, progress(quiet))
    counts = count(rows, settings.wording)
    console.print(f"{path}: {len(rows)} rows, responses judged: {counts}", soft_wrap=True)
    check_sound(counts, settings.corpus)
    finish(of_annotation(*unannotated(Layout(settings.output), settings.corpus)))


@app.command(
    epilog="Examples: `selfevo ablate config.yaml --only no-filter --only one-round`   "
    "`selfevo ablate config.yaml --only labels-50 --only labels-100 --seeds 0,1,2 --output runs/labels`"
)
def ablate(
    config: Annotated[Path, typer.Argument(help="A YAML file, as for `selfevo run`, with an evaluation.")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="A variant; repeatable. Default: all without a number: docs/guides/ablations.md."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Numbers, separated by commas.")] = "0,1,2",
    output: Annotated[Path | None, typer.Option(help="Folder for the runs; give the same one to resume.")] = None,
    set_: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Compares a configuration with variants of it, on the same labels and problems, in one table.

    A run with alarms does not stop the others. Exit code 7: at least one had alarms.
    """
    from selfevo.pipeline.ablate import ablate as run_all
    from selfevo.pipeline.run import run_loop
    from selfevo.pipeline.variants import applicable
    from selfevo.report.console import print_ablation
    from selfevo.rundir.inspect import is_finished
    from selfevo.rundir.results import Alarm, load_results

    settings = _settings(config, set_)
    numbers = [part.strip() for part in seeds.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", number) and int(number) < 2**32 for number in numbers):
        raise ConfigError(f"--seeds is {seeds!r}; give numbers below 2^32 separated by commas, such as 0,1,2")

    alarms: list[Alarm] = []

    def one(variant: RunConfig, shared: tuple[Path, ...]) -> Path:
        if not quiet:
            console.rule(str(variant.output), align="left")
        folder = run_loop(variant, progress(quiet), shared=shared)
        found = load_results(folder).alarms
        alarms.extend(alarm.model_copy(update={"place": f"{folder.name}, {alarm.place}"}) for alarm in found)
        if not is_finished(folder):
            said = "an alarm stopped it (monitors.on_alarm is stop), so the table leaves it out"
            remedy = "set monitors.on_alarm to warn, or another bound, and give the same command again"
            alarms.append(Alarm(kind="monitor", place=folder.name, finding=said, remedy=remedy))
        return folder

    names = only or []
    if not only:
        names, refused = applicable(settings)
        for reason in refused:
            console.print(f"left out: {reason}", style="yellow")
    folder = output or settings.output.with_name(f"{settings.output.name}-ablation")
    try:
        found = run_all(settings, names, list(map(int, numbers)), folder, one)
    except RunError:
        say_alarms(alarms)
        raise
    print_ablation(console, found)
    console.print(f"table: {folder / 'ablation.json'}", soft_wrap=True)
    finish(alarms)


@app.command(epilog="Example: `selfevo init my-run.yaml`")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("selfevo.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Writes an example configuration with comments."""
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; give another name, or --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_target(path)
    write_atomic(path, TEMPLATE.read_text(encoding="utf-8"))
    console.print(f"wrote {path}; edit it, then: selfevo run {path} --dry-run")


def _settings(path: Path, overrides: list[str] | None) -> RunConfig:
    settings = load_config(path, overrides or [])
    check_sources(settings)
    return settings


def _examine(settings: RunConfig, quiet: bool, as_json: bool = False) -> None:
    """Makes the checks of `doctor`, and shows each as it ends. Raises ConfigError if one fails."""
    from selfevo.checks.doctor import checks_of
    from selfevo.report.console import print_check
    from selfevo.report.documents import DoctorDocument, print_document

    checks = []
    for check in checks_of(settings):
        checks.append(check)
        if not as_json and not (quiet and check.status == "pass"):
            print_check(console, check)
    if as_json:
        print_document(DoctorDocument.of(checks))
    if failed := [check.name for check in checks if check.status == "fail"]:
        raise ConfigError(
            f"checks failed: {', '.join(failed)}; see the remedies above, or start anyway with --no-check"
        )


def _run_and_report(settings: RunConfig, quiet: bool, smoke: bool = False) -> None:
    from selfevo.cli.demo import end_smoke
    from selfevo.inputs.continuing import is_complete
    from selfevo.pipeline.run import run_loop
    from selfevo.report.console import print_results
    from selfevo.rundir.layout import Layout
    from selfevo.rundir.results import load_results

    if not quiet:
        console.print(f"run directory: {settings.output}", soft_wrap=True)
        if smoke:
            console.print("a few rows of everything: what is said of the rounds below means nothing")
    was_complete = is_complete(settings)
    layout = Layout(run_loop(settings, progress(quiet)))
    results = load_results(layout.root)
    if not smoke:
        print_results(console, results)
    models = ", ".join(folder.name for folder in layout.finished_models())
    console.print(f"report: {layout.report}", soft_wrap=True)
    console.print(f"models: {models or 'none yet'}, in {layout.models}", soft_wrap=True)
    if was_complete:
        more = (
            "the gate has stopped it, so it has no more rounds"
            if results.stopped
            else f"--set rounds={settings.round_count + 1} goes on with one more round, which needs further prompts: "
            "docs/guides/resume.md"
        )
        console.print(f"this run was finished before, so nothing was left to do; {more}")
    finish(end_smoke(console, results) if smoke else results.alarms)
