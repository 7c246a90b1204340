"""`slds check-memory`: the peak memory of a training step, estimated before renting a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headnote_cli.config.keys import Settings
from headnote_cli.config.layers import Config
from headnote_cli.errors import ConfigError, UsageError
from headnote_cli.machine.detect import PACKAGES, Gpu, Machine, detect
from headnote_cli.machine.memory import available_memory
from headnote_cli.machine.plan import Plan, PlanRow, resolve
from headnote_cli.memory import Purpose, Stack
from headnote_cli.memory.advice import MOST_ROWS, Advice, advice, grid, largest, largest_batch, longest
from headnote_cli.memory.cards import Card, card, usual_cards
from headnote_cli.memory.estimate import Estimate, estimate
from headnote_cli.memory.inference import generation, merging
from headnote_cli.memory.lookup import shapes_of
from headnote_cli.memory.rows import DataLengths, lengths_of_rows
from headnote_cli.memory.setup import Setup, setup_of
from headnote_cli.memory.shapes import Shapes
from headnote_cli.models.fit import length_warning, wrong_class

HERE = " (here)"
# Plan settings that affect the memory of a step.
DECIDING = ("dtype", "fp16", "attn_implementation", "use_liger_kernel", "optim", "quantization")
MOST = {"per_device_train_batch_size": 65_536, "max_length": 10_485_760}  # ten million tokens: Llama 4's maximum


@dataclass(frozen=True)
class Fit:
    """A card and what fits on it. The largest length is for training, the largest batch also for generation."""

    card: Card
    verdict: str
    largest_batch: int
    longest: int
    changes: tuple[PlanRow[Any], ...] = ()  # settings with an effect on memory that the card changes

    @property
    def fits(self) -> bool:
        return self.verdict != "does not fit"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.card.name,
            "bytes": self.card.memory,
            "used": self.card.used,
            "fits": self.fits,
            "verdict": self.verdict,
            "largest_batch": self.largest_batch,
            "longest": self.longest,
            "changes": [row.to_json() for row in self.changes],
        }


@dataclass(frozen=True)
class MemoryCheck:
    """One config's estimate and the cards."""

    config: str
    shapes: Shapes
    purpose: str
    stack: str
    method: str
    setup: Setup
    estimate: Estimate
    cards: list[Fit]
    advice: list[Advice]
    plan: Plan
    at_batch: Callable[[int], Estimate]
    grid: dict[int, dict[int, int]] | None = None
    grid_card: Card | None = None
    data: DataLengths | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fits_any(self) -> bool:
        """Whether it fits this machine's own card, or, if there is none in the list, any card."""
        own = [fit for fit in self.cards if fit.card.here]
        return any(fit.fits for fit in own or self.cards)

    @property
    def batch(self) -> int | None:
        """Rows at a time; None for a merge."""
        return None if self.purpose == "merge" else self.setup.batch

    def batches(self) -> dict[int, Estimate]:
        """The estimate at several batch sizes, for a plot.

        Raises:
            UsageError: A merge has no batch.
        """
        if self.batch is None:
            raise UsageError("--plot draws components by batch, and a merge has no batch", hint="leave --plot out")
        return {batch: self.at_batch(batch) for batch in sorted({1, 2, 4, self.batch, max(4, 2 * self.batch)})}

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "model": self.shapes.name,
            "purpose": self.purpose,
            "stack": self.stack,
            "method": self.method,
            "batch": self.batch,
            "max_length": self.setup.length,
            "total_bytes": self.estimate.total,
            "at_least": bool(self.estimate.unknown),
            "unknown": list(self.estimate.unknown),
            "nearest": self.estimate.nearest,
            "sizes": self.shapes.source,
            "phase": self.estimate.phase,
            "phases": self.estimate.phases,
            "components": self.estimate.components,
            "parameters": {"total": self.estimate.parameters, "trainable": self.estimate.trainable},
            "cards": [fit.to_json() for fit in self.cards],
            "advice": [dataclasses.asdict(change) for change in self.advice],
            "grid": self.grid,
            "grid_card": self.grid_card and self.grid_card.name,
            "data": self.data and self.data.to_json(),
            "plan": self.plan.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """The command-line options of an estimate.

    Attributes:
        gpus: Names or sizes; if empty, this machine's GPUs and one card of each usual size. For work on a CPU, this
            machine's main memory is used by default.
        stack: Whose training code (see `memory.setup`).
        devices: GPUs that train together.
        with_data: Encode the config's training rows and use their real lengths.
        batch: Rows at a time; by default the config's for training, one for generation.
    """

    gpus: tuple[str, ...] = ()
    stack: Stack = "slds"
    purpose: Purpose = "train"
    devices: int = 1
    with_grid: bool = False
    with_data: bool = False
    batch: int | None = None


