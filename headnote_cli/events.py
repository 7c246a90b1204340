"""What the work reports while it goes on. The screen listens; the work knows no screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # else a help text would load the whole configuration
    from headnote_cli.machine.plan import Plan


class Event:
    """Something that the work reports."""


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Note(Event):
    """A line worth keeping on the screen."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class PlanResolved(Event):
    """What this machine will do of what was asked; nothing is loaded yet."""

    plan: Plan


@dataclass(frozen=True)
class ModelLoaded(Event):
    """The model is loaded and counted."""

    parameters: int
    trainable: int
    quantized_layers: int
    weight_bytes: int
    attention: str
    dtypes: dict[str, int]  # parameters by dtype
    adapted: int  # linear layers with an adapter


@dataclass(frozen=True)
class RunDescribed(Event):
    """What is about to be trained: a few facts by name."""

    facts: dict[str, str]


@dataclass(frozen=True)
class TrainingStarted(Event):
    """The first step is next."""

    total_steps: int
    first_step: int


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    tokens_per_second: float
    seconds_left: float
    peak_memory: int | None = None  # bytes: allocated on the GPU, else the resident set of this process


@dataclass(frozen=True)
class Evaluating(Event):
    """How far an evaluation is, in batches, or the headnotes that are written at it."""

    step: int
    done: int
    total: int
    what: str = "batches"


@dataclass(frozen=True)
class Evaluated(Event):
    """Loss on the evaluation split; perplexity is its exponential."""

    step: int
    loss: float
    perplexity: float


@dataclass(frozen=True)
class Saved(Event):
    """A complete checkpoint is on the disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class Movement:
    """How many adapters training changed, of how many. The others are in parts that text does not use."""

    moved: int
    adapters: int


@dataclass(frozen=True)
class Sampled(Event):
    """What the model in training writes for a row of the evaluation split, beside the official headnote."""

    step: int
    name: str
    headnote: str
    reference: str


@dataclass(frozen=True)
class TextWritten(Event):
    """A piece of the headnote that is being written."""

    text: str


@dataclass(frozen=True)
class WeightsWritten(Event):
    """How far a merge is: bytes of the output, and the tensors that adapters change."""

    bytes: int
    total_bytes: int
    tensors: int
    total_tensors: int
    seconds: float


@dataclass(frozen=True)
class RowWritten(Event):
    """How far a run over many rows is; `tokens` were written in `seconds`, for all rows but those from before."""

    rows: int
    total_rows: int
    before: int
    tokens: int
    seconds: float
