"""`slds check-memory`: the peak of a training step, before a GPU is rented."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from headnote_cli.config.keys import Settings
from headnote_cli.config.layers import Config
from headnote_cli.errors import ConfigError, DataError, UsageError
from headnote_cli.machine.detect import PACKAGES, Gpu, Machine, detect
from headnote_cli.machine.memory import available_memory
from headnote_cli.machine.plan import Plan, PlanRow, resolve
from headnote_cli.memory import Purpose, Stack
from headnote_cli.memory.advice import (
    MOST_ROWS,
    Advice,
    Peak,
    SetupFor,
    advice,
    grid,
    largest,
    largest_batch,
    longest,
    peaks,
    with_batch,
)
from headnote_cli.memory.cards import Card, card, usual_cards
from headnote_cli.memory.estimate import Estimate, estimate
from headnote_cli.memory.inference import generation, merging
from headnote_cli.memory.setup import DEFAULT_LENGTH, Setup, setup_of
from headnote_cli.memory.shapes import Shapes, shapes_of
from headnote_cli.models.fit import length_warning, wrong_class

HERE = " (here)"
# What of a plan decides how much memory a step takes.
DECIDING = ("dtype", "fp16", "attn_implementation", "use_liger_kernel", "optim", "quantization")
MOST = {"per_device_train_batch_size": 65_536, "max_length": 10_485_760}  # ten million tokens: Llama 4's longest


@dataclass(frozen=True)
class Fit:
    """A card and what fits on it; the largest length is of training, the largest batch of generating too."""

    card: Card
    verdict: str
    largest_batch: int
    longest: int
    changes: tuple[PlanRow[Any], ...] = ()  # what the card does otherwise than asked, as far as memory goes

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
class DataLengths:
    """What the rows at hand need: the peak of the batch with the longest row, and the mean over an epoch's time."""

    rows: int
    longest: int
    labels: int  # most labelled tokens of a row
    mean_peak: int
    cut: dict[int, float]  # share of rows that a shorter `max_length` would cut
    rows_cut: int = 0
    rows_dropped: int = 0
    lines: list[str] = field(default_factory=list)  # what every command says about rows that it reads

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "lines"}


