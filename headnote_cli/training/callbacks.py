"""Callbacks of a run: events, metrics lines, checkpoints, signals, samples."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType, rotate_checkpoints

from headnote_cli.data.encoding import IGNORED
from headnote_cli.errors import ExitCode, Interrupted
from headnote_cli.events import Evaluated, Evaluating, Listener, Note, Sampled, Saved, StepDone, TrainingStarted
from headnote_cli.machine.processes import PARENT, orphaned
from headnote_cli.models.card import CARD, model_card
from headnote_cli.runs.files import Journal, write_lines, write_text
from headnote_cli.runs.folders import METRICS, SAMPLES, Run, seal
from headnote_cli.runs.timings import Laps
from headnote_cli.training.trainer import CompletionTrainer, RunCut

# torchrun repeats a Ctrl-C that its workers already got from the terminal: two within this many seconds count as one.
ECHO = 1.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
LONGEST_SAMPLE = 256  # tokens


def peak_rss() -> int:
    """Peak bytes of main memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns the Trainer's callbacks into events and metrics lines."""

    def __init__(self, output_dir: Path, emit: Listener, tokens: int, laps: Laps, on_gpu: bool) -> None:
        self.output_dir = output_dir
        self.on_gpu = on_gpu
        self.emit = emit
        self.eval_loss: float | None = None
        self.tokens = tokens
        self.laps = laps
        self._first_step = 0
        self._step_began = 0.0
        self._steps_took = self._since_log = 0.0  # seconds of steps only, without evaluations and saving
        self._evaluated = 0  # batches of the current evaluation

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self._first_step = state.global_step
        self.emit(TrainingStarted(state.max_steps, state.global_step))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_began = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        took = time.monotonic() - self._step_began
        self._steps_took += took
        self._since_log += took
        if state.global_step == self._first_step + 1:
            self.laps.lap("first step")

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: Any, eval_dataloader: Sized | None = None, **_: Any
    ) -> None:
        self._evaluated += 1
        if state.is_world_process_zero:
            total = len(eval_dataloader) if eval_dataloader is not None else 0
            self.emit(Evaluating(state.global_step, self._evaluated, total))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        Journal(self.output_dir / METRICS).append({"step": state.global_step, **logs})
        if "loss" in logs:
            self.emit(self._step(state, logs))

    def _step(self, state: TrainerState, logs: dict[str, Any]) -> StepDone:
        tokens = int(logs.get("num_tokens", 0))
        rate = (tokens - self.tokens) / max(self._since_log, 1e-9)
        self.tokens, self._since_log = tokens, 0.0
        done = state.global_step - self._first_step
        left = self._steps_took / max(done, 1) * (state.max_steps - state.global_step)
        return StepDone(
            state.global_step,
            state.max_steps,
            logs["loss"],
            logs.get("learning_rate", 0.0),
            logs.get("grad_norm"),
            rate,
            left,
            torch.cuda.max_memory_allocated() if self.on_gpu else peak_rss(),
        )

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: dict[str, Any], **_: Any) -> None:
        loss = float(metrics["eval_loss"])
        self.eval_loss = loss
        self._evaluated = 0
        self.emit(Evaluated(state.global_step, loss, math.exp(min(loss, 700.0))))

    def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.emit(Saved(state.global_step, self.output_dir / f"checkpoint-{state.global_step}"))


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Completes a saved checkpoint: adds the model card, then the manifest as the last file, then deletes older ones. A
    folder without a manifest was not saved completely.

    The Trainer itself deletes none (it gets no `save_total_limit`): with a limit of one it would delete the last
    checkpoint and keep the best.
    """

    def __init__(self, trainer: CompletionTrainer, limit: int | None) -> None:
        self.trainer = trainer
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        run, step = Path(args.output_dir), state.global_step
        self.trainer.saved_step = step
        self.trainer.accelerator.wait_for_everyone()  # all processes have written their parts
        if args.should_save:
            write_text(run / f"checkpoint-{step}" / CARD, self._card(run, state))
            seal(run / f"checkpoint-{step}")
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=False,
            )
        self.trainer.accelerator.wait_for_everyone()

    def _card(self, run: Path, state: TrainerState) -> str:
        """Our model card, in place of PEFT's."""
        logged = {
            name: value
            for entry in state.log_history
            for name, value in entry.items()
            if name != "eval_loss" or entry["step"] == state.global_step
        }
        metrics = {"steps": state.global_step, "train_loss": logged.get("loss"), "eval_loss": logged.get("eval_loss")}
        return model_card(Run(run).record() | {"metrics": metrics})


