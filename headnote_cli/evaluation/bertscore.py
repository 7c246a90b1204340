"""BERTScore with the `bert-score` package, as in the SLDS paper: XLM-R large, layer 24, no idf, rescaled with the
baseline of the headnote's language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from headnote_cli.errors import UnreachableError, UsageError, package
from headnote_cli.evaluation.metrics import Metric, Scored, means
from headnote_cli.events import Listener, Note
from headnote_cli.upstream import share_weights

BATCH = 16
NAMES = ("bertscore_precision", "bertscore_recall", "bertscore")


def bertscore(model: str, emit: Listener) -> list[Metric]:
    """Precision, recall and F1 as means over rows.

    Args:
        model: A hub id or a folder. Its last layer is used (24 for XLM-R large). Scores are rescaled only if
            `bert-score` has a baseline for this name, also for a folder called `xlm-roberta-large`.

    Raises:
        UsageError: `bert-score` is not installed, or would read this path as a T5 model.
        UnreachableError: The model is unavailable.
    """
    with package("bert-score", "bertscore", "BERTScore"):
        import bert_score
    if "t5" in model:
        raise UsageError("bert-score takes any path with `t5` in it for a T5 model", model, "move or link the folder")
    baselines = Path(bert_score.__file__).parent / "rescale_baseline"
    by_language = {file.parent.name: str(file) for file in baselines.glob(f"*/{Path(model).name}.tsv")}
    scorers: dict[str, Any] = {}
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"the BERTScore model cannot be loaded: {error}", model) from error
    layer, longest = config.num_hidden_layers, config.max_position_embeddings - 2  # positions of XLM-R start at 2

    def scorer(language: str) -> Any:
        if language not in scorers:
            baseline = by_language.get(language)
            scorers[language] = bert_score.BERTScorer(
                model_type=model,
                num_layers=layer,
                lang=language,
                rescale_with_baseline=baseline is not None,
                baseline_path=baseline,
            )
            first = next(iter(scorers.values()))
            share_weights(scorers[language], first, longest)  # some folders set no maximum length
        return scorers[language]

    rescaled = "rescaled" if by_language else "not rescaled: bert-score has no baseline of this model"
    signature = f"bert-score {bert_score.__version__}, {Path(model).name} layer {layer}, no idf, {rescaled}"
    if not by_language:
        emit(Note(f"BERTScore is {rescaled}", warning=True))
    return means(NAMES, lambda rows: _scores(rows, scorer).tolist(), signature)


def _scores(rows: Sequence[Scored], scorer: Callable[[str], Any]) -> np.ndarray[Any, Any]:
    """Precision, recall and F1 of each row, (rows, 3)."""
    scores = np.zeros((len(rows), 3))
    places = defaultdict(list)
    for place, row in enumerate(rows):
        if row.headnote.strip():  # an empty headnote scores 0
            places[row.lang].append(place)
    for language, own in places.items():
        headnotes, references = [rows[place].headnote for place in own], [rows[place].reference for place in own]
        result = scorer(language).score(headnotes, references, batch_size=BATCH)
        scores[own] = torch.stack(result, dim=1).double().numpy()
    return scores
