"""TRL's SFTTrainer on pre-encoded rows: its events, signals and checkpoints."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainerState
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

from headnote_cli.config.keys import Settings
from headnote_cli.errors import NO_ROOM, ConfigError, SldsError, is_out_of_memory
from headnote_cli.events import Listener, ModelLoaded, Movement, Note
from headnote_cli.machine.libraries import refusing_unsound_warnings
from headnote_cli.machine.plan import Plan
from headnote_cli.machine.processes import asked_processes
from headnote_cli.models.base import BaseModel
from headnote_cli.models.fit import VISION_MODULES
from headnote_cli.models.loading import (
    load_for_training,
    lora_config,
    quantized_layers,
    require_targets,
    stop_ids,
    torch_dtype,
    unquantized_bytes,
    weight_bytes,
    with_adapter,
)
from headnote_cli.runs.folders import Run
from headnote_cli.runs.timings import Laps
from headnote_cli.training.arguments import training_arguments
from headnote_cli.training.callbacks import (
    Checkpoints,
    EarlyStopping,
    Reporter,
    SampleWriter,
    Stopper,
    interruption,
    peak_rss,
    stopping_on_signals,
)
from headnote_cli.training.movement import AdaptersMove, SoundGradients
from headnote_cli.training.trainer import CompletionTrainer, RunCut
from headnote_cli.upstream import attention_of, begin_token_count, compute_without_casts

disable_progress_bar()


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """Everything that a run needs, checked and encoded."""

    base: BaseModel
    settings: Settings
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    train_rows: Dataset  # columns `input_ids` and `labels`, used unchanged by the trainer
    eval_rows: Dataset | None
    output_dir: Path
    turn_end: int  # the token that ends the assistant's turn
    resume_from: Path | None = None
    start_adapter: Path | None = None  # of another run, to continue training
    samples: int = 0  # headnotes to write at each evaluation
    laps: Laps = dataclasses.field(default_factory=Laps)  # of the command so far


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The result of a finished run."""

    steps: int
    train_loss: float | None
    eval_loss: float | None
    tokens: int
    seconds: float
    checkpoint: Path | None
    model: ModelLoaded
    movement: Movement


def train(job: TrainingJob, emit: Listener) -> TrainingResult:
    """Train, or continue training, until the end or a signal.

    Raises:
        ConfigError: The loaded model is not what the config asks for.
        DivergedError: A loss or gradient must not be used.
        UnsoundTrainingError: Adapters do not change, or a library warns of incorrect results.
        MemoryError: Out of memory, with the step and its rows.
        Interrupted: A signal arrived; a checkpoint of the last step is saved.
    """
    job.output_dir.mkdir(parents=True, exist_ok=True)
    trainer, loaded = _built(job, emit)
    run = Run(job.output_dir)
    logged = run.metrics() if job.resume_from else []
    trained = max((int(line.get("num_tokens", 0)) for line in logged), default=0)
    begin_token_count(trainer, trained)
    reporter = Reporter(job.output_dir, emit, trained, job.laps, job.plan.device == "cuda")
    stopper = Stopper(trainer)
    movement = AdaptersMove(trainer)
    _add_callbacks(trainer, reporter, stopper, movement, job, emit)
    trainer.args.eval_on_start |= _owes_evaluation(job)
    metrics: dict[str, float] = {}
    with (
        suppress(RunCut),
        stopping_on_signals(stopper, emit),
        refusing_unsound_warnings(),
        _telling_of_a_full_disk(run),
        _telling_of_memory(trainer),
    ):
        metrics = trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None).metrics
    saved = run.newest_whole()
    newest = saved.path if saved else None
    if trainer.stopping:
        raise interruption(stopper.signal, newest)
    return TrainingResult(
        steps=trainer.state.global_step,
        train_loss=_finite(metrics.get("train_loss")),
        eval_loss=_finite(reporter.eval_loss),
        tokens=reporter.tokens,
        seconds=round(float(metrics.get("train_runtime", 0.0)), 3),
        checkpoint=newest,
        model=loaded,
        movement=movement.at_end(),
    )


