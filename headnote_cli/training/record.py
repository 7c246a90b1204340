"""What `run.json` records about a run, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.keys import SECRETS, Settings
from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.events import ModelLoaded, Movement
from headnote_cli.machine.detect import Machine
from headnote_cli.machine.libraries import version_of
from headnote_cli.machine.plan import Plan, PlanRow, shown
from headnote_cli.machine.processes import world_size
from headnote_cli.memory.command import method_of
from headnote_cli.models.weights import fingerprint, has_weights
from headnote_cli.runs.folders import Run, is_adapter, output_dir
from headnote_cli.training.splits import Splits

if TYPE_CHECKING:
    from headnote_cli.models.base import BaseModel
    from headnote_cli.training.job import TrainingResult

STORED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
    "accelerate",
    "torchao",
    "headnote-cli",
)
# Keys that slds handles itself, before the trainer sees the rows or after it has saved.
DONE_BEFOREHAND = ("dataset_num_proc", "chat_template_path", "eos_token", "pad_token", "save_total_limit")


@dataclass(frozen=True)
class Target:
    """What is trained, on which machine, and how."""

    base: BaseModel
    model_type: str
    is_quantized: bool  # the base's weights on disk
    machine: Machine
    plan: Plan


@dataclass(frozen=True)
class TrainingReport:
    """The result of a run."""

    run: Path
    state: str
    steps: int
    train_loss: float | None
    eval_loss: float | None
    checkpoint: Path | None
    tokens: int
    seconds: float
    plan: tuple[PlanRow[Any], ...]
    movement: Movement | None = None  # None: a dry run, or no adapters

    @property
    def has_adapter(self) -> bool:
        """Whether the checkpoint is an adapter to merge, not a whole model."""
        return self.checkpoint is not None and is_adapter(self.checkpoint)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "run": str(self.run),
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "plan": [row.to_json() for row in self.plan],
        }


def resolved_values(settings: Settings, plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every key with its effective value: from the config, the plan or the library's default; no secrets."""
    values = settings.model_dump() | {key: value for key, value in arguments.items() if key in Settings.model_fields}
    values |= {key: getattr(settings, key) for key in DONE_BEFOREHAND}
    values |= plan.values()
    return {key: value for key, value in values.items() if key not in SECRETS}


def facts_of(config: Config, target: Target, splits: Splits, expected: Mapping[str, Any] | None) -> dict[str, str]:
    """What is about to be trained, in a few lines."""
    plan = target.plan
    changed = [f"{row.setting} {shown(row.effective)}" for row in plan.changes()]
    facts = {
        "model": f"{target.base.name} ({target.model_type})",
        "method": method_of(config.settings, plan.quantization is not None),
        "data": "\n".join(splits.lines),
        "plan": f"not as asked: {', '.join(changed)}" if changed else "as asked",
        "run": str(output_dir(config)),
    }
    return facts | ({"memory": expected["told"]} if expected else {})


def loaded_facts(loaded: ModelLoaded) -> dict[str, str]:
    share = f"{loaded.trainable:,} of {loaded.parameters:,} ({100 * loaded.trainable / loaded.parameters:.2f} %)"
    adapted = f" in {loaded.adapted} adapted layers" if loaded.adapted else ""
    facts = {"trainable": f"{share}{adapted}"}
    if loaded.quantized_layers:
        facts["weights"] = f"{loaded.weight_bytes / 2**20:,.0f} MiB, {loaded.quantized_layers} layers quantized"
    return facts


def report_of(folder: Path, record: Mapping[str, Any], plan: tuple[PlanRow[Any], ...]) -> TrainingReport:
    """The report of a finished run, from its record."""
    metrics = record.get("metrics", {})
    checkpoint, movement = metrics.get("checkpoint"), metrics.get("movement") or {}
    return TrainingReport(
        folder,
        "finished",
        int(metrics.get("steps", 0)),
        metrics.get("train_loss"),
        metrics.get("eval_loss"),
        Path(checkpoint) if checkpoint else None,
        int(metrics.get("tokens", 0)),
        float(metrics.get("seconds", 0.0)),
        plan,
        Movement(**movement) if movement.get("adapters") else None,
    )


def highest(*peaks: Mapping[str, int]) -> dict[str, int]:
    """The highest peaks of all processes that worked on a run, one after the other."""
    return {name: max(peak.get(name, 0) for peak in peaks) for name in set().union(*peaks)}


def final_metrics(result: TrainingResult, folder: Path) -> dict[str, Any]:
    """The final metrics. The training loss is the mean of all logged losses, including those before a resume."""
    values = asdict(result) | {"checkpoint": result.checkpoint and str(result.checkpoint)}
    losses = [line["loss"] for line in Run(folder).metrics() if "loss" in line]
    return {
        "model": values.pop("model"),
        "metrics": values | {"train_loss": sum(losses) / len(losses) if losses else result.train_loss},
    }


def record_of_run(config: Config, target: Target, encoder: Encoder, splits: Splits) -> dict[str, Any]:
    """Everything needed to explain a checkpoint months later."""
    settings, base, plan = config.settings, target.base, target.plan
    return {
        "config_file": str(config.path),
        "config": config.written(),
        "origins": {key: str(origin) for key, origin in config.origins.items()},
        "notes": config.notes,
        "base_model": base.name,
        "base_is_local": Path(base.name).is_dir(),
        "base_fingerprint": base_fingerprint(base),
        "model_class": base.model_class,
        "max_length": settings.max_length,
        "overflow": settings.overflow,
        "overflow_field": settings.overflow_field,
        "prompts": encoder.templates.hashes(),
        "plan": plan.to_json(),
        "quantization": asdict(plan.quantization) if plan.quantization else None,
        "data": {"dataset_name": settings.dataset_name, "fingerprint": splits.train.fingerprint} | splits.train.summary,
        "packages": {name: version_of(name) for name in STORED_PACKAGES},
        "seed": settings.seed,
        "num_processes": world_size(),
        "model_type": target.model_type,
        "base_quantized": target.is_quantized,
        "hardware": target.machine.to_json() | {"device": plan.device},
    }


def base_fingerprint(base: Any) -> str | None:
    """The base's fingerprint, so that a merge can detect other weights; None if it is not in safetensors."""
    from headnote_cli.models.base import weights_folder

    folder = weights_folder(base)
    return fingerprint(folder) if has_weights(folder) else None
