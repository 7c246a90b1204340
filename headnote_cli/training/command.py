"""`slds train`: config → rows → a run folder with checkpoints and its record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.keys import SECRETS, Settings
from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.prompts import PromptTemplates, copy_prompts
from headnote_cli.data.report import encoder_for, leak_warnings, lengths_lines
from headnote_cli.data.sources import load_split
from headnote_cli.errors import (
    ConfigError,
    DataError,
    DoesNotFitError,
    Interrupted,
    UnreachableError,
    UsageError,
    is_out_of_memory,
)
from headnote_cli.events import Event, Listener, ModelLoaded, Movement, Note, PlanResolved, RunDescribed, Saved
from headnote_cli.machine.detect import Machine
from headnote_cli.machine.libraries import version_of
from headnote_cli.machine.memory import available_memory
from headnote_cli.machine.plan import Plan, PlanRow, require_toolchain, resolve, shown
from headnote_cli.machine.processes import own_gpu, require_all_processes, world_size
from headnote_cli.memory.advice import advice
from headnote_cli.memory.cards import Card
from headnote_cli.memory.command import method_of, shapes_for
from headnote_cli.memory.estimate import Estimate, estimate
from headnote_cli.memory.parallel import launched
from headnote_cli.memory.setup import setup_of
from headnote_cli.models.weights import fingerprint, has_weights
from headnote_cli.runs.curves import CURVES, draw_curves
from headnote_cli.runs.files import read_json, write_json, write_text
from headnote_cli.runs.folders import (
    LOCK,
    METRICS,
    PROMPTS,
    RECORD,
    Checkpoint,
    best_whole,
    checkpoints,
    is_adapter,
    locked,
    newest_whole,
    now,
    output_dir,
    read_metrics,
    set_aside,
    tampered,
)
from headnote_cli.runs.resuming import breaks_a_resume, changes_since
from headnote_cli.runs.timings import Laps

if TYPE_CHECKING:
    from headnote_cli.data.preparation import Prepared
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
# What the plan answers, and what is done to the rows before the trainer sees them.
PLANNED = tuple("dtype bf16 fp16 attn_implementation optim use_liger_kernel use_cpu load_in_4bit load_in_8bit".split())
DONE_BEFOREHAND = ("dataset_num_proc", "chat_template_path", "eos_token", "pad_token", "save_total_limit")


@dataclass(frozen=True)
class TrainingReport:
    """What a run came to."""

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
        """Whether the checkpoint is an adapter, to be merged, and not a whole model."""
        return self.checkpoint is not None and is_adapter(self.checkpoint)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "run": str(self.run),
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "plan": [row.to_json() for row in self.plan],
        }


def train(
    config: Config,
    emit: Listener,
    resume: bool = True,
    strict: bool = False,
    dry_run: bool = False,
    allow_remote_code: bool = False,
    skip_bad_rows: bool = False,
    ignore_memory: bool = False,
    samples: int = 0,
    force: bool = False,
) -> TrainingReport:
    """Train a config from its start, or go on where its run folder ends.

    Args:
        samples: Headnotes of the evaluation split to write at each evaluation.
        force: Go on although something changed that makes the resumed run a different one.

    Raises:
        DoesNotFitError: The estimate says that this machine's memory cannot hold a step.
        UsageError: `strict` and the machine cannot do what is asked; a resumed run would be a different one; another
            process is at work in the run's folder; a launcher started fewer processes than it was asked for.
        DataError: Rows that cannot be trained on.
        Interrupted: A signal came; the run is saved.
    """
    laps = Laps()
    laps.lap("start")
    from headnote_cli.models.base import (
        base_model,
        load_model_config,
        load_tokenizer,
        longer_than_made_for,
        require_fitting_class,
        stored_quantization_of,
    )
    from headnote_cli.models.loading import main_process_first, this_machine
    from headnote_cli.training.job import check_arguments

    laps.lap("imports")
    require_all_processes()
    folder = output_dir(config)
    base = base_model(config, allow_remote_code)
    model_type = load_model_config(base).model_type
    require_fitting_class(base, config.where("model_class"))
    stored = stored_quantization_of(base)
    if stored and not config.settings.use_peft:
        hint = "set `use_peft: true`, or name the model in 16 bits"
        raise ConfigError("quantized weights cannot be trained", base.name, hint)
    machine = this_machine()
    plan = resolve(config.settings, machine, model_type, allow_remote_code, stored)
    if strict:
        plan.require_unchanged()
    require_toolchain(plan, machine)
    emit(PlanResolved(plan))
    unresumable = breaks_a_resume(config.settings)
    for warning in (longer_than_made_for(config, base), *(f"{one}: a stopped run cannot go on" for one in unresumable)):
        if warning is not None:
            emit(Note(warning, warning=True))
    if len(machine.gpus) > 1 and world_size() == 1 and plan.device == "cuda":
        emit(Note(f"one of {len(machine.gpus)} GPUs trains; --num-processes {len(machine.gpus)} takes all of them"))
    record = read_json(folder / RECORD)
    if resume and record is not None:
        same = _require_same_run(config, plan, base, record, folder, force, emit)
        if same and not dry_run and _is_finished(record, folder, emit):
            emit(Note("this run is finished; --no-resume sets it aside and starts afresh"))
            return report_of(folder, record, plan.rows)
    arguments = check_arguments(config.settings, plan, folder)
    if samples:
        _require_samples_possible(config.settings)
    expected = _expected_memory(config, plan, machine, ignore_memory, emit)
    if config.settings.save_strategy == "no":
        emit(Note("`save_strategy: no`: nothing of what is learnt will be kept", warning=True))
    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder = encoder_for(config, templates, load_tokenizer(base, config))
    encoder.turn_end_id()  # refuses a template that would never teach the model to stop
    for note in encoder.notes:
        emit(Note(note))
    laps.lap("config")
    with main_process_first(plan) as is_main:
        splits = _prepared(config, encoder, plan, skip_bad_rows, emit)
    laps.lap("data")
    facts = _facts(config, base, model_type, splits, plan, expected)
    if resume and record is not None and not dry_run and newest_whole(folder):
        for fault in unresumable:
            _refuse(f"the run in this folder cannot go on as the same run: {fault}", folder, force, emit)
    if resume and record is not None and not dry_run:
        _require_same_rows(record, splits, folder, force, emit)
    if dry_run:
        emit(RunDescribed(facts))
        return TrainingReport(folder, "dry run", 0, None, None, None, 0, 0.0, plan.rows)
    if is_main and not resume:
        _make_room(folder, emit)
    with locked(folder) if is_main else nullcontext():
        with main_process_first(plan):
            start_from = _starting_point(folder, emit) if is_main else newest_whole(folder)
        started = str(record["started"]) if start_from and record else now()
        about = {
            "started": started,
            "estimated_memory": expected,
            "model_type": model_type,
            "base_quantized": stored is not None,
            "hardware": machine.to_json() | {"device": plan.device},
            "resolved": _resolved(config.settings, plan, arguments),
        }
        return _run(config, plan, base, encoder, splits, start_from, emit, is_main, about, samples, facts, laps)


def _is_finished(record: Mapping[str, Any], folder: Path, emit: Listener) -> bool:
    """Whether a run has ended and what it came to is still there."""
    if record.get("state") != "finished":
        return False
    last = (record.get("metrics") or {}).get("checkpoint")
    if last is None or (folder / Path(last).name).is_dir():
        return True
    emit(Note(f"this run was finished, and its {Path(last).name} is gone: it is trained again from what is left"))
    return False


def _require_samples_possible(settings: Settings) -> None:
    """`--sample` needs evaluations to write at, and a model that one process holds whole.

    Raises:
        UsageError: There are none, or the weights are sharded.
    """
    if settings.eval_strategy == "no":
        raise UsageError("--sample writes at each evaluation, and `eval_strategy` is `no`", hint="set `eval_strategy`")
    launched = any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))
    if launched or settings.fsdp or settings.deepspeed:
        raise UsageError(
            "--sample does not go with sharded weights: no process holds a model that could write",
            hint="leave --sample out; `slds generate` writes with a checkpoint",
        )


def _resolved(settings: Settings, plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every key with the value that holds: as asked, as this machine can, or the library's default; no secrets."""
    values = settings.model_dump() | {key: value for key, value in arguments.items() if key in Settings.model_fields}
    values |= {key: getattr(settings, key) for key in DONE_BEFOREHAND}
    values |= {key: getattr(plan.applied(settings), key) for key in PLANNED}
    return {key: value for key, value in values.items() if key not in SECRETS}


