"""Group rows of similar length into batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

MEGA_BATCH = 50  # batches sorted by length together, as in transformers


class GroupedByLength(Sampler[int]):  # type: ignore[misc]
    """Rows of similar length together, in batches of random order, the longest batch first.

    Like transformers' `group_by_length`, with three differences. It sorts 50 batches from long to short, which shows in
    the loss; here whole batches are shuffled. It draws from the global random state, so a run resumed in its second
    epoch would see other batches; here only seed and epoch matter. The longest batch comes first, so a lack of memory
    shows immediately. A last batch with fewer rows stays last, so every step has its full number of rows.

    Args:
        lengths: Tokens of each row.
        batch: Rows of one optimizer step, over all processes and accumulated batches.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        dice = torch.Generator().manual_seed(self.seed + self.epoch)
        batches = self._batches(torch.randperm(len(self), generator=dice).tolist())
        short = [batches.pop()] if len(self) % self.batch else []
        batches = [batches[index] for index in torch.randperm(len(batches), generator=dice).tolist()]
        if batches:  # each starts with its longest row
            longest = max(range(len(batches)), key=lambda index: self.lengths[batches[index][0]])
            batches.insert(0, batches.pop(longest))
        return itertools.chain.from_iterable(batches + short)

    def _batches(self, rows: list[int]) -> list[list[int]]:
        """Rows in random order, split into batches of similar length; a shorter batch comes last."""
        size = self.batch * max(1, min(len(rows) // (self.batch * 4), MEGA_BATCH))
        mega = [rows[start : start + size] for start in range(0, len(rows), size)]
        longest_first = [row for part in mega for row in sorted(part, key=self.lengths.__getitem__, reverse=True)]
        return [longest_first[start : start + self.batch] for start in range(0, len(rows), self.batch)]
