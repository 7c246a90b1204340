"""Generation: how a decision is read, and what is said about what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.data.documents import read_decision
from headnote_cli.errors import DataError, UsageError
from tests.commands import slds, slds_json
from tests.conftest import sample_rows


def pdf(*lines: str) -> bytes:
    """A PDF of one page with these lines; none makes a page without text."""
    shown = b" ".join(b"(" + line.encode("cp1252") + b") Tj T*" for line in lines)
    stream = b"BT /F1 12 Tf 14 TL 50 700 Td " + shown + b" ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + trailer


def test_utf8_latin1_and_pdf_are_read_and_said(tmp_path: Path) -> None:
    text = "Erwägungen: Die Beschwerde ist begründet, soweit auf sie eingetreten wird."
    for name, raw, note in (
        ("plain", text.encode(), None),
        ("bom", b"\xef\xbb\xbf" + text.encode(), None),
        ("latin", text.encode("latin-1"), "read as Latin-1"),
        ("pdf", pdf(*text.split(", ")), "read as a PDF"),
    ):
        (tmp_path / name).write_bytes(raw)
        decision = read_decision(tmp_path / name)
        assert decision.text.replace("\n", ", ").replace(",, ", ", ") == text
        assert decision.language == "de"
        assert (note in str(decision.note)) if note else decision.note is None
    assert read_decision(tmp_path / "plain", language="fr").language == "fr"


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b"", "is empty"), (b"\0\1\2", "not a text file"), (pdf(), "holds no text"), (b"%PDF-1.4 broken", "PDF")],
    ids=["empty", "binary", "a scanned PDF", "a broken PDF"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_read_is_said(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(raw)
    with pytest.raises(DataError, match=words):
        read_decision(tmp_path / "d")
    with pytest.raises(UsageError, match="no such file"):
        read_decision(tmp_path / "missing")


@pytest.fixture
def decision(tmp_path: Path) -> Path:
    file = tmp_path / "decision.txt"
    file.write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    return file


def test_a_checkpoint_writes_on_the_4_bit_base_that_it_was_trained_on(
    tiny_training: Callable[..., Path], decision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headnote_cli.generation import writer as generation
    from headnote_cli.models.loading import quantized_layers

    counted: list[int] = []
    write = generation.Writer.write_one

    def counting(writer: Any, *arguments: Any) -> Any:
        counted.append(sum(name.endswith("base_layer") for name in quantized_layers(writer.model)))
        return write(writer, *arguments)

    monkeypatch.setattr(generation.Writer, "write_one", counting)
    config = tiny_training(max_steps=1, save_steps=1)
    checkpoint = slds_json("train", "--config", config)["checkpoint"]
    arguments = ("generate", "--decision", decision, "--lang", "de", "--config", config, "--max-new-tokens", 3)
    result = slds(*arguments, "--model", checkpoint)
    assert result.exit_code == 0, result.stderr
    assert counted == [14]
    assert result.stdout.endswith(" […]\n"), "an unfinished headnote is never passed off as whole"
    assert "the headnote is unfinished" in result.stderr


def test_candidates_are_drawn_with_their_own_seeds(tiny_training: Callable[..., Path], decision: Path) -> None:
    config = tiny_training(max_steps=1, save_steps=1)
    checkpoint = slds_json("train", "--config", config)["checkpoint"]
    arguments = ("generate", "--decision", decision, "--lang", "de", "--config", config, "--max-new-tokens", 6,
                 "--model", checkpoint, "--num-candidates", 3)  # fmt: skip
    assert "set --temperature" in slds(*arguments).stderr
    drawn = (*arguments, "--temperature", 1.5, "--top-p", 0.95, "--top-k", 50, "--json")
    first, again = (slds(*drawn) for _ in range(2))
    rows = [json.loads(line) for line in first.stdout.splitlines()]
    assert [row["candidate"] for row in rows] == [1, 2, 3]
    assert len({row["headnote"] for row in rows}) > 1
    assert [row["headnote"] for row in rows] == [json.loads(line)["headnote"] for line in again.stdout.splitlines()]


def test_changed_prompts_are_told_and_those_of_training_are_used(
    tiny_training: Callable[..., Path], decision: Path, tmp_path: Path
) -> None:
    import shutil

    from tests.conftest import PROMPTS

    own = tmp_path / "prompts"
    shutil.copytree(PROMPTS, own)
    config = tiny_training(max_steps=1, save_steps=1, prompts_path=str(own))
    checkpoint = slds_json("train", "--config", config)["checkpoint"]
    arguments = ("generate", "--decision", decision, "--lang", "de", "--config", config, "--max-new-tokens", 3,
                 "--model", checkpoint)  # fmt: skip
    before = slds(*arguments)
    assert "differs from the prompts" not in before.stderr
    (own / "user.jinja").write_text("{{ decision }}", encoding="utf-8")
    after = slds(*arguments)
    assert "user.jinja" in after.stderr
    assert "differs from the prompts of training" in after.stderr
    assert after.stdout == before.stdout


def test_the_papers_preset_asks_and_draws_as_published(
    gemma_tokenizer: Any, decision: Path, write_config: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from headnote_cli.generation import writer as generation
    from headnote_cli.generation.sampling import Headnote, Sampling
    from tests.conftest import build_text_model

    asked: list[tuple[Any, Any]] = []

    def write(writer: Any, prompt: Any, sampling: Any, emit: Any) -> Headnote:
        asked.append((prompt, sampling))
        return Headnote("x", "stop", 1)

    monkeypatch.setattr(generation.Writer, "write_one", write)
    model = build_text_model(gemma_tokenizer, tmp_path / "model")
    arguments = ("generate", "--decision", decision, "--lang", "fr", "--model", model, "--config", write_config())
    result = slds(*arguments, "--preset", "slds-paper")
    assert result.exit_code == 0, result.stderr
    ((prompt, sampling),) = asked
    assert sampling == Sampling(512, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, seed=2025)
    user = prompt.messages[-1]["content"]
    assert user.startswith("Leading decision:\n```")
    assert user.endswith("```\n\nGenerate a headnote in French for the leading decision above.")
    assert slds(*arguments, "--preset", "slds-paper", "--num-candidates", 2).exit_code == 0
    assert [prompt.seed for prompt, _ in asked] == [2025, 2025, 2026]
    both = slds(*arguments, "--preset", "slds-paper", "--temperature", 0.5)
    assert both.exit_code == 2
    assert "leave the other options of sampling out" in both.stderr