def _facts(
    config: Config, base: BaseModel, model_type: str, splits: _Splits, plan: Plan, expected: Mapping[str, Any] | None
) -> dict[str, str]:
    """What is about to be trained, in a few lines."""
    changed = [f"{row.setting} {shown(row.effective)}" for row in plan.changes()]
    facts = {
        "model": f"{base.name} ({model_type})",
        "method": method_of(config.settings, plan.quantization is not None),
        "data": "\n".join(splits.lines),
        "plan": f"not as asked: {', '.join(changed)}" if changed else "as asked",
        "run": str(output_dir(config)),
    }
    return facts | ({"memory": expected["told"]} if expected else {})


def _loaded_facts(loaded: ModelLoaded) -> dict[str, str]:
    share = f"{loaded.trainable:,} of {loaded.parameters:,} ({100 * loaded.trainable / loaded.parameters:.2f} %)"
    adapted = f" in {loaded.adapted} adapted layers" if loaded.adapted else ""
    facts = {"trainable": f"{share}{adapted}"}
    if loaded.quantized_layers:
        facts["weights"] = f"{loaded.weight_bytes / 2**20:,.0f} MiB, {loaded.quantized_layers} layers quantized"
    return facts


def _expected_memory(
    config: Config, plan: Plan, machine: Machine, ignore: bool, emit: Listener
) -> dict[str, Any] | None:
    """The estimate for this machine, as the plan will train here; None where the model's sizes are not known.

    Raises:
        DoesNotFitError: The tensors alone are more than the machine has free, and that is not to be ignored.
    """
    effective = plan.applied(config.settings)
    try:
        devices, sharding = launched(os.environ)
        shapes = shapes_for(config)
        found = estimate(shapes, setup_of(effective, shapes, devices=devices, sharding=sharding))
    except (ConfigError, UnreachableError) as error:
        emit(Note(f"memory not estimated: {error.message}"))
        return None
    card, processes = own_card(plan.device, machine, os.environ)
    needed = f"{'at least ' if found.unknown else ''}{processes * found.total / 2**30:.1f} GiB"
    free = (card.memory - card.used) / 2**30
    if card.memory and card.clearly_below(processes * found.allocated) and not ignore:
        raise DoesNotFitError(
            f"a step needs {needed}, and {card.name} has {free:.1f} GiB to give",
            hint=f"`slds check-memory --config {config.path}` says what would help; --ignore-memory tries all the same",
        )
    if card.verdict(processes * found.total) == "does not fit":
        emit(Note("memory: the estimate leaves no room; it may run out", warning=True))
    return {
        "bytes": found.total,
        "allocated": found.allocated,
        "phase": found.phase,
        "components": found.components,
        "told": f"{needed} of {free:.1f} GiB ({card.name}), estimated{_tensors_of(found, plan)}",
    }


