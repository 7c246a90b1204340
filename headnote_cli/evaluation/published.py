"""Published results on SLDS, to set beside one's own.

Rolshoven et al., "Unlocking Legal Knowledge: A Multilingual Dataset for Judicial Summarization in Switzerland"
(EMNLP 2025, arXiv 2410.13456): fine-tuned models, test split, unweighted mean over the nine language pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Rolshoven et al. 2025, arXiv 2410.13456"


@dataclass(frozen=True)
class Published:
    """BERTScore F1 (XLM-R large, layer 24, rescaled) and ROUGE-L F1, both × 100."""

    model: str
    bertscore: float
    rouge_l: float


def published_results() -> list[Published]:
    """The fine-tuned Qwen 2.5 models, smallest first."""
    sizes = ("0.5B", "1.5B", "3B", "7B", "14B")
    scores = ((2.5, 17.4), (22.9, 22.2), (26.4, 24.4), (29.2, 25.7), (30.8, 26.9))
    return [Published(f"Qwen2.5-{size} fine-tuned", *both) for size, both in zip(sizes, scores, strict=True)]