@dataclass(frozen=True)
class MemoryCheck:
    """One config's estimate against cards."""

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
        """Whether it fits this machine's own card; any of those that were named, or where it has none."""
        own = [fit for fit in self.cards if fit.card.here]
        return any(fit.fits for fit in own or self.cards)

    @property
    def batch(self) -> int | None:
        """Rows at a time; a merge has none."""
        return None if self.purpose == "merge" else self.setup.batch

    def batches(self) -> dict[int, Estimate]:
        """The estimate at other batches, for a picture.

        Raises:
            UsageError: A merge, which has none.
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
    """What is asked of an estimate beside the config.

    Attributes:
        gpus: Names or sizes; without any, this machine's own GPU and one card of each usual size. What a CPU does is
            held against this machine's main memory, or these.
        stack: Whose training code (see `memory.setup`).
        devices: GPUs that train together.
        with_data: Encode the config's training rows and take their real lengths.
        batch: Rows at a time: of a training step in place of the config's, of generation in place of one.
    """

    gpus: tuple[str, ...] = ()
    stack: Stack = "slds"
    purpose: Purpose = "train"
    devices: int = 1
    with_grid: bool = False
    with_data: bool = False
    batch: int | None = None


def check_memory(config: Config, options: MemoryOptions) -> MemoryCheck:
    """Estimate a config's peak and hold it against cards.

    Raises:
        ConfigError: The model's sizes are not known, settings cannot go together or are absurd.
        UsageError: A card is not known.
        DataError: No row is there to take lengths of.
    """
    stack, purpose, devices = options.stack, options.purpose, options.devices
    training = purpose == "train"
    rows = options.batch or (config.settings.per_device_train_batch_size if training else 1)
    settings = config.settings.model_copy(update={"per_device_train_batch_size": rows})
    _refuse_absurd(settings, config)
    shapes = shapes_for(config)
    machine = detect()
    setup_for: SetupFor = partial(setup_of, shapes=shapes, stack=stack, devices=devices)
    cards = [card(text) for text in options.gpus] or _cards(machine, settings, purpose, stack)
    data = None
    if options.with_data and training:
        first = _step(cards[0], settings, shapes, stack, setup_for, machine)
        data = _lengths(config, settings, shapes, first.setup_for)
        settings = settings.model_copy(update={"max_length": data.longest})
        setup_for = partial(setup_of, shapes=shapes, stack=stack, devices=devices, labels=data.labels)
    steps = [_step(one, settings, shapes, stack, setup_for, machine) for one in cards]
    fits = [_fit(one, step, shapes, purpose, rows) for one, step in zip(cards, steps, strict=True)]
    first = steps[0]
    return MemoryCheck(
        str(config.path),
        shapes,
        purpose,
        stack,
        method_of(settings, first.setup.quantization != "none"),
        first.setup,
        _needed(cards[0], first, shapes, purpose, rows),
        fits,
        advice(shapes, settings, first.setup_for) if training else [],
        first.plan,
        lambda rows: _needed(cards[0], first, shapes, purpose, rows),
        grid(first.peak) if options.with_grid and training else None,
        _grid_card(fits, chosen=bool(options.gpus)),
        data,
        tuple(filter(None, [length_warning(config.settings.max_length, shapes.positions)])),
    )


@dataclass(frozen=True)
class _Step:
    """What slds would do on one card: of the config as asked, and of changes to it."""

    plan: Plan
    setup: Setup
    setup_for: SetupFor
    estimate_at: Callable[[int], Estimate]  # by batch
    peak: Peak


def _step(one: Card, settings: Settings, shapes: Shapes, stack: str, setup_for: SetupFor, machine: Machine) -> _Step:
    """What a config comes to on a card. Other stacks do what the config says, whatever the card."""
    with_card = _machine_with(one, machine)

    def resolved(asked: Settings) -> Plan:
        return resolve(asked, with_card, shapes.model_type, stored=shapes.quantized)

    def setup_here(asked: Settings) -> Setup:
        return setup_for(resolved(asked).applied(asked) if stack == "slds" else asked)

    def at(rows: int) -> Estimate:
        return estimate(shapes, with_batch(settings, rows, settings.max_length or DEFAULT_LENGTH, setup_here))

    return _Step(resolved(settings), setup_here(settings), setup_here, at, peaks(shapes, settings, setup_here))


def _machine_with(one: Card, machine: Machine) -> Machine:
    """A machine whose only GPU is this card: this one, or one on which the `gpu` extra is installed."""
    if one.capability is None:
        return dataclasses.replace(machine, gpus=())
    gpus = (Gpu(one.name.removesuffix(HERE), one.capability, one.memory, one.used),)
    if one.here:
        return dataclasses.replace(machine, gpus=gpus)
    return Machine(gpus, frozenset(PACKAGES), "g++", machine.cores, machine.memory)


def _needed(one: Card, step: _Step, shapes: Shapes, purpose: str, rows: int) -> Estimate:
    if purpose == "merge":
        return merging(shapes, step.setup, one.memory - one.used)
    return step.estimate_at(rows) if purpose == "train" else generation(shapes, step.setup, rows)


def _fit(one: Card, step: _Step, shapes: Shapes, purpose: str, rows: int) -> Fit:
    """Whether it fits on a card, and the most that would."""
    most = length = 0
    if purpose == "train":
        most = largest_batch(step.peak, step.setup.length, one.usable)
        length = longest(step.peak, rows, one.usable)
    elif purpose == "generate":
        most = largest(lambda rows: generation(shapes, step.setup, rows).total <= one.usable, MOST_ROWS)
    changes = tuple(row for row in step.plan.changes() if row.setting in DECIDING) if purpose != "merge" else ()
    return Fit(one, one.verdict(_needed(one, step, shapes, purpose, rows).total), most, length, changes)


def _refuse_absurd(settings: Settings, config: Config) -> None:
    for key, most in MOST.items():
        value = getattr(settings, key)
        if value is not None and value > most:
            hint = f"estimates go up to {most:,}"
            raise ConfigError(f"`{key}: {value}` is more than any GPU could hold", config.where(key), hint)


def _grid_card(fits: Sequence[Fit], chosen: bool) -> Card:
    """The card to colour a grid by: the first one named, this machine's own, else the smallest that fits."""
    if chosen or fits[0].card.here:
        return fits[0].card
    return next((fit.card for fit in fits if fit.fits), fits[-1].card)