def check_memory(config: Config, options: MemoryOptions) -> MemoryCheck:
    """Estimate a config's peak and compare it with cards.

    Raises:
        ConfigError: The model's sizes are unknown, or settings conflict or are absurd.
        UsageError: A card is unknown.
        DataError: There are no rows to measure.
    """
    training = options.purpose == "train"
    rows = options.batch or (config.settings.per_device_train_batch_size if training else 1)
    settings = config.settings.model_copy(update={"per_device_train_batch_size": rows})
    _refuse_absurd(settings, config)
    shapes = shapes_for(config)
    machine = detect()
    cards = [card(text) for text in options.gpus] or _cards(machine, settings, options)
    data = None
    if options.with_data and training:
        data = lengths_of_rows(config, settings, shapes, _Step(cards[0], settings, shapes, options, machine).setup_for)
        settings = settings.model_copy(update={"max_length": data.longest})
    labels = data.labels if data else None
    steps = [_Step(card, settings, shapes, options, machine, labels) for card in cards]
    fits = [step.fit(rows) for step in steps]
    first = steps[0]
    return MemoryCheck(
        str(config.path),
        shapes,
        options.purpose,
        options.stack,
        method_of(settings, first.setup.quantization != "none"),
        first.setup,
        first.needed(rows),
        fits,
        advice(shapes, settings, first.setup_for) if training else [],
        first.plan,
        first.needed,
        grid(first.peak) if options.with_grid and training else None,
        _grid_card(fits, chosen=bool(options.gpus)),
        data,
        tuple(filter(None, [length_warning(config.settings.max_length, shapes.positions)])),
    )


@dataclass(frozen=True)
class _Step:
    """What a config needs on one card."""

    card: Card
    settings: Settings
    shapes: Shapes
    options: MemoryOptions
    machine: Machine
    labels: int | None = None  # of a row, if rows are available

    @cached_property
    def plan(self) -> Plan:
        return self._plan_of(self.settings)

    @cached_property
    def setup(self) -> Setup:
        return self.setup_for(self.settings)

    def _plan_of(self, settings: Settings) -> Plan:
        machine = _machine_with(self.card, self.machine)
        return resolve(settings, machine, self.shapes.model_type, stored=self.shapes.quantized)

    def setup_for(self, settings: Settings) -> Setup:
        """The setup for settings on this card. Other stacks follow the config, whatever the card."""
        stack = self.options.stack
        applied = self._plan_of(settings).applied(settings) if stack == "slds" else settings
        return setup_of(applied, self.shapes, stack, self.options.devices, labels=self.labels)

    def peak(self, rows: int, length: int) -> int:
        """Bytes of a training step with `rows` rows of `length` tokens."""
        return self._training(rows, length).total

    def _training(self, rows: int, length: int) -> Estimate:
        keys = {"per_device_train_batch_size": rows, "max_length": length}
        return estimate(self.shapes, self.setup_for(self.settings.model_copy(update=keys)))

    def needed(self, rows: int) -> Estimate:
        """What the purpose needs with `rows` rows at a time."""
        if self.options.purpose == "merge":
            return merging(self.shapes, self.setup, self.card.memory - self.card.used)
        if self.options.purpose == "generate":
            return generation(self.shapes, self.setup, rows)
        return self._training(rows, self.setup.length)

    def fit(self, rows: int) -> Fit:
        """Whether it fits, and the largest batch and length that would."""
        budget, purpose = self.card.usable, self.options.purpose
        most = length = 0
        if purpose == "train":
            most = largest_batch(self.peak, self.setup.length, budget)
            length = longest(self.peak, rows, budget)
        elif purpose == "generate":
            most = largest(lambda rows: self.needed(rows).total <= budget, MOST_ROWS)
        changes = tuple(row for row in self.plan.changes() if row.setting in DECIDING) if purpose != "merge" else ()
        return Fit(self.card, self.card.verdict(self.needed(rows).total), most, length, changes)


