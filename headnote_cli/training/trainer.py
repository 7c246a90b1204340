"""TRL's SFTTrainer with slds's changes: the loss on the CPU, the evaluation loss, and how a run stops."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel
from transformers.trainer_callback import TrainerControl
from trl import SFTTrainer

from headnote_cli.data.batches import GroupedByLength
from headnote_cli.data.encoding import IGNORED
from headnote_cli.errors import DivergedError
from headnote_cli.runs.folders import Run
from headnote_cli.training.divergence import LossWatch
from headnote_cli.upstream import attention_of, count_tokens


class RunCut(Exception):
    """The run ends here, during an evaluation or before a step."""


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on rows with labels.

    On the CPU the output layer runs only on label positions: TRL's fused head does so with Triton, but on the CPU TRL
    scores every position. The loss and its gradients are the same. A loss or gradient that is not finite, or a loss far
    worse than a random guess or the run's own, ends the run before the optimizer uses it. The evaluation loss is the
    mean over the split's labels, whatever the batch size.
    """

    control: TrainerControl

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.step_inputs: list[torch.Tensor] = []  # ids of the current step's rows, to name them in errors
        self.stopping = False  # all processes agreed to stop
        self.evaluating = False
        self.after_evaluation: Callable[[int], None] | None = None  # called with the step, after it is saved
        self._is_sample_due = False
        self.saved_step = -1  # the last saved step
        self._watch = LossWatch(math.log(max(2, self.model.get_input_embeddings().num_embeddings)))
        self._evaluated = (0.0, 0)  # sum of token losses, labels

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs or inputs["labels"].device.type != "cpu" or not self._plain_loss():
            with self._without_mask(inputs):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"][:, 1:]
        labelled = targets != IGNORED
        others = {name: value for name, value in inputs.items() if name != "labels"}
        with self._without_mask(inputs), self._head_on(labelled):
            logits = model(**others, use_cache=False).logits
        targets = targets[labelled]
        total = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="sum")
        count = targets.numel() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if self.model.training:
            count_tokens(self, int(self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum()))
        return loss

    @contextlib.contextmanager
    def _without_mask(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Drop the attention mask where SDPA does not need it: if padding is only on the right, see `_padded_right`.

        `inputs` keeps it, because TRL counts tokens with it.
        """
        mask = inputs.get("attention_mask")
        if mask is None or attention_of(self.model) != "sdpa" or not _padded_right(mask):
            yield
            return

        def drop(_: torch.nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {name: value for name, value in options.items() if name != "attention_mask"}

        hook = self.accelerator.unwrap_model(self.model).register_forward_pre_hook(drop, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _plain_loss(self) -> bool:
        """Whether the loss is the plain mean over labels, and the model has a separate output layer."""
        return (
            self.args.loss_type == "nll"
            and not self.args.label_smoothing_factor
            and not self.aux_loss_enabled
            and not self.padding_free
            and self._head() is not None
        )

    def _head(self) -> torch.nn.Module | None:
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        head: torch.nn.Module | None = base.get_output_embeddings()
        return head

    @contextlib.contextmanager
    def _head_on(self, labelled: torch.Tensor) -> Iterator[None]:
        """Run the output layer only on the hidden states before labels, as one row: (1, labels, hidden).

        Args:
            labelled: (rows, tokens - 1), true where the next token has a label.
        """

        def chosen(_: torch.nn.Module, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (states[0][:, :-1][labelled][None], *states[1:])

        head = self._head()
        assert head is not None
        hook = head.register_forward_pre_hook(chosen)
        try:
            yield
        finally:
            hook.remove()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        chunks = rows.with_format("arrow").iter(1000)
        lengths = [length for chunk in chunks for length in pc.list_value_length(chunk["input_ids"]).to_pylist()]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupedByLength(lengths, batch, seed)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.step_inputs.append(inputs["input_ids"])
        labelled = (inputs["labels"][:, 1:] != IGNORED).sum() if "labels" in inputs else None
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        mean = float(loss)
        if labelled is not None and num_items_in_batch is not None and math.isfinite(mean):
            mean *= float(num_items_in_batch) / max(1, int(labelled)) / self.accelerator.num_processes
        if (fault := self._watch.fault(mean)) is not None:
            raise self.diverged(fault)
        return loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Also add up the batch's mean token loss times its number of labels."""
        inputs["labels"] = self._without_repeated_rows(inputs["labels"])
        outputs = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        labels = int((inputs["labels"][:, 1:] != IGNORED).sum())
        total, count = self._evaluated
        if labels:  # the mean of none is not a number
            self._evaluated = (total + float(outputs[0]) * labels, count + labels)
        return outputs

    def _without_repeated_rows(self, labels: torch.Tensor) -> torch.Tensor:
        """Mask the rows of the first batch that fill up the last batch of several processes."""
        state, batch = self.accelerator.gradient_state, self.args.eval_batch_size
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return labels
        real = max(0, state.remainder - self.accelerator.process_index * batch)
        return torch.cat([labels[:real], torch.full_like(labels[real:], IGNORED)])

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """Trainer's loop, but the loss is the mean over all labels of the split, not over its batches."""
        self._evaluated = (0.0, 0)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **options)
        sums = torch.tensor(self._evaluated, dtype=torch.float64, device=self.accelerator.device)
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        if count:
            output.metrics[f"{metric_key_prefix}_loss"] = total / count
        return output

    def diverged(self, what: str) -> DivergedError:
        """The error for a step that must not be used."""
        whole = Run(Path(self.args.output_dir)).newest_whole()
        rows = ", ".join(self.rows_of_step()) or "unknown"
        return DivergedError(
            f"{what}, at step {self.state.global_step + 1}; rows of this step: {rows}",
            f"last healthy checkpoint: {whole.path if whole else 'none yet'}",
            "look at those rows (`slds preview-prompts --sample-id ID`), then try a lower `learning_rate`, more "
            "`warmup_steps`, a smaller `max_grad_norm`, or bf16 in place of fp16; --no-resume starts again",
        )

    def rows_of_step(self) -> list[str]:
        """Names of the current step's rows, found by their ids."""
        if not isinstance(self.train_dataset, Dataset) or "name" not in self.train_dataset.column_names:
            return []
        pad = self.processing_class.pad_token_id
        wanted = {_unpadded(row, pad) for batch in self.step_inputs for row in batch.tolist()}
        return [row["name"] for row in self.train_dataset if _unpadded(row["input_ids"], pad) in wanted]

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Trainer's, but restores the random state: a run that skips an evaluation is still the same run."""
        devices = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        self.evaluating = True
        try:
            with torch.random.fork_rng(devices):
                metrics: dict[str, float] = super().evaluate(*args, **options)
        finally:
            self.evaluating = False
        self._is_sample_due = True
        return metrics

    def sample(self) -> None:
        """Call `after_evaluation` after an evaluation, once its step is saved."""
        if self.after_evaluation is not None and self._is_sample_due and not self.stopping:
            self.after_evaluation(self.state.global_step)
        self._is_sample_due = False

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        """Trainer's, but a run that stops skips its evaluation and is saved once."""
        with contextlib.suppress(RunCut):
            super()._maybe_log_save_evaluate(*args, **options)
        if self.stopping and self.saved_step != self.state.global_step:
            self.control.should_evaluate, self.control.should_save = False, True
            super()._maybe_log_save_evaluate(*args, **options)
        self.sample()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none in the run folder: each checkpoint gets ours."""


def _padded_right(mask: torch.Tensor) -> bool:
    """Whether padding is only on the right, (batch, seq). Then causal attention needs no mask: no token attends to
    later ones, and padding has no label. Without a mask the kernel computes only half of the scores."""
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


def _unpadded(ids: list[int], pad: int | None) -> tuple[int, ...]:
    return tuple(token for token in ids if token != pad)
