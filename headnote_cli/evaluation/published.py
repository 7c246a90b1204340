"""Published results on SLDS, for comparison.

Rolshoven et al., "Unlocking Legal Knowledge: A Multilingual Dataset for Judicial Summarization in Switzerland"
(EMNLP 2025, arXiv 2410.13456): fine-tuned models, test split, unweighted mean over the nine language pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

SOURCE = "Rolshoven et al. 2025, arXiv 2410.13456"


@dataclass(frozen=True)
class Published:
    """BERTScore F1 (XLM-R large, layer 24, rescaled) and ROUGE-L F1, both × 100."""

    model: str
    bertscore: float
    rouge_l: float


PUBLISHED = (
    Published("Qwen2.5-0.5B fine-tuned", 2.5, 17.4),
    Published("Qwen2.5-1.5B fine-tuned", 22.9, 22.2),
    Published("Qwen2.5-3B fine-tuned", 26.4, 24.4),
    Published("Qwen2.5-7B fine-tuned", 29.2, 25.7),
    Published("Qwen2.5-14B fine-tuned", 30.8, 26.9),
)


def protocol_notes(dataset: str | None, split: str, pairs: Collection[str]) -> list[str]:
    """How the evaluated rows differ from the published protocol; `pairs` are such as `fr_de`."""
    notes = []
    if dataset != "ipst/slds" or split != "test":
        notes.append("these rows are not the test split of ipst/slds: the published numbers are of other decisions")
    nine = map("_".join, itertools.product(("de", "fr", "it"), repeat=2))
    lacking = [pair for pair in nine if pair not in pairs]
    if lacking:
        notes.append(f"the published mean is over nine language pairs; here {', '.join(lacking)} are missing")
    return notes