def _built(job: TrainingJob, emit: Listener) -> tuple[CompletionTrainer, ModelLoaded]:
    """The trainer with its model, counted and checked against the plan."""
    model: torch.nn.Module = load_for_training(job.base, job.settings, job.plan)
    layers, size = len(quantized_layers(model)), weight_bytes(model)
    job.laps.lap("model")
    if layers:
        before = unquantized_bytes(model, torch_dtype(job.plan.dtype))
        weights = f"weights {before / 2**20:,.0f} → {size / 2**20:,.0f} MiB"
        emit(Note(f"quantized layers counted after loading: {layers}; {weights}"))
    if job.start_adapter is not None:
        model = with_adapter(model, job.start_adapter, is_trainable=True)
        emit(Note(f"starting from the adapter {job.start_adapter}"))
    lora = lora_config(job.settings, job.plan) if job.start_adapter is None else None
    if lora is not None:
        require_targets(model, lora)
    arguments = training_arguments(job.settings, job.plan, job.output_dir)
    if arguments.ddp_find_unused_parameters is None:
        arguments.ddp_find_unused_parameters = _trains_idle_parts(model, lora)
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=job.train_rows,
        eval_dataset=job.eval_rows,
        processing_class=job.tokenizer,
        peft_config=lora,
    )
    if not isinstance(trainer.model, PeftModel):  # its checkpoints are whole models, served unchanged
        _stop_at_the_turn(trainer.model, job)
    _adapters_in_float32(trainer.model, autocast=job.plan.autocast)
    loaded = _counted(trainer.model, layers, size)
    _require_as_planned(trainer, loaded, job)
    emit(loaded)
    job.laps.lap("trainer")
    return trainer, loaded


def _stop_at_the_turn(model: Any, job: TrainingJob) -> None:
    """Set the token that ends a turn in the model's configs and tokenizer, for servers of a checkpoint."""
    ends = stop_ids(model, job.turn_end)
    model.generation_config.eos_token_id = model.config.eos_token_id = ends
    if job.settings.eos_token is None and "eos_token" not in str(job.tokenizer.chat_template):
        job.tokenizer.eos_token = job.tokenizer.convert_ids_to_tokens(job.turn_end)


def _trains_idle_parts(model: torch.nn.Module, lora: LoraConfig | None) -> bool:
    """Whether a text step may leave trained parameters without gradients: in a vision tower, or in experts.

    With several processes, searching for such parameters costs a walk over the graph at every step.
    """
    trained = [name for name, weights in model.named_parameters() if weights.requires_grad or lora is not None]
    spared = re.compile(VISION_MODULES) if lora is not None and lora.exclude_modules else None
    trained = [name for name in trained if spared is None or not spared.fullmatch(name)]
    return any(re.fullmatch(VISION_MODULES, name) or ".experts." in name for name in trained)


def _owes_evaluation(job: TrainingJob) -> bool:
    """Whether the run was stopped at a step whose evaluation it skipped."""
    if job.resume_from is None or job.eval_rows is None:
        return False
    state = TrainerState.load_from_json(str(job.resume_from / "trainer_state.json"))
    by_epoch = job.settings.eval_strategy == "epoch"
    due = float(state.epoch or 0.5).is_integer() if by_epoch else state.global_step % (state.eval_steps or 1) == 0
    lines = (line for line in Run(job.output_dir).metrics() if line["step"] == state.global_step)
    return due and not any("eval_loss" in line for line in lines)


def _add_callbacks(
    trainer: CompletionTrainer,
    reporter: Reporter,
    stopper: Stopper,
    movement: AdaptersMove,
    job: TrainingJob,
    emit: Listener,
) -> None:
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(Checkpoints(trainer, job.settings.save_total_limit))  # before the callbacks that report it
    trainer.add_callback(reporter)
    trainer.add_callback(SoundGradients(trainer))
    trainer.add_callback(movement)
    if job.settings.early_stopping is not None:
        trainer.add_callback(EarlyStopping(early_stopping_patience=job.settings.early_stopping))
    if job.samples and job.eval_rows is not None:
        ends = stop_ids(trainer.accelerator.unwrap_model(trainer.model), job.turn_end)
        trainer.after_evaluation = SampleWriter(trainer, stopper, job.output_dir, job.samples, ends, emit).write
    trainer.add_callback(stopper)  # last, so that its decisions hold


