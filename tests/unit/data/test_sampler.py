"""The order in which rows are trained on."""

from __future__ import annotations

import itertools
import random

import pytest

from headnote_cli.data.batches import GroupedByLength

BATCH = 4


def lengths(rows: int = 1003) -> list[int]:
    dice = random.Random(0)
    return [min(8192, dice.randrange(500, 12_000)) for _ in range(rows)]


def batches(sampler: GroupedByLength) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + sampler.batch] for start in range(0, len(order), sampler.batch)]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 16, 64, 1003])
def test_each_row_comes_once_and_every_batch_but_the_last_is_full(rows: int) -> None:
    sampler = GroupedByLength(lengths(rows), BATCH, seed=1)
    found = batches(sampler)
    assert sorted(row for batch in found for row in batch) == list(range(rows))
    assert [len(batch) for batch in found[:-1]] == [BATCH] * (len(found) - 1)
    assert len(found) == -(-rows // BATCH), "as many steps as any order has"


def test_batches_hold_rows_of_like_length() -> None:
    rows = lengths()
    spread = [
        max(rows[i] for i in batch) - min(rows[i] for i in batch) for batch in batches(GroupedByLength(rows, 4, 1))
    ]
    assert sorted(spread)[len(spread) // 2] < 400, "of 7,700 between the shortest and the longest"
    padded = sum(max(rows[i] for i in batch) * len(batch) for batch in batches(GroupedByLength(rows, 4, 1)))
    assert padded < 1.05 * sum(rows)


def test_the_order_of_batches_is_random_and_the_longest_comes_first() -> None:
    rows = lengths()
    longest = [max(rows[i] for i in batch) for batch in batches(GroupedByLength(rows, BATCH, 1))]
    assert longest[0] == max(rows)
    falls = sum(after < before for before, after in itertools.pairwise(longest))
    assert 0.35 < falls / len(longest) < 0.6, "as often shorter as longer, and not from long to short"
    first, second = longest[1 : len(longest) // 2], longest[len(longest) // 2 :]
    assert abs(sum(first) / len(first) - sum(second) / len(second)) < 600
    at_the_limit = [index for index, length in enumerate(longest) if length == 8192]
    assert at_the_limit[-1] > 0.9 * len(longest), "the many rows at the limit are not all first"


def test_seed_and_epoch_alone_decide() -> None:
    rows = lengths()
    sampler, again = GroupedByLength(rows, BATCH, seed=1), GroupedByLength(rows, BATCH, seed=1)
    assert list(sampler) == list(sampler) == list(again)
    sampler.set_epoch(1)
    assert list(sampler) != list(again)
    again.set_epoch(1)
    assert list(sampler) == list(again)
    assert list(GroupedByLength(rows, BATCH, seed=2)) != list(GroupedByLength(rows, BATCH, seed=1))