def _machine_with(card: Card, machine: Machine) -> Machine:
    """A machine with only this card: this machine, or one with the `gpu` extra installed."""
    if card.capability is None:
        return dataclasses.replace(machine, gpus=())
    gpus = (Gpu(card.name.removesuffix(HERE), card.capability, card.memory, card.used),)
    if card.here:
        return dataclasses.replace(machine, gpus=gpus)
    return Machine(gpus, frozenset(PACKAGES), "g++", machine.cores, machine.memory)


def _refuse_absurd(settings: Settings, config: Config) -> None:
    for key, most in MOST.items():
        value = getattr(settings, key)
        if value is not None and value > most:
            hint = f"estimates go up to {most:,}"
            raise ConfigError(f"`{key}: {value}` is more than any GPU could hold", config.where(key), hint)


def _grid_card(fits: Sequence[Fit], chosen: bool) -> Card:
    """The card for the grid's colours: the first named one, this machine's, else the smallest that fits."""
    if chosen or fits[0].card.here:
        return fits[0].card
    return next((fit.card for fit in fits if fit.fits), fits[-1].card)


def shapes_for(config: Config) -> Shapes:
    """The sizes of a config's model.

    Raises:
        ConfigError: No model is named, its sizes are unknown, or `model_class` does not load it.
    """
    name = config.settings.model_name_or_path
    if not name:
        raise ConfigError("`model_name_or_path` is not set", str(config.path))
    shapes = shapes_of(name, config.locate(name))
    if config.settings.model_class == "AutoModelForImageTextToText" and not shapes.is_image_text:
        where = config.where("model_class")
        raise wrong_class(config.settings.model_class, "AutoModelForCausalLM", name, shapes.model_type, where)
    return shapes


def _cards(machine: Machine, settings: Settings, options: MemoryOptions) -> list[Card]:
    """This machine's GPUs, with the memory used by other programs, and the usual cards. Main memory for work on the
    CPU, and for training without a GPU."""
    free = available_memory()
    memory = max(machine.memory, free)  # 0 if unknown
    main = [Card(f"main memory{HERE}", memory, memory - free, here=True, capability=None)] if memory else []
    if settings.use_cpu or options.purpose == "merge":
        return main or usual_cards()
    own = [Card(f"{gpu.name}{HERE}", gpu.memory, gpu.used, True, gpu.capability) for gpu in machine.gpus]
    is_asked = options.purpose == "train" and options.stack == "slds" and not own
    here = [dataclasses.replace(card, name="this CPU", here=False) for card in main if is_asked]
    return [*own, *usual_cards(), *here]


def method_of(settings: Settings, is_quantized: bool) -> str:
    """`QLoRA r=32`, `LoRA r=16` or `full fine-tuning`."""
    if not settings.use_peft:
        return "full fine-tuning"
    return f"{'Q' if is_quantized else ''}LoRA r={settings.lora_r}"
