"""What a person should look at before the results of a run are used, though nothing failed.

Monitors (monitors.py) look at the texts of a round. These alarms count rows that are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from selfevo.rundir.results import Alarm, ModelResults, RowCounts

MOST = 0.5
NEARLY_ALL = 0.9  # of answers: a base model that was never taught to stop leaves many of them incomplete

# Why a text is no row, in words, and what to do about it. `limit` is the key of its token limit.
REASONS = {
    "length": ("cut at the token limit", "raise {limit}"),
    "overlong": ("the prompt does not fit the context", "give shorter prompts, or a model with a longer context"),
    "empty": ("no text", "check the chat template with `selfevo run CONFIG --dry-run`"),
    "failed": ("no reply of the server", "run the same command again when it answers"),
}


def why(reason: str, limit: str) -> str:
    """Why a text is not whole, and what to do about it. `limit`: the name of its token limit, and its value."""
    said, remedy = REASONS.get(reason, (reason, "see what your engine says"))
    return f"{said}; {remedy.format(limit=limit)}"


def of_round(name: str, rows: RowCounts, lost: Mapping[str, Counter[str]], limits: Mapping[str, str]) -> list[Alarm]:
    """An alarm if the round kept no row.

    `lost`: for each skill, and for the filter, why rows stopped there. `limits`: of each skill the
    name of its token limit, and its value.
    """
    if rows.kept:
        return []
    stage = max(lost, key=lambda name: lost[name].total(), default="")
    shown = "; ".join(f"{name}: {_listed(reasons)}" for name, reasons in lost.items() if reasons)
    finding = f"it kept none of its {rows.entered} rows{f' ({shown})' * bool(shown)}"
    remedy = _remedy(lost.get(stage, Counter()), limits.get(stage, "")) or (
        f"compare stages/{name}/filter.jsonl with D_meta, or choose another filter: docs/guides/filters.md"
    )
    return [Alarm(kind="empty round", place=name, finding=finding, remedy=remedy)]


def of_annotation(prompts: int, reasons: Counter[str]) -> list[Alarm]:
    """An alarm if most prompts gave no row of D_meta. `reasons`: why."""
    if reasons.total() <= MOST * prompts:
        return []
    finding = f"{reasons.total()} of {prompts} prompts gave no row ({_listed(reasons)}), so D_meta is small"
    remedy = _remedy(reasons, "skills.respond.max_new_tokens") or "the replies are in stages/d_meta/annotate.jsonl"
    return [Alarm(kind="annotation", place="d_meta", finding=finding, remedy=remedy)]


def of_evaluation(model: ModelResults, limit: str) -> list[Alarm]:
    """An alarm if nearly all first answers are incomplete. `limit`: the name of their token limit, and its value."""
    reasons, asked = Counter(model.incomplete), len(model.answers["direct"])
    if not asked or reasons.total() < NEARLY_ALL * asked:
        return []
    finding = (
        f"{reasons.total()} of {asked} answers are incomplete and count as wrong ({_listed(reasons)}), so its "
        "accuracy says little about the model"
    )
    return [Alarm(kind="evaluation", place=model.name, finding=finding, remedy=_remedy(reasons, limit))]


def of_training(name: str, figures: Mapping[str, float], max_length: int) -> list[Alarm]:
    """An alarm if most sequences were too long to be trained on."""
    trained, dropped = figures.get("sequences", 0), figures.get("dropped_overlong", 0)
    if dropped <= MOST * (trained + dropped):
        return []
    finding = f"{dropped:.0f} of {trained + dropped:.0f} training sequences were left out as too long"
    return [Alarm(kind="training", place=name, finding=finding, remedy=f"raise trainer.max_length above {max_length}")]


def _listed(reasons: Counter[str]) -> str:
    shown = (f"{count} {REASONS.get(reason, (reason,))[0]}" for reason, count in reasons.most_common(3))
    return f"{', '.join(shown)}{', ...' if len(reasons) > 3 else ''}"


def _remedy(reasons: Counter[str], limit: str) -> str:
    """What to do about the most frequent reason; "" if that is none of REASONS."""
    first = next((reason for reason, _ in reasons.most_common(1)), "")
    return REASONS.get(first, ("", ""))[1].format(limit=limit)
