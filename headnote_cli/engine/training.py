"""TRL's SFTTrainer on rows encoded beforehand: its events, its signals, its checkpoints."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from headnote_cli.config import Settings
from headnote_cli.encoding import IGNORED
from headnote_cli.engine.base import BaseModel
from headnote_cli.engine.loading import load_for_training, lora_config, quantized_layers, weight_bytes
from headnote_cli.errors import ConfigError, ExitCode, Interrupted
from headnote_cli.events import Evaluated, Listener, Note, Saved, StepDone, TrainingStarted
from headnote_cli.hardware import Plan
from headnote_cli.runs import METRICS, newest_whole, read_metrics, seal

disable_progress_bar()


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """Everything a run needs, checked and encoded."""

    base: BaseModel
    settings: Settings
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    train_rows: Dataset  # columns `input_ids` and `labels`, which the trainer takes as they are
    eval_rows: Dataset | None
    output_dir: Path
    resume_from: Path | None = None


@dataclasses.dataclass
class LoadedModel:
    """What was counted after loading."""

    parameters: int
    trainable: int
    quantized_layers: int
    weight_bytes: int
    attention: str


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a finished run is told by."""

    steps: int
    train_loss: float | None
    eval_loss: float | None
    tokens: int
    seconds: float
    checkpoint: Path | None
    model: LoadedModel
    memory: dict[str, int]


