"""The commands that look at a run directory: `report`, `runs`, `show`, `verify` and `gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfevo.cli.ending import say_alarms
from selfevo.cli.options import AsJson, Run
from selfevo.errors import ConfigError, RunError
from selfevo.report.terminal import complain, console

app = typer.Typer()


@app.command(epilog="Examples: `selfevo report runs/demo-seed0`   `selfevo report runs/demo-seed0 --json`")
def report(run_directory: Run, as_json: AsJson = False) -> None:
    """Prints the tables of a run and writes its report.html again."""
    from selfevo.report.console import print_results
    from selfevo.report.documents import ResultsDocument, print_document
    from selfevo.report.page import write_report
    from selfevo.rundir.results import load_results, read_results

    page = write_report(run_directory)
    if as_json:
        print_document(ResultsDocument.of(load_results(run_directory)))
        return
    results = read_results(run_directory)
    if results:
        print_results(console, results)
    console.print(f"report: {page}", soft_wrap=True)
    say_alarms(results.alarms if results else ())


@app.command(epilog="Examples: `selfevo runs runs`   `selfevo runs runs --json`")
def runs(
    folder: Annotated[Path, typer.Argument(help="A folder of run directories.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Lists the runs in a folder: their status and how far they are."""
    from selfevo.report.console import print_runs
    from selfevo.report.documents import RunsDocument, RunSummary, print_document
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
    if as_json:
        print_document(RunsDocument(runs=tuple(map(RunSummary.of, summaries))))
    else:
        print_runs(console, summaries)


@app.command(epilog="Examples: `selfevo show runs/demo-seed0`   `selfevo show runs/demo-seed0 --json`")
def show(run_directory: Run, as_json: AsJson = False) -> None:
    """Lists the stages of a run: rows in and out, reasons for lost rows, tokens and time."""
    from selfevo.report.console import print_entries, print_runs
    from selfevo.report.documents import ShowDocument, print_document
    from selfevo.rundir.inspect import entries, summarise

    run, stages = summarise(run_directory), entries(run_directory)
    if as_json:
        print_document(ShowDocument.of(run, stages))
        return
    print_runs(console, [run])
    print_entries(console, stages)


@app.command(epilog="Examples: `selfevo verify runs/demo-seed0`   `selfevo verify runs/demo-seed0 --json`")
def verify(run_directory: Run, as_json: AsJson = False) -> None:
    """Checks every finished file and model of a run against its SHA-256, and finds what the run did not write."""
    from selfevo.report.documents import VerifyDocument, print_document
    from selfevo.rundir.inspect import verify as check

    checked, faults = check(run_directory)
    if as_json:
        print_document(VerifyDocument(checked=checked, faults=tuple(faults)))
    if faults:
        raise RunError(". ".join(faults))
    if not as_json:
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