def _tensors_of(found: Estimate, plan: Plan) -> str:
    """On a GPU the progress line counts tensors alone; on a CPU it counts the process, as the estimate does."""
    return (
        f"; tensors alone, as the progress counts them, {found.allocated / 2**30:.1f}" if plan.device == "cuda" else ""
    )


def own_card(device: str, machine: Machine, environment: Mapping[str, str]) -> tuple[Card, int]:
    """What this process trains in, and how many processes share it: a GPU is its own, main memory is everybody's."""
    if device == "cuda":
        gpu = machine.gpus[own_gpu(len(machine.gpus), environment)]
        return Card(gpu.name, gpu.memory, gpu.used), 1
    free = available_memory()
    memory = max(machine.memory, free)
    return Card("main memory", memory, memory - free), int(environment.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True)
class _Splits:
    """Encoded rows to train and to evaluate on, and lines on what that did to them."""

    train: Prepared
    evaluation: Prepared | None
    lines: list[str]


def _prepared(config: Config, encoder: Encoder, plan: Plan, skip_bad_rows: bool, emit: Listener) -> _Splits:
    """Rows of the training and evaluation splits, encoded."""
    from headnote_cli.data.preparation import prepare

    lines: list[str] = []

    def split(role: str) -> Prepared:
        rows = load_split(config, role)
        for note in rows.notes:
            emit(Note(note))
        prepared = prepare(rows, encoder, plan.workers, skip_bad_rows)
        lines.extend(lengths_lines(rows, prepared.summary, prepared.cached))
        return prepared

    train = split("train")
    if not len(train.dataset):
        hint = "raise `max_length`, or set `overflow: structure`"
        raise DataError("no row is left to train on", str(config.settings.dataset_name), hint)
    evaluation = split("eval") if config.settings.eval_strategy != "no" else None
    if evaluation is not None and not len(evaluation.dataset):
        raise DataError("no row is left to evaluate on", str(config.settings.dataset_name), "set `eval_strategy: no`")
    for warning in leak_warnings(config):
        emit(Note(warning, warning=True))
    return _Splits(train, evaluation, lines)