def train(job: TrainingJob, emit: Listener) -> TrainingResult:
    """Train, or go on training, until the end or a signal.

    Raises:
        ConfigError: What was loaded is not what the config asks for.
        Interrupted: A signal came; a checkpoint of the last step is saved.
    """
    job.output_dir.mkdir(parents=True, exist_ok=True)
    model = load_for_training(job.base, job.settings, job.plan)
    layers, size = len(quantized_layers(model)), weight_bytes(model)
    if layers:
        emit(Note(f"quantized layers counted after loading: {layers}; weights {size / 2**20:,.0f} MiB"))
    trainer = CompletionTrainer(
        model=model,
        args=training_arguments(job.settings, job.plan, job.output_dir),
        train_dataset=job.train_rows,
        eval_dataset=job.eval_rows,
        processing_class=job.tokenizer,
        peft_config=lora_config(job.settings, job.plan),
    )
    _adapters_in_float32(trainer.model, autocast=job.plan.is_on("bf16") or job.plan.is_on("fp16"))
    loaded = _counted(trainer.model, layers, size)
    emit(
        Note(
            f"trainable parameters: {loaded.trainable:,} of {loaded.parameters:,} "
            f"({100 * loaded.trainable / loaded.parameters:.2f} %)"
        )
    )
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    trained_before = max((int(line.get("num_tokens", 0)) for line in read_metrics(job.output_dir)), default=0)
    trainer._total_train_tokens = trained_before if job.resume_from else 0
    reporter = _Reporter(job.output_dir, emit, trainer._total_train_tokens)
    trainer.add_callback(reporter)
    with _stopping_on_signals(reporter, emit):
        outcome = trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None)
    saved = newest_whole(job.output_dir)
    newest = saved.path if saved else None
    if reporter.stop_signal is not None:
        raise _interruption(reporter.stop_signal, newest)
    return TrainingResult(
        steps=outcome.global_step,
        train_loss=_finite(outcome.metrics.get("train_loss")),
        eval_loss=_finite(reporter.eval_loss),
        tokens=reporter.tokens,
        seconds=round(float(outcome.metrics.get("train_runtime", 0.0)), 3),
        checkpoint=newest,
        model=loaded,
        memory=measured_memory(),
    )


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that, on the CPU, runs the output layer on label positions only.

    TRL's fused head scores labelled positions alone where Triton is at hand; on the CPU it scores every position.
    The loss and its gradients are the same: `logits_to_keep` takes the positions of which some row has a label.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs or inputs["labels"].device.type != "cpu" or not self._plain_loss():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        targets = labels[:, 1:]
        positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
        others = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**others, use_cache=False, logits_to_keep=positions).logits
        targets = targets[:, positions]
        total = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if self.model.training:
            tokens = inputs["attention_mask"].sum()
            self._total_train_tokens += int(self.accelerator.gather_for_metrics(tokens).sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return loss

    def _plain_loss(self) -> bool:
        """Whether the loss is the plain mean over labels and the model can keep chosen positions."""
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return (
            self.args.loss_type == "nll"
            and not self.args.label_smoothing_factor
            and not self.aux_loss_enabled
            and not self.padding_free
            and "logits_to_keep" in inspect.signature(type(base).forward).parameters
        )


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns the Trainer's callbacks into events, metrics lines and sealed checkpoints."""

    def __init__(self, output_dir: Path, emit: Listener, tokens: int) -> None:
        self.output_dir = output_dir
        self.emit = emit
        self.stop_signal: int | None = None
        self.eval_loss: float | None = None
        self.tokens = tokens
        self._started = self._last = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = self._last = time.monotonic()
        self._first_step = state.global_step
        self.emit(TrainingStarted(state.max_steps, state.global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stop_signal is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        with (self.output_dir / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        if "loss" in logs:
            self.emit(self._step(state, logs))

    def _step(self, state: TrainerState, logs: dict[str, Any]) -> StepDone:
        moment = time.monotonic()
        tokens = int(logs.get("num_tokens", 0))
        rate = (tokens - self.tokens) / max(moment - self._last, 1e-9)
        self.tokens, self._last = tokens, moment
        done = state.global_step - self._first_step
        left = (moment - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        return StepDone(
            state.global_step,
            state.max_steps,
            logs["loss"],
            logs.get("learning_rate", 0.0),
            logs.get("grad_norm"),
            rate,
            left,
        )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        loss = float(metrics["eval_loss"])
        self.eval_loss = loss
        self.emit(Evaluated(state.global_step, loss, math.exp(min(loss, 700.0))))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = self.output_dir / f"checkpoint-{state.global_step}"
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its part
        if state.is_world_process_zero and folder.is_dir():
            seal(folder)
            self.emit(Saved(state.global_step, folder))


@contextmanager
def _stopping_on_signals(reporter: _Reporter, emit: Listener) -> Iterator[None]:
    """The first SIGINT or SIGTERM saves within the current step; a second SIGINT stops at once."""

    def stop(number: int, _: FrameType | None) -> None:
        if reporter.stop_signal is not None:
            raise KeyboardInterrupt
        reporter.stop_signal = number
        emit(Note("stopping: this step is finished and saved first (Ctrl-C again stops at once)", warning=True))

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interruption(number: int, checkpoint: Path | None) -> Interrupted:
    code = ExitCode.TERMINATED if number == signal.SIGTERM else ExitCode.INTERRUPTED
    where = f"saved {checkpoint}" if checkpoint else "nothing was saved yet"
    return Interrupted(f"stopped; {where}", hint="the same command goes on from there", exit_code=code)


def check_arguments(settings: Settings, plan: Plan, output_dir: Path) -> None:
    """Let TRL check its own keys before anything is loaded.

    Raises:
        ConfigError: Keys that contradict each other, in the library's words.
    """
    training_arguments(settings, plan, output_dir)


def training_arguments(settings: Settings, plan: Plan, output_dir: Path) -> SFTConfig:
    """The config's training keys for TRL, with the plan's answers in place of what cannot be done here."""
    names = {field.name for field in dataclasses.fields(SFTConfig)}
    values = {name: getattr(settings, name) for name in settings.model_fields_set & names}
    checkpointing = values.pop("gradient_checkpointing", settings.gradient_checkpointing)
    checkpointing_options = values.pop("gradient_checkpointing_kwargs", None)
    values.setdefault("activation_checkpointing", checkpointing)
    values.setdefault("activation_checkpointing_kwargs", checkpointing_options)
    values.setdefault("per_device_eval_batch_size", settings.per_device_train_batch_size)
    for name in ("bf16", "fp16", "use_liger_kernel", "torch_compile", "trust_remote_code"):
        values[name] = plan.is_on(name)
    if not plan.is_on("tf32"):
        values.pop("tf32", None)
    values.update(
        output_dir=str(output_dir),
        resume_from_checkpoint=None,
        optim=plan.effective("optim"),
        report_to=plan.effective("report_to").replace(" (offline)", "").split(","),
        use_cpu=plan.effective("device") == "cpu",
        dataset_num_proc=None,  # rows come encoded
        completion_only_loss=True,
        chat_template_path=None,  # already in the tokenizer
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=plan.effective("device") == "cuda" and settings.dataloader_pin_memory,
    )
    if "(offline)" in plan.effective("report_to"):
        os.environ["WANDB_MODE"] = "offline"
    try:
        return SFTConfig(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the training keys do not go together: {error}") from error


def _adapters_in_float32(model: torch.nn.Module, autocast: bool) -> None:
    """TRL casts adapters on a 4-bit base to bfloat16 and a resume brings them back as float32:
    float32 throughout makes a resumed run the same run.

    Autocast computes in 16 bits whatever the adapters' dtype, so PEFT's cast of every input to float32 would only
    hold three copies of it until backward.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and isinstance(model, PeftModel):
            parameter.data = parameter.data.float()
    for module in model.modules():
        if autocast and isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def _counted(model: torch.nn.Module, layers: int, size: int) -> LoadedModel:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable == 0:
        raise ConfigError("no parameter is trainable", hint="check `lora_target_modules`")
    total = sum(
        parameter.quant_state.shape.numel() if getattr(parameter, "quant_state", None) else parameter.numel()
        for parameter in model.parameters()
    )
    attention = str(getattr(model.config, "_attn_implementation", "unknown"))
    return LoadedModel(total, trainable, layers, size, attention)


def measured_memory() -> dict[str, int]:
    """Peak bytes of this process: what torch allocated and reserved on the GPU, else the resident set of all of it,
    libraries and the loading of weights included."""
    if torch.cuda.is_available():
        return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