def shapes_for(config: Config) -> Shapes:
    """The sizes of a config's model.

    Raises:
        ConfigError: No model is named, its sizes are not known, or `model_class` does not load it.
    """
    name = config.settings.model_name_or_path
    if not name:
        raise ConfigError("`model_name_or_path` is not set", str(config.path))
    shapes = shapes_of(name, config.locate(name))
    if config.settings.model_class == "AutoModelForImageTextToText" and not shapes.is_image_text:
        where = config.where("model_class")
        raise wrong_class(config.settings.model_class, "AutoModelForCausalLM", name, shapes.model_type, where)
    return shapes


def _cards(machine: Machine, settings: Settings, purpose: str, stack: str) -> list[Card]:
    """This machine's GPUs, with what other programs hold of them, and the usual ones; its main memory for what a CPU
    does, and for what would be trained here where there is no GPU."""
    free = available_memory()
    memory = max(machine.memory, free)  # 0 where the system does not say
    main = [Card(f"main memory{HERE}", memory, memory - free, here=True, capability=None)] if memory else []
    if settings.use_cpu or purpose == "merge":
        return main or usual_cards()
    own = [Card(f"{gpu.name}{HERE}", gpu.memory, gpu.used, True, gpu.capability) for gpu in machine.gpus]
    is_asked = purpose == "train" and stack == "slds" and not own
    here = [dataclasses.replace(one, name="this CPU", here=False) for one in main if is_asked]
    return [*own, *usual_cards(), *here]


def _lengths(config: Config, settings: Settings, shapes: Shapes, setup_for: SetupFor) -> DataLengths:
    """What the rows' lengths mean, in batches as training makes them.

    Raises:
        DataError: There is no row.
    """
    lengths, labels, summary, lines = _row_lengths(config)
    if not lengths:
        hint = "raise `max_length`, or set `overflow: structure`" if summary["rows"] else None
        raise DataError("no row is left whose length could be taken", str(settings.dataset_name), hint)
    batch, limit = settings.per_device_train_batch_size, max(lengths)
    order = _training_order(lengths, settings)
    peaks: dict[tuple[int, int], int] = {}
    weighted = tokens = 0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        # To 64 tokens: enough for a mean, and few different estimates.
        length, label = (min(limit, -(-max(of[row] for row in rows) // 64) * 64) for of in (lengths, labels))
        if (length, label) not in peaks:
            changed = settings.model_copy(update={"max_length": length})
            peaks[length, label] = estimate(shapes, dataclasses.replace(setup_for(changed), labels=label)).total
        weighted += peaks[length, label] * length
        tokens += length
    return DataLengths(
        len(lengths),
        limit,
        max(labels),
        weighted // tokens,
        {limit // part: sum(length > limit // part for length in lengths) / len(lengths) for part in (2, 4)},
        summary["rows_cut"],
        summary["rows_dropped"],
        lines,
    )


def _training_order(lengths: list[int], settings: Settings) -> list[int]:
    """The order of the first epoch: rows of like length together, unless the config says otherwise."""
    if settings.train_sampling_strategy != "group_by_length" and "train_sampling_strategy" in settings.model_fields_set:
        order = list(range(len(lengths)))
        random.Random(settings.seed).shuffle(order)
        return order
    from headnote_cli.data.batches import GroupedByLength

    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return list(GroupedByLength(lengths, batch, settings.data_seed or settings.seed))


def _row_lengths(config: Config) -> tuple[list[int], list[int], dict[str, Any], list[str]]:
    """Tokens of each training row, how many of them are labelled, and what preparing did to the rows."""
    from headnote_cli.data.encoding import encoder_for
    from headnote_cli.data.lengths import lengths_lines
    from headnote_cli.data.preparation import lengths_of, prepare
    from headnote_cli.data.prompts import PromptTemplates
    from headnote_cli.data.sources import load_split
    from headnote_cli.models.base import base_model, load_tokenizer

    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder = encoder_for(config, templates, load_tokenizer(base_model(config), config))
    rows = load_split(config, "train")
    prepared = prepare(rows, encoder, detect().cores)
    lines = [*rows.notes, *lengths_lines(rows, prepared.summary, prepared.cached)]
    return *lengths_of(prepared.dataset), prepared.summary, lines


def method_of(settings: Settings, is_quantized: bool) -> str:
    """`QLoRA r=32`, `LoRA r=16` or `full fine-tuning`."""
    if not settings.use_peft:
        return "full fine-tuning"
    return f"{'Q' if is_quantized else ''}LoRA r={settings.lora_r}"
