"""`slds evaluate` as a user runs it: joined, scored, compared, judged; numbers against the packages called directly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.evaluation.judge import RUBRICS
from tests.commands import slds, slds_json
from tests.conftest import real_rows, sample_rows, save_lines
from tests.integration.servers import Chat, completion, running

pytestmark = pytest.mark.filterwarnings("ignore")


def written(row: dict[str, Any], headnote: str | None = None, **more: Any) -> dict[str, Any]:
    text = row["headnote"] if headnote is None else headnote
    return {"sample_id": row["sample_id"], "lang": row["headnote_language"], "headnote": text, **more}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return sample_rows("train")


@pytest.fixture
def command(write_config: Callable[..., Path], rows: list[dict[str, Any]], tmp_path: Path) -> Callable[..., list[str]]:
    references = save_lines(tmp_path / "references.jsonl", rows)

    def arguments(*files: Path, more: tuple[object, ...] = ()) -> list[str]:
        named = [part for file in files for part in ("--predictions", str(file))]
        return ["evaluate", *named, "--references", str(references), "--config", str(write_config()), *map(str, more)]

    return arguments


def shortened(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [written(row, " ".join(row["headnote"].split()[::2])) for row in rows]


def test_scores_are_those_of_the_packages_and_pairs_have_one_voice_each(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    lines = shortened(rows)
    found = slds_json(*command(save_lines(tmp_path / "p.jsonl", lines)))
    assert found["rows"] == len(rows)
    assert "decisions are few" in slds(*command(tmp_path / "p.jsonl")).stderr
    texts, official = [line["headnote"] for line in lines], [row["headnote"] for row in rows]
    assert found["weighted"]["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(texts, [official]).score)
    assert found["weighted"]["chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(texts, [official]).score)
    scorer = RougeScorer(["rougeL"])
    own = [100 * scorer.score(one, other)["rougeL"].fmeasure for one, other in zip(official, texts, strict=True)]
    assert found["weighted"]["rougeL"]["value"] == pytest.approx(sum(own) / len(own))
    by_pair: dict[str, list[float]] = {}
    for row, score in zip(rows, own, strict=True):
        by_pair.setdefault(f"{row['decision_language']}_{row['headnote_language']}", []).append(score)
    means = {pair: sum(scores) / len(scores) for pair, scores in by_pair.items()}
    assert {pair: scores["rougeL"]["value"] for pair, scores in found["pairs"].items()} == pytest.approx(means)
    assert found["metrics"]["rougeL"]["value"] == pytest.approx(sum(means.values()) / len(means))
    for score in found["metrics"].values():
        assert score["low"] is None or score["low"] <= score["value"] <= score["high"] or score["value"] is None
    assert "version:" in found["signatures"]["bleu"]
    slds_json(*command(tmp_path / "p.jsonl", more=("--output", tmp_path / "scored.jsonl")))
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["scores"]["rougeL"] for line in scored] == pytest.approx(own)
    assert [{key: line[key] for key in lines[0]} for line in scored] == lines


def test_the_official_headnotes_themselves_score_100(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = slds_json(*command(save_lines(tmp_path / "p.jsonl", [written(row) for row in rows])))
    for name in ("rouge1", "rougeL_words", "bleu", "chrf", "citations_f1", "right_language", "length_ratio"):
        assert found["metrics"][name]["value"] == pytest.approx(100), name
    assert found["metrics"]["unfinished"]["value"] == 0


def test_rows_without_a_partner_are_counted_and_told(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    lines = [written(row) for row in rows[2:]]
    lines += [lines[0], {"sample_id": "nobody", "lang": "de", "headnote": "x"}]
    lines.append({"sample_id": rows[1]["sample_id"], "lang": rows[1]["headnote_language"], "error": {"type": "X"}})
    result = slds(*command(save_lines(tmp_path / "p.jsonl", lines)))
    assert result.exit_code == 0, result.stderr
    for told in (
        "1 row without a prediction",
        "1 prediction without a row",
        "1 prediction of a sample",
        "1 prediction with an error",
    ):
        assert told in result.stderr
    found = slds_json(*command(tmp_path / "p.jsonl"))
    assert [found[name] for name in ("missing", "extra", "duplicates", "failed")] == [1, 1, 1, 1]
    assert found["rows"] == len(rows) - 2


def test_two_files_are_compared_on_the_rows_that_both_have(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    first = save_lines(tmp_path / "half.jsonl", shortened(rows))
    second = save_lines(tmp_path / "whole.jsonl", [written(row) for row in rows[1:]])
    result = slds(*command(first, second, more=("--by", "law_area")))
    assert result.exit_code == 0, result.stderr
    assert f"{len(rows) - 1} headnotes of" in result.stdout
    assert "whole.jsonl minus half.jsonl +" in result.stdout
    assert "too few decisions for a verdict" in result.stdout
    assert "chance" not in result.stdout
    assert "1 headnote left out" in result.stderr
    found = slds_json(*command(first, second, first, more=("--by", "law_area")))
    assert {row["law_area"] for row in rows[1:]} == set(found["by"]["law_area"]["rougeL"])
    better = next(one for one in found["differences"] if one["metric"] == "rougeL" and one["second"] == "whole.jsonl")
    assert better["more_than_chance"] is None
    assert better["value"] > better["low"] > 0


@pytest.mark.parametrize("decisions", [29, 30])
def test_a_verdict_takes_thirty_decisions(
    decisions: int, write_config: Callable[..., Path], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    many = [rows[0] | {"sample_id": place, "decision_id": f"D{place}"} for place in range(decisions)]
    references = save_lines(tmp_path / "many.jsonl", many)
    files = [
        save_lines(tmp_path / "a.jsonl", shortened(many)),
        save_lines(tmp_path / "b.jsonl", list(map(written, many))),
    ]
    named = [part for file in files for part in ("--predictions", file)]
    arguments = ["evaluate", *named, "--references", references, "--config", write_config()]
    found = slds_json(*arguments)
    assert found["decisions"] == decisions
    verdicts = {one["more_than_chance"] for one in found["differences"] if one["metric"] == "rougeL"}
    assert verdicts == {True if decisions >= 30 else None}
    assert ("more than chance" in slds(*arguments).stdout) == (decisions >= 30)


def test_files_that_were_written_with_other_settings_are_named(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    def file(name: str, limit: int, system: str, model: str) -> Path:
        sampling = {"max_new_tokens": limit, "temperature": 0.0}
        prompting = {"templates": {"system": system * 64}, "max_length": 768, "overflow": "structure"}
        noted = {"model": model, "sampling": sampling, "prompting": prompting, "candidates": 1, "server": None}
        (tmp_path / f"{name}.settings.json").write_text(json.dumps(noted), encoding="utf-8")
        return save_lines(tmp_path / name, shortened(rows))

    first = file("a.jsonl", 512, "1", "tuned")
    alike = file("b.jsonl", 512, "1", "base")
    zero = file("zero-shot.jsonl", 128, "2", "base")
    own = save_lines(tmp_path / "mine.jsonl", shortened(rows))
    result = slds(*command(first, alike, own, more=("--baseline", "zero-shot")))
    assert result.stderr.count("was written with other settings") == 1
    told = (
        "max_new_tokens (512 in the first file, here 128), template system (11111111 in the first file, here 22222222)"
    )
    assert f"baseline: zero-shot.jsonl was written with other settings: {told}" in result.stderr
    found = slds_json(*command(first, zero))["differing_settings"]
    assert found == {"zero-shot.jsonl": {"max_new_tokens": [512, 128], "template system": ["11111111", "22222222"]}}


def test_baselines_stand_beside(command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    file = save_lines(tmp_path / "p.jsonl", shortened(rows))
    missing = slds(*command(file, more=("--baseline", "zero-shot")))
    assert missing.exit_code == 2
    assert "slds generate" in missing.stderr
    save_lines(tmp_path / "zero-shot.jsonl", [written(row, "Urteil.") for row in rows])
    found = slds_json(*command(file, more=("--baseline", "zero-shot", "--baseline", "lead")))
    zero, lead = found["others"]
    assert zero["metrics"]["rougeL"]["value"] < found["metrics"]["rougeL"]["value"]
    assert lead["predictions"] == "baseline: lead"
    assert 0 < lead["metrics"]["rougeL"]["value"] < 60


def test_the_papers_numbers_stand_beside_with_a_warning_on_other_data(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = slds(*command(save_lines(tmp_path / "p.jsonl", shortened(rows)), more=("--preset", "slds-paper")))
    assert "Qwen2.5-14B fine-tuned" in result.stdout
    assert "26.9" in result.stdout
    assert "not the test split of ipst/slds" in result.stdout
    assert "arXiv 2410.13456" in result.stdout


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--by", "mood"), 2, "--by mood"),
        (("--preset", "mine"), 2, "--preset mine"),
        (("--references", "nothing.jsonl"), 2, "nothing.jsonl"),
    ],
)
def test_bad_options_are_named(
    more: tuple[str, ...], code: int, told: str, command: Callable[..., list[str]], rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:  # fmt: skip
    result = slds(*command(save_lines(tmp_path / "p.jsonl", shortened(rows)), more=more))
    assert result.exit_code == code, result.stderr
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_predictions_of_other_samples_are_refused(command: Callable[..., list[str]], tmp_path: Path) -> None:
    file = save_lines(tmp_path / "p.jsonl", [{"sample_id": "x", "lang": "de", "headnote": "y"}])
    result = slds(*command(file))
    assert result.exit_code == 5
    assert "joined by `sample_id`" in result.stderr


class JudgeServer(Chat):
    """Scores 1, 2, 3, 1, 2; some answers cannot be read."""

    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.asked()
        self.seen.append(body)
        scores = {name: {"reason": "r", "score": place % 3 + 1} for place, name in enumerate(RUBRICS)}
        unreadable = "UNREADABLE" in body["messages"][-1]["content"]
        self.answer(200, completion("I would rather not." if unreadable else json.dumps(scores)))


@pytest.fixture
def judge() -> Iterator[str]:
    JudgeServer.seen = []
    with running(JudgeServer) as address:
        yield address


def test_a_judge_scores_by_five_rubrics_and_is_asked_once(
    judge: str, command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    lines = shortened(rows)
    lines[0]["headnote"] = "UNREADABLE"
    file = save_lines(tmp_path / "p.jsonl", lines)
    arguments = command(file, more=("--judge", judge, "deepseek-chat"))
    result = slds(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "1 of " in result.stderr
    assert "could not be read" in result.stderr
    asked = len(JudgeServer.seen)
    assert asked == len(rows)
    body = JudgeServer.seen[0]
    assert body["model"] == "deepseek-chat"
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["schema"]["required"] == list(RUBRICS)
    found = slds_json(*arguments)
    assert len(JudgeServer.seen) == asked + 1, "only the unreadable one is asked for again"
    assert found["metrics"]["judge"]["value"] == pytest.approx(100 * (0 + 1 + 2 + 0 + 1) / 10)
    assert found["metrics"]["judge_legal_citations"]["value"] == pytest.approx(0)
    cache = tmp_path / "p.jsonl.judge.jsonl"
    entries = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(b"".join(entries[:-1]) + entries[-1][:20])
    slds_json(*arguments)
    assert len(JudgeServer.seen) == asked + 3, "the unreadable one and the one that was cut short"
    slds_json(*arguments)
    assert len(JudgeServer.seen) == asked + 4, "what stands after a line that was cut short is known"


def test_a_judge_that_refuses_parameters_and_thinks_aloud_is_read(
    judge: str, command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def answer(self: JudgeServer) -> None:
        body = self.asked()
        self.seen.append(body)
        refused = [name for name in ("response_format", "temperature", "max_tokens") if name in body]
        if refused:
            self.answer(400, json.dumps({"error": {"message": f"`{refused[0]}` is not supported"}}).encode())
        elif "LEER" in body["messages"][-1]["content"]:
            self.answer(200, completion("<think>{"))
        else:
            scores = json.dumps(dict.fromkeys(RUBRICS, 3))
            self.answer(200, completion(f"<think>{{}} is not enough</think>{scores}"))

    monkeypatch.setattr(JudgeServer, "do_POST", answer)
    lines = shortened(rows)
    lines[0]["headnote"] = "LEER"
    arguments = command(save_lines(tmp_path / "p.jsonl", lines), more=("--judge", judge, "m"))
    result = slds(*arguments)
    assert result.exit_code == 0, result.stderr
    assert f"1 of {len(rows)} judgements could not be read" in result.stderr
    assert "without text, with the model's thinking alone" in result.stderr
    assert result.stderr.count("refuses `response_format`: it is left out") == 1
    assert slds_json(*arguments)["metrics"]["judge"]["value"] == pytest.approx(100)
    monkeypatch.setattr(JudgeServer, "do_POST", lambda self: self.asked() and self.answer(401, b"{}"))
    refused = slds(*arguments)
    assert refused.exit_code == 4
    assert "$OPENAI_API_KEY" in refused.stderr


def test_scores_do_not_replace_headnotes_or_references(
    command: Callable[..., list[str]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = save_lines(tmp_path / "p.jsonl", shortened(rows))
    begun = save_lines(tmp_path / "night.jsonl.part", shortened(rows))
    before = file.read_bytes()
    for taken in (file, tmp_path / "references.jsonl", tmp_path / "night.jsonl"):
        refused = slds(*command(file, more=("--output", taken)))
        assert refused.exit_code == 2
        assert str(taken) in refused.stderr
    assert file.read_bytes() == begun.read_bytes() == before


def _saved(tokenizer: Any, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("real", [False, True])
def test_bertscore_is_that_of_the_package(
    real: bool, write_config: Callable[..., Path], gemma_tokenizer: Any, tmp_path: Path
) -> None:
    """A small random XLM-R by the name of the published one, so that its baselines are taken."""
    import bert_score
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    rows = real_rows("test") if real else sample_rows("train")
    folder = tmp_path / "xlm-roberta-large"
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(gemma_tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=2048, pad_token_id=gemma_tokenizer.pad_token_id,
    )  # fmt: skip
    XLMRobertaModel(config).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(_saved(gemma_tokenizer, folder), model_max_length=512).save_pretrained(folder)
    lines = shortened(rows)
    lines[1]["headnote"] = ""
    found = slds_json(
        "evaluate", "--predictions", save_lines(tmp_path / "p.jsonl", lines), "--references",
        save_lines(tmp_path / "r.jsonl", rows), "--bertscore", folder, "--config", write_config(),
    )  # fmt: skip
    baselines = Path(bert_score.__file__).parent / "rescale_baseline"
    own: list[float] = []
    for line, row in zip(lines, rows, strict=True):
        if not line["headnote"]:
            own.append(0.0)
            continue
        *_, score = bert_score.score(
            [line["headnote"]], [row["headnote"]], model_type=str(folder), num_layers=3, lang=row["headnote_language"],
            rescale_with_baseline=True, baseline_path=str(baselines / line["lang"] / "xlm-roberta-large.tsv"),
        )  # fmt: skip
        own.append(float(score[0]))
    assert found["weighted"]["bertscore"]["value"] == pytest.approx(100 * sum(own) / len(own), abs=1e-3)
    assert "layer 3" in found["signatures"]["bertscore"]
