"""Evidence as `slds generate` writes it: by words, and by a model's likelihood of the sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headnote_cli.generation import likelihood
from headnote_cli.generation.likelihood import BETWEEN, gains
from headnote_cli.law.citations import Cited
from headnote_cli.law.evidence import Passages, evidence, sentences
from tests.commands import slds
from tests.conftest import sample_rows

ROW = sample_rows("test")[0]
PASSAGES = ["Der Verkäufer haftet für Mängel.", "Die Frist beträgt zwei Jahre. " * 9, "Kosten."]
HEADNOTE = "Haftung des Verkäufers. Die Frist ist gewahrt."
SPANS = [(0, 23), (24, 46)]


@pytest.fixture(scope="module")
def loaded(tiny_models: Callable[[str], Path]) -> tuple[Any, Any]:
    folder = tiny_models("AutoModelForCausalLM")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def alone(model: Any, tokenizer: Any, passage: str, start: int, end: int) -> float:
    """The mean log-probability of a sentence's tokens, read in one row without padding."""
    written = tokenizer(HEADNOTE, add_special_tokens=False, return_offsets_mapping=True)
    before = tokenizer(passage, add_special_tokens=False)["input_ids"] if passage else []
    between = tokenizer(BETWEEN, add_special_tokens=False)["input_ids"]
    row = [tokenizer.bos_token_id, *before, *between, *written["input_ids"]]
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
    first = len(row) - len(written["input_ids"])
    own = [first + place for place, (at, _) in enumerate(written["offset_mapping"]) if start <= at < end]
    return float(torch.stack([scores[place - 1, row[place]] for place in own]).mean())


@pytest.mark.parametrize("together", [1, 8])
def test_gains_are_those_of_each_consideration_read_alone(
    together: int, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "TOGETHER", together)
    found = gains(*loaded, PASSAGES, HEADNOTE, SPANS)
    for span, row in zip(SPANS, found, strict=True):
        expected = [alone(*loaded, passage, *span) - alone(*loaded, "", *span) for passage in PASSAGES]
        assert row == pytest.approx(expected, abs=1e-4)


def test_a_long_consideration_is_read_in_part(loaded: tuple[Any, Any]) -> None:
    long = ["wort " * 3000]
    assert gains(*loaded, long, HEADNOTE, SPANS) == gains(*loaded, [long[0] + "anders"], HEADNOTE, SPANS)


def test_what_a_model_finds_likelier_moves_up() -> None:
    cited = Cited(ROW["decision"], ROW["decision_language"])
    passages = Passages(cited)
    some = sentences(ROW["headnote"], ROW["headnote_language"])
    before = list(passages.strengths(some, ROW["headnote_language"]))
    for favoured in range(len(passages.numbers)):
        gain = [[3.0 * (place == favoured) for place in range(len(passages.numbers))] for _ in some]
        after = list(passages.strengths(some, ROW["headnote_language"], gain))
        assert all(new[favoured] > old[favoured] for new, old in zip(after, before, strict=True))
    found = evidence(
        ROW["headnote"], ROW["headnote_language"], cited, lambda texts, _, spans: [[0.0] * len(texts) for _ in spans]
    )
    assert found == evidence(ROW["headnote"], ROW["headnote_language"], cited), "no gain changes nothing"


def test_generate_asks_the_model_and_notes_it(
    tiny_models: Callable[[str], Path], write_config: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_models("AutoModelForCausalLM")
    rows, output = tmp_path / "rows.jsonl", tmp_path / "h.jsonl"
    rows.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    config = write_config(model_name_or_path=str(model), max_length=2048)
    asked = ("generate", "--config", config, "--model", model, "--max-new-tokens", 30, "--decision", rows)
    by_model = slds(*asked, "--output", output, "--evidence", "model")
    assert by_model.exit_code == 0, by_model.stderr
    (line,) = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert all(one.keys() == {"start", "end", "places", "points_to", "pointer"} for one in line["evidence"])
    assert json.loads((tmp_path / "h.jsonl.settings.json").read_text(encoding="utf-8"))["evidence"] == "model"
    other = slds(*asked, "--output", output)
    assert other.exit_code == 2
    assert "evidence model → words" in other.stderr
    served = slds(*asked, "--output", tmp_path / "s.jsonl", "--evidence", "model", "--endpoint", "http://127.0.0.1:9")
    assert served.exit_code == 2
    assert "--evidence model needs the model here" in served.stderr
