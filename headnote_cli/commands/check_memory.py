"""`slds check-memory`: the peak of a training step, before a GPU is rented."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headnote_cli.config import Config, Settings
from headnote_cli.errors import ConfigError
from headnote_cli.hardware import Machine, Plan, detect, resolve
from headnote_cli.memory.advice import Change, advice, grid, largest_batch, longest
from headnote_cli.memory.cards import Card, card, usual_cards
from headnote_cli.memory.estimate import Estimate, estimate
from headnote_cli.memory.inference import generation, merging
from headnote_cli.memory.setup import Setup, setup_of
from headnote_cli.memory.shapes import Shapes, shapes_of

PURPOSES = ("train", "generate", "merge")


@dataclass(frozen=True)
class Fit:
    """A card and what fits on it; the largest batch and length are of training."""

    card: Card
    verdict: str
    largest_batch: int
    longest: int

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
        }


@dataclass(frozen=True)
class DataLengths:
    """What the rows at hand need: the peak of the batch with the longest row, and the mean over an epoch's time."""

    rows: int
    longest: int
    mean_peak: int
    cut: dict[int, float]  # share of rows that a shorter `max_length` would cut

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


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
    advice: list[Change]
    plan: Plan
    grid: dict[int, dict[int, int]] | None = None
    data: DataLengths | None = None

    @property
    def fits_any(self) -> bool:
        return any(fit.fits for fit in self.cards)

    def batches(self) -> dict[int, Estimate]:
        """The estimate at other batches, for a picture."""
        largest_shown = max(4, 2 * self.setup.batch)
        return {
            batch: estimate(self.shapes, dataclasses.replace(self.setup, batch=batch))
            for batch in sorted({1, 2, 4, self.setup.batch, largest_shown})
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "model": self.shapes.name,
            "purpose": self.purpose,
            "stack": self.stack,
            "method": self.method,
            "batch": self.setup.batch,
            "max_length": self.setup.length,
            "total_bytes": self.estimate.total,
            "at_least": bool(self.estimate.unknown),
            "unknown": list(self.estimate.unknown),
            "phase": self.estimate.phase,
            "phases": self.estimate.phases,
            "components": self.estimate.components,
            "parameters": {"total": self.estimate.parameters, "trainable": self.estimate.trainable},
            "cards": [fit.to_json() for fit in self.cards],
            "advice": [dataclasses.asdict(change) for change in self.advice],
            "grid": self.grid,
            "data": self.data and self.data.to_json(),
            "plan": self.plan.rows(),
        }


def check_memory(
    config: Config,
    gpus: Sequence[str] = (),
    stack: str = "slds",
    purpose: str = "train",
    devices: int = 1,
    with_grid: bool = False,
    with_data: bool = False,
) -> MemoryCheck:
    """Estimate a config's peak and hold it against cards.

    Args:
        gpus: Names or sizes; without any, this machine's own GPU and one card of each usual size.
        stack: Whose training code: `slds`, `trl` or `workshop` (see `memory.setup`).
        with_data: Encode the config's training rows and take their real lengths.

    Raises:
        ConfigError: The model's sizes are not known, or settings cannot go together.
        UsageError: A card is not known.
    """
    settings = config.settings
    shapes = shapes_for(config)
    machine = detect()
    data = None
    if with_data and purpose == "train":
        settings, data = _with_lengths(config, shapes, stack, devices)
    setup = setup_of(settings, shapes, stack, devices)
    result = _estimated(shapes, setup, purpose, settings)
    cards = [card(text) for text in gpus] or _own_cards(machine, settings, purpose) + usual_cards()
    training = purpose == "train"
    fits = [
        Fit(
            one,
            one.verdict(result.total),
            largest_batch(shapes, settings, one.usable, stack, devices) if training else 0,
            longest(shapes, settings, one.usable, stack, devices) if training else 0,
        )
        for one in cards
    ]
    return MemoryCheck(
        str(config.path),
        shapes,
        purpose,
        stack,
        method_of(settings, stack),
        setup,
        result,
        fits,
        advice(shapes, settings, stack, devices) if training else [],
        resolve(settings, machine, shapes.model_type),
        grid(shapes, settings, stack, devices) if with_grid and training else None,
        data,
    )


def shapes_for(config: Config) -> Shapes:
    """The sizes of a config's model.

    Raises:
        ConfigError: No model is named, or its sizes are not known.
    """
    name = config.settings.model_name_or_path
    if not name:
        raise ConfigError("`model_name_or_path` is not set", str(config.path))
    return shapes_of(name, config.locate(name))


def _estimated(shapes: Shapes, setup: Setup, purpose: str, settings: Settings) -> Estimate:
    if purpose == "generate":
        return generation(shapes, setup, settings.per_device_eval_batch_size or 1)
    return merging(shapes, setup) if purpose == "merge" else estimate(shapes, setup)


def _own_cards(machine: Machine, settings: Settings, purpose: str) -> list[Card]:
    """This machine's GPUs, with what other programs hold of them; its main memory for what a CPU does."""
    if settings.use_cpu or purpose == "merge":
        return [Card("main memory (here)", machine.memory)] if machine.memory else []
    return [Card(f"{gpu.name} (here)", gpu.memory, gpu.used) for gpu in machine.gpus]


def _with_lengths(config: Config, shapes: Shapes, stack: str, devices: int) -> tuple[Settings, DataLengths]:
    """The settings with the longest row as `max_length`, and what the rows' lengths mean."""
    lengths, labels = _row_lengths(config)
    settings, limit = config.settings, max(lengths)
    batch = settings.per_device_train_batch_size
    longest_row = settings.model_copy(update={"max_length": limit})
    order = list(range(len(lengths)))
    random.Random(settings.seed).shuffle(order)
    peaks: dict[tuple[int, int], int] = {}
    weighted = tokens = 0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        # To 64 tokens: enough for a mean, and few different estimates.
        length = -(-max(lengths[row] for row in rows) // 64) * 64
        label = -(-max(labels[row] for row in rows) // 64) * 64
        if (length, label) not in peaks:
            setup = setup_of(settings.model_copy(update={"max_length": length}), shapes, stack, devices)
            peaks[length, label] = estimate(shapes, dataclasses.replace(setup, labels=min(label, length))).total
        weighted += peaks[length, label] * length
        tokens += length
    cut = {limit // part: sum(length > limit // part for length in lengths) / len(lengths) for part in (2, 4)}
    return longest_row, DataLengths(len(lengths), limit, weighted // tokens, cut)


def _row_lengths(config: Config) -> tuple[list[int], list[int]]:
    """Tokens of each training row, and how many of them are labelled."""
    from headnote_cli.commands.rows import encoder_for
    from headnote_cli.data import load_split
    from headnote_cli.engine.base import base_model, load_tokenizer
    from headnote_cli.engine.preparation import lengths_of, prepare
    from headnote_cli.prompts import PromptTemplates

    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder = encoder_for(config, templates, load_tokenizer(base_model(config), config))
    return lengths_of(prepare(load_split(config, "train"), encoder, detect().cores).dataset)


def method_of(settings: Settings, stack: str = "slds") -> str:
    """`QLoRA r=32`, `LoRA r=16` or `full fine-tuning`."""
    if not settings.use_peft:
        return "full fine-tuning"
    quantized = (settings.load_in_4bit or settings.load_in_8bit) and stack != "workshop"
    return f"{'Q' if quantized else ''}LoRA r={settings.lora_r}"