def _require_as_planned(trainer: CompletionTrainer, loaded: ModelLoaded, job: TrainingJob) -> None:
    """Check that the loaded model matches the plan."""
    faults = []
    attention = job.plan.attention
    if not same_attention(attention, loaded.attention):
        faults.append(f"attention is {loaded.attention} and not {attention}")
    dtype = job.plan.dtype
    weights = {name: count for name, count in loaded.dtypes.items() if name not in ("uint8", "int8")}
    if dtype not in weights:
        faults.append(f"weights are in {', '.join(weights)} and not in {dtype}")
    asked = asked_processes()
    if trainer.accelerator.num_processes != asked:
        faults.append(f"{trainer.accelerator.num_processes} of {asked} processes train together")
    if job.settings.fsdp and not trainer.is_fsdp_enabled:
        faults.append("`fsdp` is asked for, and the weights are not sharded")
    elif os.environ.get("ACCELERATE_USE_FSDP") == "true" and trainer.accelerator.distributed_type.value != "FSDP":
        faults.append("FSDP is asked for by the launcher, and the weights are not sharded")
    if faults:
        raise ConfigError(f"what was loaded is not the plan: {'; '.join(faults)}", job.base.name)


def same_attention(planned: str, loaded: str) -> bool:
    """Whether a model's attention is the planned one; flash attention from `kernels` has another name."""
    return loaded in (planned, FLASH_ATTN_KERNEL_FALLBACK.get(planned))


@contextmanager
def _telling_of_memory(trainer: CompletionTrainer) -> Iterator[None]:
    """Add the step and its rows to out-of-memory errors."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        step = trainer.state.global_step
        rows = ", ".join(trainer.rows_of_step()) or "unknown"
        place = (
            f"at step {step + 1}; rows of this step: {rows}" if trainer.model.training else f"evaluating step {step}"
        )
        said = str(error).splitlines()[0] if str(error) else "main memory"
        raise MemoryError(f"{place}: {said}") from error


@contextmanager
def _telling_of_a_full_disk(run: Run) -> Iterator[None]:
    """Explain a failure to write; complete checkpoints stay complete."""
    try:
        yield
    except SldsError:
        raise
    except Exception as error:
        words = ("No space left", "File too large", "quota exceeded", "file write failed", "unexpected pos")
        if getattr(error, "errno", None) not in NO_ROOM and not any(word in str(error) for word in words):
            raise
        for half in run.checkpoints():
            if half.fault is not None:  # the one being saved; its space is needed for the record
                shutil.rmtree(half.path, ignore_errors=True)
        whole = run.newest_whole()
        kept = f"{whole.path} is whole" if whole else "no checkpoint was saved yet"
        hint = "make room, then the same command goes on from there; `save_total_limit: 1` keeps the best and the last"
        raise SldsError(f"writing failed: {error}; {kept}", str(run.folder), hint) from error


def _adapters_in_float32(model: torch.nn.Module, autocast: bool) -> None:
    """Keep adapters in float32: TRL casts them to bfloat16 on a 4-bit base, but a resume restores float32, and the
    resumed run would differ.

    Autocast computes in 16 bits whatever the adapters' dtype, so PEFT's cast of every input to float32 would only keep
    three copies of it until the backward pass.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and isinstance(model, PeftModel):
            parameter.data = parameter.data.float()
    for module in model.modules():
        if autocast and isinstance(module, LoraLayer):
            compute_without_casts(module)


def _counted(model: torch.nn.Module, layers: int, size: int) -> ModelLoaded:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable == 0:
        raise ConfigError("no parameter is trainable", hint="check `lora_target_modules`")
    total = sum(
        parameter.quant_state.shape.numel() if getattr(parameter, "quant_state", None) else parameter.numel()
        for parameter in model.parameters()
    )
    dtypes: dict[str, int] = {}
    for parameter in model.parameters():
        if not (parameter.requires_grad and isinstance(model, PeftModel)):
            name = str(parameter.dtype).removeprefix("torch.")
            dtypes[name] = dtypes.get(name, 0) + parameter.numel()
    adapted = sum(isinstance(module, LoraLayer) for module in model.modules())
    attention = attention_of(model)
    return ModelLoaded(total, trainable, layers, size, attention, dtypes, adapted)


def measured_memory(device: str) -> dict[str, int]:
    """Peak bytes of this process: allocated and reserved by torch on the GPU, else the resident set of the whole
    process, including libraries and loading."""
    if device == "cuda":
        return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {"peak_rss": peak_rss()}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
