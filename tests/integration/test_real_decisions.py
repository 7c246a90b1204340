"""What happens to real decisions when they are longer than the model may see. Skipped where they are not at hand."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from headnote_cli.data.encoding import Encoded, Encoder
from headnote_cli.data.prompts import PromptTemplates
from tests.conftest import PROMPTS, REAL, ROOT, real_rows

DECISION = "decision:\n"  # what the shipped template writes before it


@pytest.fixture(scope="module")
def overflow() -> ModuleType:
    """benchmarks/overflow.py."""
    file = ROOT / "benchmarks" / "overflow.py"
    spec = importlib.util.spec_from_file_location("overflow_benchmark", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_structure_keeps_more_of_what_the_headnote_names_than_the_other_cuts(overflow: ModuleType) -> None:
    if not REAL.is_dir():
        pytest.skip("the real decisions are not here")
    decisions = [(row, overflow.pseudo_tokens(row["decision"])) for row in overflow.decisions(REAL, extra=False)]
    for length in overflow.LENGTHS:
        found = {strategy: overflow.evidence(decisions, length, strategy) for strategy in overflow.STRATEGIES}
        for other in ("middle", "end"):
            assert found["structure"].considerations > found[other].considerations, length
            assert found["structure"].articles > found[other].articles, length
        if length == 8192:
            assert found["structure"].decisions / len(decisions) > 1 / 3, "over a third do not fit"


def kept_pieces(encoded: Encoded) -> list[str]:
    """What stands before, between and after the marks of a cut."""
    start = encoded.prompt_text.index(DECISION) + len(DECISION)
    bounds = [start, *itertools.chain.from_iterable(encoded.cut_spans), len(encoded.prompt_text)]
    return [encoded.prompt_text[begin:end].strip() for begin, end in zip(bounds[::2], bounds[1::2], strict=True)]


def test_real_rows_fit_exactly_keep_their_headnote_and_break_no_word(gemma_tokenizer: Any) -> None:
    templates = PromptTemplates(PROMPTS)
    rows = real_rows("test")[::7]
    whole = [Encoder(gemma_tokenizer, templates).encode(row) for row in rows]
    for limit, strategy in itertools.product((8192, 2048), ("structure", "middle", "end")):
        encoder = Encoder(gemma_tokenizer, templates, limit, strategy)  # type: ignore[arg-type]
        for row, uncut in zip(rows, whole, strict=True):
            encoded = encoder.encode(row)
            assert encoded is not None
            assert uncut is not None
            total = len(encoded.prompt_ids) + len(encoded.completion_ids)
            assert total <= limit
            assert (encoded.cut > 0) == (len(uncut.prompt_ids) + len(uncut.completion_ids) > limit)
            assert encoded.completion_ids == uncut.completion_ids
            asked = encoder.encode_prompt(row, room=len(encoded.completion_ids))
            assert asked is not None
            assert encoded.example()["input_ids"][: len(asked.prompt_ids)] == asked.prompt_ids == encoded.prompt_ids
            for piece in kept_pieces(encoded)[:-1] if encoded.cut else ():
                assert not piece or re.search(rf"(?<!\S){re.escape(piece)}(?!\S)", row["decision"])


def test_over_a_third_of_the_real_rows_overflow(overflow: ModuleType) -> None:
    rows = real_rows("train") + real_rows("validation") + real_rows("test")
    too_long = [row for row in rows if len(overflow.pseudo_tokens(row["decision"])) > 8192 - 700]
    assert 1 / 3 < len(too_long) / len(rows) < 0.45
