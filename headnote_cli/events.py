"""Progress events. The work emits them and does not depend on the screen, which shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # otherwise `--help` would load the whole configuration
    from headnote_cli.machine.plan import Plan


class Event:
    """Base class of all events."""


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that shows nothing."""


@dataclass(frozen=True)
class Note(Event):
    """A line worth keeping on the screen."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class PlanResolved(Event):
    """The settings that this machine will use. Nothing is loaded yet."""

    plan: Plan


@dataclass(frozen=True)
class ModelLoaded(Event):
    """The model is loaded and its parameters are counted."""

    parameters: int
    trainable: int
    quantized_layers: int
    weight_bytes: int
    attention: str
    dtypes: dict[str, int]  # parameters by dtype
    adapted: int  # linear layers with an adapter


@dataclass(frozen=True)
class RunDescribed(Event):
    """Facts about the training that is about to start, by name."""

    facts: dict[str, str]


@dataclass(frozen=True)
class TrainingStarted(Event):
    """The first step is about to start."""

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
    """Progress of an evaluation, in batches, or of the headnotes written during it."""

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
    """How many of the adapters training changed. The others are in parts that text does not use."""

    moved: int
    adapters: int


@dataclass(frozen=True)
class Sampled(Event):
    """The headnote that the model in training writes for an evaluation row, and the official one."""

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
    """Progress of a merge: bytes of the output, and tensors that adapters change."""

    bytes: int
    total_bytes: int
    tensors: int
    total_tensors: int
    seconds: float


@dataclass(frozen=True)
class RowWritten(Event):
    """Progress of a run over many rows; `tokens` and `seconds` leave out the rows from `before`."""

    rows: int
    total_rows: int
    before: int
    tokens: int
    seconds: float
