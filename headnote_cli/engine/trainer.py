"""TRL's SFTTrainer with our three differences: what the CPU scores, what stops a run, how a checkpoint is written."""

from __future__ import annotations

import contextlib
import inspect
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import Sampler
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer

from headnote_cli.encoding import IGNORED
from headnote_cli.errors import DivergedError
from headnote_cli.modelcard import CARD, model_card
from headnote_cli.runs import RECORD, STAGING, newest_whole, read_json, seal, write_text

CHANCES = 3.0  # a loss of so many times that of a uniform guess over the vocabulary is no longer learning


class GroupedByLength(Sampler[int]):  # type: ignore[misc]
    """Rows of like length together, in batches of random order, the longest batch first.

    As transformers' `group_by_length`, which draws each epoch's order from the global random state: a run resumed in
    its second epoch would see other batches. Here seed and epoch alone decide.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        dice = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=dice))


class EvaluationCut(Exception):
    """The run is to stop: the rest of the evaluation is left."""


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on rows with labels.

    On the CPU it runs the output layer on label positions only: TRL's fused head does so where Triton is at hand, but
    scores every position on the CPU. The loss and its gradients are the same. A loss or gradient that is not finite, or
    a loss far beyond chance, ends the run before the optimizer uses it. A checkpoint is written beside, sealed with its
    files' hashes, and renamed; only then are older ones deleted.
    """

    control: TrainerControl

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.step_inputs: list[torch.Tensor] = []  # ids of the current step's rows, to name them if it fails
        self.stopping = False  # all processes agreed to stop
        self._saved_step = -1
        self._staging: Path | None = None

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

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        chunks = rows.with_format("arrow").iter(1000)
        lengths = [length for chunk in chunks for length in pc.list_value_length(chunk["input_ids"]).to_pylist()]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return GroupedByLength(lengths, batch, self.args.data_seed or self.args.seed)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.step_inputs.append(inputs["input_ids"])
        labelled = (inputs["labels"][:, 1:] != IGNORED).sum() if "labels" in inputs else None
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        mean = float(loss)
        if labelled is not None and num_items_in_batch is not None and math.isfinite(mean):
            mean *= float(num_items_in_batch) / max(1, int(labelled)) / self.accelerator.num_processes
        chance = math.log(max(2, self.model.get_input_embeddings().num_embeddings))
        if not math.isfinite(mean):
            raise self.diverged("the loss is not a finite number")
        if mean > CHANCES * chance:
            raise self.diverged(f"the loss is {mean:.1f}; blind guessing would give {chance:.1f}")
        return loss

    def diverged(self, what: str) -> DivergedError:
        """The error for a step that must not be learnt from."""
        whole = newest_whole(Path(self.args.output_dir))
        rows = ", ".join(self._rows_of_step()) or "unknown"
        return DivergedError(
            f"{what}, at step {self.state.global_step + 1}; rows of this step: {rows}",
            f"last healthy checkpoint: {whole.path if whole else 'none yet'}",
            "look at those rows (`slds preview-prompts --sample-id ID`), then try a lower `learning_rate`, more "
            "`warmup_steps`, a smaller `max_grad_norm`, or bf16 in place of fp16; --no-resume starts afresh",
        )

    def _rows_of_step(self) -> list[str]:
        """Names of the rows of the current step, found by their ids."""
        if not isinstance(self.train_dataset, Dataset) or "name" not in self.train_dataset.column_names:
            return []
        pad = self.processing_class.pad_token_id
        wanted = {_unpadded(row, pad) for batch in self.step_inputs for row in batch.tolist()}
        return [row["name"] for row in self.train_dataset if _unpadded(row["input_ids"], pad) in wanted]

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """As Trainer's, and the random state stays: a run that leaves an evaluation out is still the same run."""
        devices = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            metrics: dict[str, float] = super().evaluate(*args, **options)
        return metrics

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """As Trainer's; one before the first step may be cut, too: that step is then the last."""
        try:
            metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except EvaluationCut:
            if not skip_scheduler:
                raise
            metrics = {}
        return metrics

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *others: Any, **options: Any
    ) -> None:
        """As Trainer's; a run that is to stop leaves its evaluation and is saved once."""
        with contextlib.suppress(EvaluationCut):
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *others, **options)
        if self.stopping and self._saved_step != self.state.global_step:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None in the run folder: each checkpoint gets ours."""

    def _write_card(self, checkpoint: Path) -> None:
        """Our model card, in place of PEFT's draft."""
        record = read_json(Path(self.args.output_dir) / RECORD) or {}
        logged = {
            name: value
            for entry in self.state.log_history
            for name, value in entry.items()
            if name != "eval_loss" or entry["step"] == self.state.global_step
        }
        metrics = {
            "steps": self.state.global_step, "train_loss": logged.get("loss"), "eval_loss": logged.get("eval_loss")
        }  # fmt: skip
        write_text(checkpoint / CARD, model_card(record | {"metrics": metrics}))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint beside; when it is whole it gets its name, and only then older ones go."""
        run, step = Path(self.args.output_dir), self.state.global_step
        self._saved_step = step
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._staging = run / STAGING
        try:
            super()._save_checkpoint(model, trial)
        finally:
            staging, self._staging = self._staging, None
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # every process has written its part
        if self.args.should_save:
            self._note_best(run, staging / f"checkpoint-{step}")
            self._write_card(staging / f"checkpoint-{step}")
            _publish(staging / f"checkpoint-{step}", run / f"checkpoint-{step}")
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        self.accelerator.wait_for_everyone()

    def _note_best(self, run: Path, written: Path) -> None:
        """The best checkpoint by its final name."""
        if not self.state.best_global_step:
            return
        best = run / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir() or self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(best)
        state: TrainerState = self.state
        state.save_to_json(str(written / "trainer_state.json"))


def _publish(written: Path, final: Path) -> None:
    """Seal a whole folder and give it its name."""
    seal(written)
    if final.exists():  # saved again at the same step
        shutil.rmtree(final)
    written.rename(final)


def _unpadded(ids: list[int], pad: int | None) -> tuple[int, ...]:
    start, end = 0, len(ids)
    while end > start and ids[end - 1] == pad:
        end -= 1
    while start < end and ids[start] == pad:
        start += 1
    return tuple(ids[start:end])
