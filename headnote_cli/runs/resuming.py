"""What changed between a run and its resume, and whether it is still the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headnote_cli.config.keys import RULES, SECRETS, Settings, effective_values
from headnote_cli.machine.plan import Plan
from headnote_cli.runs.files import read_json

# Keys that decide when a run is evaluated. With `early_stopping` they also affect when it ends; with a plateau
# schedule, its learning rate.
EVALUATION = frozenset(key for key, rule in RULES.items() if rule.resume == "evaluation")
FREE = EVALUATION | {"allocator"} | {key for key, rule in RULES.items() if rule.resume == "free"}
# Keys covered by the plan's rows, besides those that it decides.
IN_ROWS = frozenset(("bnb_4bit_quant_type", "tf32", "torch_compile", "use_bnb_nested_quant"))


def breaks_a_resume(settings: Settings) -> list[str]:
    """Settings that make a resumed run a different one, even without changes."""
    accelerator = settings.accelerator_config
    if isinstance(accelerator, str):
        accelerator = read_json(Path(accelerator).expanduser())
    faults = {
        "`save_only_model: true` keeps no optimizer, learning rate schedule or random state": settings.save_only_model,
        "`ignore_data_skip: true` begins the epoch's rows anew": settings.ignore_data_skip,
        "`auto_find_batch_size: true` makes the batch depend on the memory that is free": settings.auto_find_batch_size,
        "`accelerator_config.use_seedable_sampler: false` draws another order of the rows": (
            (accelerator or {}).get("use_seedable_sampler") is False
        ),
    }
    return [fault for fault, holds in faults.items() if holds]


@dataclass(frozen=True)
class Changes:
    """Lines such as `save_steps 2 → 5`."""

    free: tuple[str, ...]
    binding: tuple[str, ...]  # these make the resumed run a different one


def changes_since(
    record: Mapping[str, Any], settings: Settings, plan: Plan, processes: int, same_base: bool = False
) -> Changes:
    """Changes in config, plan and number of processes since a run's record was written.

    Effective values are compared: writing out a default is not a change.

    Args:
        same_base: Whether the base's weights equal those of the record, at any path.
    """
    evaluated = settings.early_stopping or settings.lr_scheduler_type == "reduce_lr_on_plateau"
    free = FREE - EVALUATION if evaluated else FREE
    free |= {"model_name_or_path"} if same_base else set()
    before, after = _values(record.get("config", {})), effective_values(settings)
    changed = {key: f"{key} {_shown(before[key])} → {_shown(after[key])}" for key in _differing(before, after, plan)}
    binding = [line for key, line in changed.items() if key not in free]
    binding += _plan_changes(record.get("plan", []), plan)
    if (began := record.get("num_processes", processes)) != processes:
        binding.append(f"processes {began} → {processes}")
    return Changes(tuple(line for key, line in changed.items() if key in free), tuple(binding))


def _values(written: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a record's config. A config of another version is used as it is."""
    try:
        return effective_values(Settings.model_validate(dict(written)))
    except ValidationError:
        return effective_values(Settings()) | dict(written)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    """Keys whose values differ, except those that the plan decides: their effective values count."""
    for key in sorted({*before, *after} - plan.values().keys() - IN_ROWS - SECRETS):
        if key in before and key in after and before[key] != after[key]:
            yield key


def _plan_changes(rows: list[dict[str, str]], plan: Plan) -> Iterator[str]:
    began = {row["setting"]: row["effective"] for row in rows}
    for row in plan.to_json():
        name, now = row["setting"], row["effective"]
        if name not in FREE and (before := began.get(name, now)) != now:
            yield f"{name} {before} → {now}"


def _shown(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "nothing" if value is None else str(value)
