"""Detect a lost run by its loss: NaN, infinite, far worse than a random guess, or far above its earlier values."""

from __future__ import annotations

import math

CHANCES = 3.0  # times the loss of a random guess: hopeless from the first batch
JUMP = 4.0  # times the running mean, and worse than a random guess: the last update broke the model
DRIFT = 3.0  # times the lowest running mean, and half way to a random guess: what was learned is lost
WARM_UP = 20  # batches before the running mean is trusted
WEIGHT = 0.1  # of a new loss in the running mean, which covers about ten batches


class LossWatch:
    """Watches the mean token loss of batches.

    Losses of single real batches are between a third and three times the running mean, and never near that of a random
    guess, `ln(vocabulary)`. So a fault needs both: a loss far from the run's own and far from a trained model's.
    """

    def __init__(self, chance: float) -> None:
        self.chance = chance
        self.mean = 0.0
        self.lowest = math.inf
        self.seen = 0

    def fault(self, loss: float) -> str | None:
        """What is wrong with the next batch's loss, or None."""
        if not math.isfinite(loss):
            return "the loss is not a finite number"
        if loss > CHANCES * self.chance:
            return f"the loss is {loss:.1f}; blind guessing would give {self.chance:.1f}"
        if self.seen >= WARM_UP and loss > max(self.chance, JUMP * self.mean):
            return f"the loss jumped to {loss:.1f} from a running mean of {self.mean:.2f}"
        self._remember(loss)
        if self.seen >= WARM_UP and self.mean > max(self.chance / 2, DRIFT * self.lowest):
            return f"the running mean of the loss rose to {self.mean:.2f}; it had been {self.lowest:.2f}"
        return None

    def _remember(self, loss: float) -> None:
        self.seen += 1
        weight = max(WEIGHT, 1 / self.seen)  # first the plain mean
        self.mean += weight * (loss - self.mean)
        if self.seen >= WARM_UP:
            self.lowest = min(self.lowest, self.mean)