def _require_same_run(
    config: Config, plan: Plan, base: BaseModel, record: Mapping[str, Any], folder: Path, force: bool, emit: Listener
) -> bool:
    """Tell what changed since the run began.

    Returns:
        Whether it is the same run.

    Raises:
        UsageError: It is not, and that is not forced.
    """
    known = record.get("base_fingerprint")
    is_renamed = record.get("config", {}).get("model_name_or_path") != config.settings.model_name_or_path
    same_base = is_renamed and known is not None and known == _base_fingerprint(base)
    changes = changes_since(record, config.settings, plan, world_size(), same_base)
    if changes.free:
        emit(Note(f"since the run began: {', '.join(changes.free)}"))
    if changes.binding:
        _refuse(
            f"the config is not the one of the run in this folder: {', '.join(changes.binding)}", folder, force, emit
        )
    return not changes.binding


def _require_same_rows(record: Mapping[str, Any], splits: _Splits, folder: Path, force: bool, emit: Listener) -> None:
    """A resumed run must see the rows, prompts and tokenizer that it began with."""
    before = record.get("data", {}).get("fingerprint")
    if before != splits.train.fingerprint:
        what = "the rows, the prompts or the tokenizer are not those that the run in this folder began with"
        _refuse(what, folder, force, emit)


def _refuse(what: str, folder: Path, force: bool, emit: Listener) -> None:
    """A change that makes the resumed run a different one: an error, or a warning when it is forced."""
    if force:
        emit(Note(f"{what}; --force goes on all the same", warning=True))
        return
    hint = (
        "undo the change, set another `output_dir`, start afresh with --no-resume (the old run is set aside), or go on"
    )
    raise UsageError(what, str(folder), f"{hint} with --force")


def report_of(folder: Path, record: Mapping[str, Any], plan: tuple[PlanRow[Any], ...]) -> TrainingReport:
    """The report of a finished run, out of its record."""
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


def _make_room(folder: Path, emit: Listener) -> None:
    """`--no-resume`: the run that lies here is set aside."""
    if not folder.is_dir() or not any(file.name not in (LOCK, f"{LOCK}.json") for file in folder.iterdir()):
        return
    if not (folder / RECORD).is_file() and not checkpoints(folder):
        hint = "choose another `output_dir`; only runs are set aside"
        raise UsageError("the folder is not empty, and holds no run of slds", str(folder), hint)
    with locked(folder):
        pass  # no run is at work in it
    emit(Note(f"the earlier run now lies in {set_aside(folder)}"))


def _starting_point(folder: Path, emit: Listener) -> Checkpoint | None:
    """The newest whole checkpoint; half-written and altered ones are set aside and named."""
    whole = None
    for checkpoint in reversed(checkpoints(folder)):
        fault = checkpoint.fault or (tampered(checkpoint.path) if whole is None else None)
        if fault is not None:
            aside = set_aside(checkpoint.path)
            text = f"{checkpoint.path.name} is not whole ({fault}): set aside as {aside.name}"
            emit(Note(text, warning=True))
        else:
            whole = whole or checkpoint
    if whole is not None:
        emit(Note(f"resuming from {whole.path}"))
    _forget_steps_after(whole.step if whole else 0, folder)
    return whole


def _start_adapter(config: Config, folder: Path) -> Path | None:
    """`peft_peft_model_path` of another run, to train on; inside the run's own folder it only says what to merge."""
    named = config.settings.peft_peft_model_path
    path = config.locate(named) if named and config.settings.use_peft else None
    if path is None or not is_adapter(path) or path.resolve().is_relative_to(folder.resolve()):
        return None
    return path


def _forget_steps_after(step: int, folder: Path) -> None:
    """Steps that a resumed run will do again are taken out of its metrics."""
    lines = read_metrics(folder)
    if lines:
        write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))


