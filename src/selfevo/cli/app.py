"""The command line: parses arguments, calls the pipeline, prints results."""

from __future__ import annotations

import logging
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
from selfevo.cli.ending import StoppedError, end
from selfevo.cli.files import check_target
from selfevo.cli.models import app as model_commands
from selfevo.cli.sharing import app as sharing_commands
from selfevo.config.loading import load_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, RunError
from selfevo.inputs.sources import check_sources
from selfevo.report.terminal import WarningLines, complain, console
from selfevo.rundir.atomic_files import write_atomic

app = typer.Typer(
    name="selfevo",
    help="A language model improves itself with language feedback (SELF, arXiv 2310.00533).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands)
app.add_typer(model_commands)
app.add_typer(sharing_commands)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: a.b=value. Repeatable.")]

TEMPLATE = Path(selfevo.config.__file__).with_name("template.yaml")


def main() -> None:
    """Entry point of `selfevo`. Exit codes: those of errors.py; 70 for an error that nobody foresaw (EX_SOFTWARE); 130
    after SIGINT, 143 after SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    logging.getLogger("selfevo").handlers = [WarningLines()]
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
        bool, typer.Option("--smoke", help="The same steps with few rows; takes minutes, proves nothing.")
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
) -> None:
    """Runs the whole loop with SmolLM2-135M on small problems, on this machine."""
    from selfevo.cli.demo import demo_config, demo_model

    folder = output or Path("runs") / f"{task}{'-smoke' if smoke else ''}-seed{seed}"
    config = demo_config(demo_model(), folder, seed, smoke, task)
    check_sources(config)
    if write_config is None:
        _run_and_report(config)
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
) -> None:
    """Runs the SELF loop on your model and prompts. The same command resumes a stopped run."""
    settings = _settings(config, set_)
    if dry_run:
        from selfevo.checks.preview import preview

        preview(settings, console)
        return
    from selfevo.rundir.inspect import is_run

    if check and not is_run(settings.output):
        _examine(settings)
    _run_and_report(settings)


@app.command(epilog="Example: `selfevo doctor config.yaml --set model=my-model`")
def doctor(
    config: Annotated[Path, typer.Argument(help="YAML, as for `selfevo run`.")],
    set_: Overrides = None,
) -> None:
    """Checks what can go wrong before a run: versions, disk, memory, chat template, stop token, engine, lengths.

    `selfevo run` makes the same checks and does not start if one fails. Exit code 2 if one fails.
    """
    _examine(_settings(config, set_))


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
) -> None:
    """Writes D_meta only: the model answers, the annotator criticises and refines.

    `selfevo run` continues from there.
    """
    settings = _settings(config, set_)
    if dry_run:
        from selfevo.checks.preview import preview_annotation

        preview_annotation(settings, console)
        return
    from selfevo.inputs.corpus_check import count, doubt, imbalance
    from selfevo.pipeline.run import build_d_meta
    from selfevo.report.progress import Live

    path, rows = build_d_meta(settings, Live(console))
    counts = count(rows, settings.wording)
    console.print(f"{path}: {len(rows)} rows, responses judged: {counts}")
    for fault in filter(None, (doubt(counts, settings.corpus), imbalance(counts, settings.corpus))):
        complain(fault)


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
) -> None:
    """Compares a configuration with variants of it, on the same labels and problems, in one table."""
    from selfevo.pipeline.ablate import ablate as run_all
    from selfevo.pipeline.run import run_loop
    from selfevo.pipeline.variants import applicable
    from selfevo.report.console import print_ablation
    from selfevo.report.progress import Live

    settings = _settings(config, set_)
    numbers = [part.strip() for part in seeds.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", number) and int(number) < 2**32 for number in numbers):
        raise ConfigError(f"--seeds is {seeds!r}; give numbers below 2^32 separated by commas, such as 0,1,2")

    def one(variant: RunConfig, shared: tuple[Path, ...]) -> Path:
        console.rule(str(variant.output), align="left")
        return run_loop(variant, Live(console), shared=shared)

    names = only or []
    if not only:
        names, refused = applicable(settings)
        for reason in refused:
            console.print(f"left out: {reason}", style="yellow")
    folder = output or settings.output.with_name(f"{settings.output.name}-ablation")
    found = run_all(settings, names, list(map(int, numbers)), folder, one)
    print_ablation(console, found)
    console.print(f"table: {folder / 'ablation.json'}")


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


@app.command(epilog="Example: `selfevo report runs/demo-seed0`")
def report(run_directory: Run) -> None:
    """Prints the tables of a run and writes its report.html again."""
    from selfevo.report.console import print_results
    from selfevo.report.page import write_report
    from selfevo.rundir.results import read_results

    page = write_report(run_directory)
    results = read_results(run_directory)
    if results:
        print_results(console, results)
    console.print(f"report: {page}")


@app.command(epilog="Example: `selfevo runs runs`")
def runs(folder: Annotated[Path, typer.Argument(help="A folder of run directories.")] = Path("runs")) -> None:
    """Lists the runs in a folder: their status and how far they are."""
    from selfevo.report.console import print_runs
    from selfevo.rundir.inspect import find_runs, summarise

    found = find_runs(folder)
    if not found:
        raise ConfigError(f"{folder} holds no run directory; give a folder that does")
    summaries = []
    for root in found:
        try:
            summaries.append(summarise(root))
        except RunError as error:  # one damaged run does not hide the others
            complain(str(error))
    print_runs(console, summaries)


@app.command(epilog="Example: `selfevo show runs/demo-seed0`")
def show(run_directory: Run) -> None:
    """Lists the stages of a run: rows in and out, reasons for lost rows, tokens and time."""
    from selfevo.report.console import print_entries, print_runs
    from selfevo.rundir.inspect import entries, summarise

    print_runs(console, [summarise(run_directory)])
    print_entries(console, entries(run_directory))


@app.command(epilog="Example: `selfevo verify runs/demo-seed0`")
def verify(run_directory: Run) -> None:
    """Checks every finished file and model of a run against its SHA-256, and finds what the run did not write."""
    from selfevo.rundir.inspect import verify as check

    checked, faults = check(run_directory)
    if faults:
        raise RunError(". ".join(faults))
    console.print(f"{checked} files and models are unchanged")


@app.command(epilog="Examples: `selfevo gc runs/demo-seed0`   `selfevo gc runs/demo-seed0 --yes`")
def gc(run_directory: Run, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Frees disk space: removes the weights of all models of a run except the best and the last.

    The best is the gate's; without a gate it is the last. All rows stay.
    """
    from selfevo.report.console import megabytes
    from selfevo.rundir.inspect import collect, kept_models, removable, size_of

    folders = removable(run_directory)
    for folder in kept_models(run_directory):
        console.print(f"kept: {folder}", highlight=False)
    for folder in folders:
        console.print(f"{folder}  {megabytes(size_of(folder))}")
    if not folders:
        console.print("nothing to remove")
    elif yes or typer.confirm("remove these?"):
        console.print(f"freed {megabytes(collect(run_directory))}")


def _settings(path: Path, overrides: list[str] | None) -> RunConfig:
    settings = load_config(path, overrides or [])
    check_sources(settings)
    return settings


def _examine(settings: RunConfig) -> None:
    from selfevo.checks.doctor import examine
    from selfevo.report.console import print_checks

    checks = examine(settings)
    print_checks(console, checks)
    if failed := [check.name for check in checks if check.status == "fail"]:
        raise ConfigError(
            f"checks failed: {', '.join(failed)}; see the remedies above, or start anyway with --no-check"
        )


def _run_and_report(settings: RunConfig) -> None:
    from selfevo.inputs.continuing import is_complete
    from selfevo.pipeline.run import run_loop
    from selfevo.report.console import print_results
    from selfevo.report.progress import Live
    from selfevo.rundir.results import load_results

    console.print(f"run directory: {settings.output}")
    was_complete = is_complete(settings)
    folder = run_loop(settings, Live(console))
    results = load_results(folder)
    print_results(console, results)
    console.print(f"report: {folder / 'report.html'}   models: {folder / 'models'}")
    if was_complete:
        more = (
            "the gate has stopped it, so it has no more rounds"
            if results.stopped
            else f"--set rounds={settings.round_count + 1} goes on with one more round, which needs further prompts: "
            "docs/guides/resume.md"
        )
        console.print(f"this run was finished before, so nothing was left to do; {more}")
