"""Check that gradients are finite and that training changes every adapter: with gradients of zero, the loss still looks
plausible for hours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerState, TrainingArguments

from headnote_cli.errors import UnsoundTrainingError
from headnote_cli.events import Movement
from headnote_cli.training.trainer import CompletionTrainer

PATIENCE = 5  # steps in a row in which a used adapter's gradient may be zero
NAMED = 3  # adapters named in a message
NO_RATE = "the learning rate was 0 in every step: see `learning_rate`, and whether `warmup_steps` are fewer than all"
# LoRA starts with B = 0, so B has a gradient from the first step.
_SECOND_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?:B\.[^.]+\.weight|embedding_B\.[^.]+)")


class SoundGradients(TrainerCallback):  # type: ignore[misc]
    """Ends the run before the optimizer uses gradients that are not finite, or if all of them stay zero. Costs one norm
    of the trained gradients per step.

    A gradient scaler (float16) checks them itself: it skips the step and halves its scale, as it should.
    """

    def __init__(self, trainer: CompletionTrainer) -> None:
        self.trainer = trainer
        self._without = 0  # steps in a row without a gradient

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.step_inputs.clear()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        sharded = self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled
        if sharded or self.trainer.accelerator.scaler is not None:
            return
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        if not math.isfinite(norm):
            raise self.trainer.diverged("the gradients are not finite numbers")
        self._without = 0 if norm else self._without + 1
        if self._without == PATIENCE:
            raise UnsoundTrainingError(f"all gradients are zero for {PATIENCE} steps: nothing is learnt")


class AdaptersMove(TrainerCallback):  # type: ignore[misc]
    """Ends a run when adapters no longer get a gradient, or when they are unchanged at the end.

    An adapter that no forward pass uses has no gradient (the vision tower's, experts that were never chosen). It counts
    as unused, which is not a fault.
    """

    def __init__(self, trainer: CompletionTrainer) -> None:
        self.args = trainer.args
        # With sharded weights, no process holds a whole adapter.
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        self._adapters = {} if sharded else second_matrices(trainer.model)
        self._before = _sums(self._adapters.values())  # before a checkpoint is loaded: the run's initial values
        self._without = dict.fromkeys(self._adapters, 0)  # steps in a row without a gradient
        self._unused = set(self._adapters)
        self._has_stepped = False
        self._learned = False  # a step had a learning rate above zero

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        self._has_stepped = True
        self._learned |= optimizer is not None and any(group["lr"] > 0 for group in optimizer.param_groups)
        grads = {name: parameter.grad for name, parameter in self._adapters.items() if parameter.grad is not None}
        self._unused -= grads.keys()
        if not grads:
            return
        norms = torch.stack([grad.norm() for grad in grads.values()]).tolist()  # one synchronization with the device
        for name, norm in zip(grads, norms, strict=True):
            self._without[name] = 0 if norm else self._without[name] + 1
        still = sorted(name for name in grads if self._without[name] == PATIENCE)
        if still:
            raise UnsoundTrainingError(
                f"the gradient of {_named(still, len(self._adapters))} is zero for {PATIENCE} steps, up to step "
                f"{state.global_step + 1}: nothing is learnt there",
                hint=_cause(self.args),
            )

    def at_end(self) -> Movement:
        """How many adapters differ from the start.

        Raises:
            UnsoundTrainingError: One that had a gradient is unchanged or all zeros.
        """
        if not self._has_stepped:  # a resumed run with no steps left
            return Movement(len(self._adapters), len(self._adapters))
        after = _sums(self._adapters.values())
        still = {
            name
            for name, old, new in zip(self._adapters, self._before, after, strict=True)
            if old == new or new[1] == 0
        }
        faults = sorted(still - self._unused)
        if faults or (still and len(still) == len(self._adapters)):
            named = _named(faults or sorted(still), len(self._adapters))
            hint = _cause(self.args) if self._learned else NO_RATE
            raise UnsoundTrainingError(f"training did not change {named}", str(self.args.output_dir), hint)
        return Movement(len(self._adapters) - len(still), len(self._adapters))


def second_matrices(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The B of each trained LoRA adapter, by module name; empty for a model without adapters."""
    if not isinstance(model, PeftModel):
        return {}
    matches = ((_SECOND_MATRIX.fullmatch(name), parameter) for name, parameter in model.named_parameters())
    return {match["module"]: parameter for match, parameter in matches if match and parameter.requires_grad}


def _sums(parameters: Iterable[torch.nn.Parameter]) -> list[tuple[float, float]]:
    """The sum and the sum of absolute values of each parameter; they differ if a matrix has changed."""
    doubles = (parameter.detach().double() for parameter in parameters)
    sums = [torch.stack([values.sum(), values.abs().sum()]) for values in doubles]
    return [(first, second) for first, second in torch.stack(sums).tolist()] if sums else []


def _named(names: list[str], total: int) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} of {total} adapters ({', '.join(names[:NAMED])}{more})"


def _cause(args: TrainingArguments) -> str:
    """The most likely reason for missing gradients."""
    if args.activation_checkpointing and (args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
        return "set `gradient_checkpointing_kwargs: {use_reentrant: false}`: reentrant checkpoints lose the gradient"
    return (
        "a kernel without a backward is likely: try `attn_implementation: eager`, `use_liger_kernel: false` or "
        "`load_in_4bit: false` one by one, and report which of them helps"
    )