def _run(
    config: Config,
    plan: Plan,
    base: Any,
    encoder: Encoder,
    splits: _Splits,
    start: Checkpoint | None,
    emit: Listener,
    is_main: bool,
    about: dict[str, Any],
    samples: int,
    facts: dict[str, str],
    laps: Laps,
) -> TrainingReport:
    from headnote_cli.training.job import TrainingJob, measured_memory
    from headnote_cli.training.job import train as run_trainer

    folder = output_dir(config)
    record = _record(config, plan, base, encoder, splits) | about
    peaks_before = (read_json(folder / RECORD) or {}).get("measured_memory") or {} if start else {}

    def keep(state: str, **more: Any) -> dict[str, Any]:
        peaks = _highest(peaks_before, measured_memory(plan.device))
        kept = record | {"state": state, "timings": laps.seconds, "measured_memory": peaks} | more
        if is_main:
            write_json(folder / RECORD, kept)
        return kept

    def draw() -> None:
        """The picture of the run so far; a run does not end for want of one."""
        if is_main:
            with suppress(OSError):
                draw_curves(read_metrics(folder), folder / CURVES)

    def listen(event: Event) -> None:
        if isinstance(event, ModelLoaded):
            event = RunDescribed(facts | _loaded_facts(event))
        if isinstance(event, Saved):
            keep("running")
            draw()
        emit(event)

    keep("running")
    if is_main:
        copy_prompts(encoder.templates.folder, folder / PROMPTS)
    job = TrainingJob(
        base=base,
        settings=config.settings,
        plan=plan,
        tokenizer=encoder.tokenizer,  # type: ignore[arg-type]
        train_rows=splits.train.dataset,
        eval_rows=splits.evaluation.dataset if splits.evaluation else None,
        output_dir=folder,
        turn_end=encoder.turn_end_id(),
        resume_from=start.path if start else None,
        start_adapter=_start_adapter(config, folder),
        samples=samples,
        laps=laps,
    )
    try:
        result = run_trainer(job, listen)
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        with suppress(OSError):  # a full disk would hide what happened
            keep(state, ended=now())
        if is_out_of_memory(error):
            raise _out_of_memory(config, plan, folder, error) from error
        raise
    finally:
        draw()
    finished = keep("finished", ended=now(), **_metrics(result, folder))
    return report_of(folder, finished, plan.rows)


def _highest(*peaks: Mapping[str, int]) -> dict[str, int]:
    """The peaks of a run: the highest of all processes that worked on it, one after the other."""
    return {name: max(one.get(name, 0) for one in peaks) for name in {name for one in peaks for name in one}}


def push_checkpoint(report: TrainingReport, name: str, emit: Listener) -> None:
    """Upload the best checkpoint of a run by evaluation loss, else its last one, as the private model `name`.

    Raises:
        UnreachableError: There is no checkpoint, or the hub does not take it.
    """
    from headnote_cli.models.hub import push

    best = best_whole(report.run)
    folder = best.path if best else report.checkpoint
    if folder is None:
        raise UnreachableError("the run kept no checkpoint to upload", str(report.run), "set `save_strategy`")
    emit(Note(f"uploaded {folder.name} to {push(folder, name)}"))


def _out_of_memory(config: Config, plan: Plan, folder: Path, error: BaseException) -> DoesNotFitError:
    """Out of memory in words: where, what is kept, and what would help most."""
    whole = newest_whole(folder)
    settings = plan.applied(config.settings)
    shapes = shapes_for(config)
    helping = [one for one in advice(shapes, settings, partial(setup_of, shapes=shapes)) if one.saved > 0][:3]
    told = "; ".join(f"{one.what} (saves {one.saved / 2**30:.1f} GiB): {', '.join(one.lines)}" for one in helping)
    return DoesNotFitError(
        f"out of memory {str(error).splitlines()[0] if str(error) else ''}; "
        f"last whole checkpoint: {whole.path if whole else 'none yet'}",
        str(folder),
        told or f"`slds check-memory --config {config.path}` says what would help",
    )


def _metrics(result: TrainingResult, folder: Path) -> dict[str, Any]:
    """The last word on a run. The training loss is the mean of all logged ones, those before a resume too."""
    values = asdict(result) | {"checkpoint": result.checkpoint and str(result.checkpoint)}
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    return {
        "model": values.pop("model"),
        "metrics": values | {"train_loss": sum(losses) / len(losses) if losses else result.train_loss},
    }


def _record(config: Config, plan: Plan, base: Any, encoder: Encoder, splits: _Splits) -> dict[str, Any]:
    """Everything needed to explain a checkpoint months later."""
    settings = config.settings
    return {
        "config_file": str(config.path),
        "config": config.written(),
        "origins": {key: str(origin) for key, origin in config.origins.items()},
        "notes": config.notes,
        "base_model": base.name,
        "base_is_local": Path(base.name).is_dir(),
        "base_fingerprint": _base_fingerprint(base),
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
    }


def _base_fingerprint(base: Any) -> str | None:
    """Which weights these are, so that a merge can tell others; None for a base that is not in safetensors."""
    from headnote_cli.models.base import weights_folder

    folder = weights_folder(base)
    return fingerprint(folder) if has_weights(folder) else None
