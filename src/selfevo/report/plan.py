"""Prints a plan of `selfevo doctor --plan`."""

from __future__ import annotations

from rich.console import Console

from selfevo.report.documents import PlanDocument
from selfevo.report.tables import print_properties, print_table
from selfevo.report.terminal import printable


def print_plan(console: Console, plan: PlanDocument) -> None:
    training, generation = plan.training, plan.generation
    parts = (
        f"weights {_gib(training.weights)}, gradients {_gib(training.gradients)}, optimizer "
        f"{_gib(training.optimizer)}, activations and logits of {training.rows} x {training.columns} tokens "
        f"{_gib(training.activations)}"
    )
    values = {
        "machine": f"{plan.machine}, of which a device gives {_gib(plan.usable)}",
        "parameters": f"{plan.parameters / 1e6:,.0f} M, trained {plan.trained / 1e6:,.1f} M",
        "training": f"{_gib(training.total)} on each of {training.devices}: {parts}",
        "generation": f"{_gib(generation.total)} on each of {generation.devices}, {generation.rows} rows at a time",
        "speed": f"trains on {plan.train_speed:,.0f} tokens/s a device, writes {plan.generate_speed:,.0f} tokens/s an "
        f"engine ({plan.speed_source})",
    }
    print_properties(console, {name: printable(value) for name, value in values.items()}, "plan")
    rows = [
        (
            stage.name,
            _figure(stage.generated_tokens / 1e6),
            _figure(stage.trained_tokens / 1e6),
            _figure(stage.generate_hours),
            _figure(stage.train_hours),
            "" if stage.dollars is None else f"{stage.dollars:,.2f}",
        )
        for stage in plan.stages
    ]
    columns = ("stage", "M tokens written", "M tokens trained", "generate, h", "train, h", "US dollars")
    print_table(console, columns, [*rows, _total(plan)])
    for note in plan.notes:
        console.print(printable(note), style="dim")


def _total(plan: PlanDocument) -> tuple[str, ...]:
    dollars = [stage.dollars for stage in plan.stages if stage.dollars is not None]
    return (
        "all",
        _figure(sum(stage.generated_tokens for stage in plan.stages) / 1e6),
        _figure(sum(stage.trained_tokens for stage in plan.stages) / 1e6),
        _figure(sum(stage.generate_hours for stage in plan.stages)),
        _figure(sum(stage.train_hours for stage in plan.stages)),
        f"{sum(dollars):,.2f}" if dollars else "",
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