class EarlyStopping(EarlyStoppingCallback):  # type: ignore[misc]
    """Ends a run after a number of evaluations without improvement. A resumed run continues the count.

    The library's callback restarts the count on resume, and does not save the steps after the last checkpoint.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> None:
        super().on_train_begin(args, state, control, **options)
        # The state from the checkpoint; a run that began without early stopping has none.
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = kept["attributes"]["early_stopping_patience_counter"]
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            raise RunCut

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        super().on_evaluate(args, state, control, metrics)
        if control.should_training_stop and args.save_strategy != SaveStrategy.NO:
            control.should_save = True


class SampleWriter:
    """Writes headnotes for the first evaluation rows after each evaluation, to show progress.

    Decoding is greedy and uses no random state: a run with samples is bit for bit the run without. Errors here are only
    warnings.
    """

    def __init__(
        self,
        trainer: CompletionTrainer,
        stopper: Stopper,
        output_dir: Path,
        count: int,
        stop_ids: list[int],
        emit: Listener,
    ) -> None:
        """
        Args:
            count: Headnotes to write each time.
            stop_ids: The tokens that end a headnote, as in `slds generate`.
        """
        self.trainer = trainer
        self.stopper = stopper
        self.folder = output_dir / SAMPLES
        self.rows = trainer.eval_dataset.select(range(min(count, len(trainer.eval_dataset))))
        self.stop_ids = stop_ids
        self.emit = emit

    def write(self, step: int) -> None:
        """Write the samples with the model as it is after a step."""
        if not self.trainer.is_world_process_zero():
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        was_training = model.training
        model.eval()
        try:
            with self.trainer.accelerator.autocast():  # float32 adapters on a 16-bit base need autocast
                written = list(self._written(model, step))
            write_lines(self.folder / f"step-{step}.jsonl", written)
        except Exception as error:
            self.emit(Note(f"no sample is written after step {step}: {error}", warning=True))
            return
        finally:
            model.train(was_training)
        for sample in written:
            self.emit(Sampled(step, sample["name"], sample["headnote"], sample["reference"]))

    def _written(self, model: Any, step: int) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.rows, 1):
            if self.stopper.asked:
                return
            yield self._headnote(model, row)
            self.emit(Evaluating(step, number, len(self.rows), "headnotes"))

    @torch.no_grad()
    def _headnote(self, model: Any, row: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.trainer.processing_class
        prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]
        reference = [label for label in row["labels"] if label != IGNORED]
        ids = torch.tensor([prompt], device=model.device)
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LONGEST_SAMPLE,
            do_sample=False,
            eos_token_id=self.stop_ids,
            pad_token_id=tokenizer.pad_token_id,
        )[0, len(prompt) :]
        return {
            "name": row.get("name", ""),
            "headnote": tokenizer.decode(written, skip_special_tokens=True).strip(),
            "finish_reason": "stop" if written[-1] in self.stop_ids else "length",
            "reference": tokenizer.decode(reference, skip_special_tokens=True).strip(),
        }


class Stopper(TrainerCallback):  # type: ignore[misc]
    """Stops a run on request: saves within the step and skips the rest of an evaluation.

    A signal may reach one process before another. The processes agree at each step and each evaluation batch, so that
    all save and stop at the same place.
    """

    def __init__(self, trainer: CompletionTrainer) -> None:
        self.trainer = trainer
        self.asked = 0  # the signal that this process received
        self.signal = 0  # the signal that all agreed on

    def promise(self) -> str:
        """What happens before the run stops."""
        if not self.trainer.evaluating:
            return "this step is finished and saved first"
        if self.trainer.args.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
            return "the evaluation is finished first, the learning rate goes by it"
        step = self.trainer.state.global_step
        kept = f"step {step} is saved first" if step else "nothing was trained yet"
        return f"the rest of the evaluation is left out, {kept}"

    def _is_stopping(self) -> bool:
        asked = torch.tensor(self.asked or (signal.SIGTERM if orphaned() else 0), device=self.trainer.args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        self.signal = int(asked)
        self.trainer.stopping = bool(self.signal)
        return self.trainer.stopping

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.stopping:  # requested in the evaluation before the first step
            raise RunCut
        self.trainer.sample()  # due only after that evaluation

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.sample()  # the same, if no step was left

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if self._is_stopping():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_prediction_step(self, args: TrainingArguments, state: Any, control: TrainerControl, **_: Any) -> None:
        # A plateau schedule depends on this evaluation, so it is finished first.
        if self._is_stopping() and args.lr_scheduler_type != SchedulerType.REDUCE_ON_PLATEAU:
            control.should_training_stop = True
            raise RunCut

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if self._is_stopping():
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if self.trainer.stopping:  # already saved
            control.should_save = control.should_evaluate = False


@contextmanager
def stopping_on_signals(stopper: Stopper, emit: Listener) -> Iterator[None]:
    """The first SIGINT or SIGTERM saves within the current step; a second SIGINT stops immediately."""
    interrupts: list[float] = []

    def stop(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            if interrupts and time.monotonic() - interrupts[-1] > ECHO:
                raise KeyboardInterrupt
            interrupts.append(time.monotonic())
        if not stopper.asked:
            stopper.asked = number
            emit(Note(f"stopping: {stopper.promise()} (a second Ctrl-C stops at once)", warning=True))

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        # When one process of `--num-processes` fails, torch's launcher immediately sends SIGTERM to the others. They
        # must still write the run's final state.
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if PARENT in os.environ and number == signal.SIGTERM else handler)


def interruption(number: int, checkpoint: Path | None) -> Interrupted:
    """The error for a signal, after everything is saved."""
    code = ExitCode.TERMINATED if number == signal.SIGTERM else ExitCode.INTERRUPTED
    if checkpoint is None:
        return Interrupted(
            "stopped before the first step: nothing to save", hint="the same command starts again", exit_code=code
        )
    return Interrupted(f"stopped; saved {checkpoint}", hint="the same command goes on from there", exit_code=code)
