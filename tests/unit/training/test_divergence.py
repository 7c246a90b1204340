"""What a run's losses may do, and what ends it."""

from __future__ import annotations

import math
import random

import pytest

from headnote_cli.training.divergence import WARM_UP, LossWatch

CHANCE = math.log(262_208)


def watched(*losses: float) -> LossWatch:
    watch = LossWatch(CHANCE)
    for loss in losses:
        assert watch.fault(loss) is None
    return watch


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run(loss: float) -> None:
    assert LossWatch(CHANCE).fault(loss) == "the loss is not a finite number"


def test_a_hopeless_loss_ends_the_run_from_the_first_batch_on() -> None:
    assert "blind guessing" in str(LossWatch(CHANCE).fault(3.1 * CHANCE))
    assert LossWatch(CHANCE).fault(1.2 * CHANCE) is None, "a random model begins near a blind guess"


def test_a_jump_beyond_a_blind_guess_ends_a_run_that_had_learnt() -> None:
    watch = watched(*[1.5] * WARM_UP)
    assert "jumped to 13.0 from a running mean of 1.50" in str(watch.fault(13.0))


def test_one_hard_batch_does_not() -> None:
    watched(*[1.5] * WARM_UP, 9.0, 1.5, 11.0, 1.4)


def test_a_mean_that_creeps_away_ends_the_run() -> None:
    watch = watched(*[1.5] * WARM_UP)
    faults = [watch.fault(8.0) for _ in range(40)]
    assert any("it had been 1.5" in str(fault) for fault in faults)


def test_a_random_model_that_learns_nothing_is_not_stopped() -> None:
    dice = random.Random(0)
    watched(*[dice.gauss(CHANCE, 0.5) for _ in range(500)])


@pytest.mark.parametrize("seed", range(20))
def test_the_noise_of_small_batches_ends_no_run(seed: int) -> None:
    """A falling curve with single batches between a third and three times it."""
    dice = random.Random(seed)
    watched(*[(0.3 + 4.0 * math.exp(-step / 50)) * math.exp(dice.gauss(0, 0.4)) for step in range(1000)])
