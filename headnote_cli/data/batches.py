"""Which rows train together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

MEGA_BATCH = 50  # batches whose rows are sorted by length together, transformers' own number


class GroupedByLength(Sampler[int]):  # type: ignore[misc]
    """Rows of like length together, in batches of random order, the longest batch first.

    As transformers' `group_by_length`, with two differences. Its order within 50 batches is from long to short, which
    shows in the loss; here whole batches are shuffled. It draws from the global random state, so that a run resumed in
    its second epoch would see other batches; here seed and epoch alone decide. The longest batch comes first: what does
    not fit in memory shows at once. A last batch with fewer rows stays last, so every step has the rows it should.

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
        """Called by accelerate's data loader, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        dice = torch.Generator().manual_seed(self.seed + self.epoch)
        batches = self._batches(torch.randperm(len(self), generator=dice).tolist())
        short = [batches.pop()] if len(self) % self.batch else []
        batches = [batches[index] for index in torch.randperm(len(batches), generator=dice).tolist()]
        if batches:  # each begins with its longest row
            longest = max(range(len(batches)), key=lambda index: self.lengths[batches[index][0]])
            batches.insert(0, batches.pop(longest))
        return itertools.chain.from_iterable(batches + short)

    def _batches(self, rows: list[int]) -> list[list[int]]:
        """Rows in a random order, cut into batches of like length; a shorter one is the last."""
        size = self.batch * max(1, min(len(rows) // (self.batch * 4), MEGA_BATCH))
        mega = [rows[start : start + size] for start in range(0, len(rows), size)]
        longest_first = [row for part in mega for row in sorted(part, key=self.lengths.__getitem__, reverse=True)]
        return [longest_first[start : start + self.batch] for start in range(0, len(rows), self.batch)]
