"""`slds check-memory`: the peak of a training step, before a GPU is rented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headnote_cli.config import Config
from headnote_cli.errors import ConfigError
from headnote_cli.hardware import Plan, detect, resolve
from headnote_cli.memory.cards import Card, card, usual_cards
from headnote_cli.memory.estimate import Estimate, estimate, largest_batch, sequence_length
from headnote_cli.memory.shapes import Shapes, shapes_of


@dataclass(frozen=True)
class Fit:
    """A card and what fits on it."""

    card: Card
    fits: bool
    largest_batch: int

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.card.name,
            "bytes": self.card.memory,
            "fits": self.fits,
            "largest_batch": self.largest_batch,
        }


@dataclass(frozen=True)
class MemoryCheck:
    """One config's estimate against cards."""

    config: str
    shapes: Shapes
    method: str
    batch: int
    max_length: int
    estimate: Estimate
    cards: list[Fit]
    plan: Plan

    @property
    def fits_any(self) -> bool:
        return any(fit.fits for fit in self.cards)

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "model": self.shapes.name,
            "method": self.method,
            "batch": self.batch,
            "max_length": self.max_length,
            "total_bytes": self.estimate.total,
            "phase": self.estimate.phase,
            "components": self.estimate.components,
            "parameters": {"total": self.estimate.parameters, "trainable": self.estimate.trainable},
            "cards": [fit.to_json() for fit in self.cards],
            "plan": self.plan.rows(),
        }


def check_memory(config: Config, gpus: list[str]) -> MemoryCheck:
    """Estimate a config's peak and hold it against cards.

    Args:
        gpus: Names or sizes; without any, this machine's own GPU and one card of each usual size.

    Raises:
        ConfigError: The model's sizes are not known.
        UsageError: A card is not known.
    """
    settings = config.settings
    if not settings.model_name_or_path:
        raise ConfigError("`model_name_or_path` is not set", str(config.path))
    shapes = shapes_of(settings.model_name_or_path, config.locate(settings.model_name_or_path))
    machine = detect()
    own = [Card(f"{gpu.name} (here)", gpu.memory - gpu.used) for gpu in machine.gpus]
    cards = [card(text) for text in gpus] or own + usual_cards()
    result = estimate(shapes, settings)
    fits = [Fit(c, result.total <= c.usable, largest_batch(shapes, settings, c.usable)) for c in cards]
    return MemoryCheck(
        str(config.path),
        shapes,
        method_of(config),
        settings.per_device_train_batch_size,
        sequence_length(settings),
        result,
        fits,
        resolve(settings, machine, "gemma3" if shapes.family == "gemma" else shapes.family),
    )


def method_of(config: Config) -> str:
    """`QLoRA r=32`, `LoRA r=16` or `full fine-tuning`."""
    settings = config.settings
    if not settings.use_peft:
        return "full fine-tuning"
    quantized = settings.load_in_4bit or settings.load_in_8bit
    return f"{'Q' if quantized else ''}LoRA r={settings.lora_r}"
