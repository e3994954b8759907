"""The commands that take results elsewhere: `export`, `merge` and `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfevo.cli.files import check_target
from selfevo.report.terminal import console

app = typer.Typer()

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command(
    epilog="Examples: `selfevo export runs/demo-seed0 --as sft`   "
    "`selfevo export runs/demo-seed0 --as preference --round 2 --round 3 --rows all --output pairs.jsonl`"
)
def export(
    run_directory: Run,
    form: Annotated[
        str,
        typer.Option(
            "--as", help="sft: messages; preference: prompt, chosen (r^) and rejected (r); trajectories: p, r, f, r^."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: RUN-sft.jsonl and so on, here.")
    ] = None,
    round_: Annotated[
        list[int] | None, typer.Option("--round", min=1, help="A round; repeatable. Default: all that are filtered.")
    ] = None,
    rows: Annotated[str, typer.Option(help="kept: what the filter kept; all: what it rejected too.")] = "kept",
) -> None:
    """Writes the rows of the rounds as JSONL that TRL reads, with id and round in each row."""
    from selfevo.sharing.export import export_rows, said

    path = output or Path(f"{run_directory.resolve().name}-{form}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_target(path)
    found = export_rows(run_directory, form, path, rounds=round_ or (), rows=rows)  # type: ignore[arg-type]  # it checks
    rounds = f"round{'s' * (len(found.rounds) > 1)} {', '.join(map(str, found.rounds))}"
    console.print(f"{path}: {found.written} of {found.rows} rows of {rounds}")
    console.print(f"left out: {said(found.left_out)}")


@app.command(
    epilog="Examples: `selfevo merge runs/my-run my-model`   "
    "`selfevo merge runs/my-run/models/round-2 my-model --base HuggingFaceTB/SmolLM2-135M-Instruct`"
)
def merge(
    adapter: Annotated[str, typer.Argument(help="A folder with an adapter, or a run directory: its best model.")],
    output: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    base: Annotated[str | None, typer.Option(help="A model folder or a hub id; default: as the adapter says.")] = None,
) -> None:
    """Adds an adapter to its base: a plain transformers folder, with the same logits, and its card."""
    from selfevo.report.progress import Live
    from selfevo.sharing.merge import merge_adapter

    found = merge_adapter(adapter, output, Live(console), base)
    console.print(f"wrote {found.path}")


@app.command(
    epilog="Examples: `selfevo push runs/my-run my-name/my-model --private`   "
    "`selfevo push runs/my-run my-name/my-model --model round-2 --revision round-2`"
)
def push(
    run_directory: Run,
    repo: Annotated[str, typer.Argument(help="The name on the hub: owner/name. It is created if it is missing.")],
    model: Annotated[str | None, typer.Option(help="A model of the run, such as round-2; default: the best.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only for you and your organisation.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; it is created if it is missing.")] = None,
) -> None:
    """Uploads a model of a run and its card to the hub, in one commit.

    The token is that of `hf auth login`, or of the environment variable HF_TOKEN.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from selfevo.report.console import megabytes
    from selfevo.sharing.push import push_model

    if not console.is_terminal:
        disable_progress_bars()
    found = push_model(run_directory, repo, model=model, private=private, revision=revision)
    console.print(f"pushed {found.model}: {found.files} files, {megabytes(found.size)}, to {found.url}")
