"""`slds generate --grounded` and `--choose`, on a model that wants to cite what the decision lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.law.citations import Cited, citations
from tests.commands import slds
from tests.conftest import sample_rows
from tests.integration.servers import Chat, serving

WANTED = " Art. 999 OR und Art. 998 Abs. 3 ZGB (E. 77); BGE 899 III 30; Art. 5 BV, 997 StGB." * 3
ROWS = sample_rows("test")[:3]


@pytest.fixture
def generating(
    tiny_models: Callable[[str], Path], write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    gemma_tokenizer: Any, tmp_path: Path,
) -> Callable[..., Any]:  # fmt: skip
    """`slds generate` with a model whose likeliest tokens are those of `WANTED`."""
    from headnote_cli.generation import decoder

    wanted = gemma_tokenizer(WANTED, add_special_tokens=False)["input_ids"]
    draw = decoder.Chooser._draw

    def pushed(chooser: Any, row: Any, scores: Any) -> int:
        if len(row.written) < len(wanted):
            scores[0, wanted[len(row.written)]] += 100.0
        return draw(chooser, row, scores)

    monkeypatch.setattr(decoder.Chooser, "_draw", pushed)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    config = write_config(model_name_or_path=str(tiny_models("AutoModelForCausalLM")), max_length=2048)

    def generate(*arguments: object) -> Any:
        fixed = ("--config", config, "--model", tiny_models("AutoModelForCausalLM"), "--max-new-tokens", 60)
        return slds("generate", *fixed, *arguments)

    return generate


def written(result: Any, file: Path) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("drawn", [(), ("--temperature", 0.8, "--top-k", 20, "--num-candidates", 2)])
def test_what_the_decision_lacks_is_not_cited(
    drawn: tuple[object, ...], generating: Callable[..., Any], tmp_path: Path
) -> None:
    rows = ("--decision", tmp_path / "rows.jsonl", *drawn)
    free = written(generating(*rows, "--output", tmp_path / "free.jsonl"), tmp_path / "free.jsonl")
    grounded = written(
        generating(*rows, "--output", tmp_path / "grounded.jsonl", "--grounded"), tmp_path / "grounded.jsonl"
    )
    assert len(grounded) == len(free) == len(ROWS) * (2 if drawn else 1)
    assert any(line["citations"]["unsupported"] for line in free)
    decisions = {str(row["sample_id"]): row for row in ROWS}
    for line in grounded:
        assert line["citations"]["unsupported"] == []
        row = decisions[str(line["sample_id"])]
        cited = Cited(row["decision"], row["decision_language"])
        assert all(cited.status(c) != "missing" for c in citations(line["headnote"], line["lang"]))
    noted = json.loads((tmp_path / "grounded.jsonl.settings.json").read_text(encoding="utf-8"))
    assert noted["grounded"] is True
    other = generating(*rows, "--output", tmp_path / "free.jsonl", "--grounded")
    assert other.exit_code == 2
    assert "grounded False → True" in other.stderr


def test_on_the_screen_it_is_the_same_as_in_a_file(generating: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "decision.txt").write_text(ROWS[0]["decision"], encoding="utf-8")
    asked = ("--decision", tmp_path / "decision.txt", "--lang", "de", "--from", ROWS[0]["decision_language"])
    shown = generating(*asked, "--grounded", "--json")
    assert shown.exit_code == 0, shown.stderr
    (line,) = written(generating(*asked, "--grounded", "--output", tmp_path / "o.jsonl"), tmp_path / "o.jsonl")
    assert json.loads(shown.stdout)["headnote"] == line["headnote"]
    assert json.loads(shown.stdout)["citations"]["unsupported"] == []
    assert line["doubt"]["mean_log_probability"] < 0
    for word in line["doubt"]["words"]:
        assert line["headnote"][word["start"] : word["end"]].strip()


def test_the_chosen_candidate_is_shown_and_scored_alone(generating: Callable[..., Any], tmp_path: Path) -> None:
    drawn = ("--temperature", 0.8, "--num-candidates", 3, "--choose")
    output = tmp_path / "o.jsonl"
    lines = written(generating("--decision", tmp_path / "rows.jsonl", *drawn, "--output", output), output)
    assert [line["chosen"] for line in lines].count(True) == len(ROWS)
    scored = slds("evaluate", "--predictions", output, "--references", tmp_path / "rows.jsonl", "--json")
    assert scored.exit_code == 0, scored.stderr
    assert "6 predictions of which another candidate was chosen" in scored.stderr
    alone = generating("--decision", tmp_path / "rows.jsonl", "--choose", "--output", tmp_path / "p.jsonl")
    assert alone.exit_code == 2
    assert "--num-candidates" in alone.stderr


@pytest.mark.parametrize("refused", [(), ("grammar",), ("structured_outputs", "grammar")])
def test_a_server_gets_the_grammar_and_may_refuse_it(
    refused: tuple[str, ...], generating: Callable[..., Any], tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    class Server(Chat):
        def do_POST(self) -> None:
            body = self.asked()
            asked.append(body)
            for name in refused:
                if name in body:
                    error = {"error": {"message": f"unknown parameter: `{name}`", "param": name}}
                    return self.answer(400, json.dumps(error).encode())
            message = {"role": "assistant", "content": "Haftung nach Art. 999 OR."}
            answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
            return self.answer(200, json.dumps(answer).encode())

    output = tmp_path / "o.jsonl"
    with serving(Server) as address:
        result = generating(
            "--decision", tmp_path / "rows.jsonl", "--grounded", "--endpoint", f"{address}/v1", "--output", output
        )  # fmt: skip
    lines = written(result, output)
    assert all(line["citations"]["unsupported"] == ["Art. 999 OR"] for line in lines), "checked afterwards"
    assert asked[0]["structured_outputs"]["grammar"].startswith("start: ")
    assert asked[0]["grammar"].startswith("%llguidance {}\nstart: ")
    for name in refused:
        assert f"the server refuses `{name}`" in result.stderr
        assert "citations are checked afterwards" in result.stderr
        assert name not in asked[-1]
