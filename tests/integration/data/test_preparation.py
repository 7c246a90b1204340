"""Rows become token ids once: checked, in order, kept by content, with flat memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.config.layers import load_config
from headnote_cli.data.encoding import Encoder, encoder_for
from headnote_cli.data.leaks import leaks
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.sources import load_split
from headnote_cli.errors import DataError
from tests.commands import slds
from tests.conftest import PROMPTS, ROOT, sample_rows

GOOD = {
    "decision": "Erwägungen 1. Gut.",
    "headnote": "Art. 1 OR.",
    "headnote_language": "de",
    "decision_language": "de",
}


def write(file: Path, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def prepared(write_config: Callable[..., Path], gemma_tokenizer: Any) -> Callable[..., Any]:
    """Prepare the training split of a config."""

    def run(skip_bad: bool = False, workers: int = 2, **keys: Any) -> Any:
        from headnote_cli.data.preparation import prepare

        config = load_config(write_config(dataset_eval_split="validation", **keys))
        templates = PromptTemplates(config.path_of("prompts_path"))
        return prepare(load_split(config, "train"), encoder_for(config, templates, gemma_tokenizer), workers, skip_bad)

    return run


def test_prepared_rows_are_the_encoders_in_their_order(prepared: Callable[..., Any], gemma_tokenizer: Any) -> None:
    encoder = Encoder(gemma_tokenizer, PromptTemplates(PROMPTS), 800)
    result = prepared(max_length=800)
    for mine, row in zip(result.dataset, sample_rows("train"), strict=True):
        encoded = encoder.encode(row)
        assert encoded is not None
        assert mine == encoded.example() | {"name": str(row["sample_id"])}
    assert result.summary["rows"] == result.summary["rows_cut"] == 30


def test_a_second_start_takes_the_cache_and_a_changed_byte_does_not(
    prepared: Callable[..., Any], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for file in PROMPTS.glob("*.jinja"):
        (prompts / file.name).write_bytes(file.read_bytes())
    rows = tmp_path / "data"
    rows.mkdir()
    write(rows / "train.jsonl", [GOOD])
    write(rows / "validation.jsonl", [GOOD])
    keys = {"prompts_path": str(prompts), "dataset_name": str(rows)}
    assert not prepared(**keys).cached
    assert prepared(**keys).cached
    assert not prepared(**keys, max_length=900).cached
    (prompts / "user.jinja").write_text((prompts / "user.jinja").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert not prepared(**keys).cached
    write(rows / "train.jsonl", [GOOD | {"headnote": "Art. 2 OR."}])
    assert not prepared(**keys).cached


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"headnote": None}, ".*assistant.jinja: the headnote is empty"),
        ({"headnote": "  "}, ".*assistant.jinja: the headnote is empty"),
        ({"decision": None}, "field `decision` is empty"),
        ({"decision": 7}, "field `decision` is not text but int"),
        ({"decision": ["x"]}, "field `decision` is not text but list"),
        ({"headnote": "\ud800"}, "field `headnote` is not valid Unicode"),
    ],
)
def test_bad_rows_are_all_named_or_counted(
    prepared: Callable[..., Any], tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    rows = tmp_path / "data"
    rows.mkdir()
    write(rows / "train.jsonl", [GOOD, GOOD | change, GOOD, {"headnote_language": "de", "headnote": "x"}])
    write(rows / "validation.jsonl", [GOOD])
    with pytest.raises(DataError) as caught:
        prepared(dataset_name=str(rows))
    assert "2 of 4 rows cannot be used" in caught.value.message
    assert re.search(f"train.jsonl:2: {fault}", caught.value.message)
    assert "train.jsonl:4" in caught.value.message
    assert "`decision`" in caught.value.message.splitlines()[-1] or "decision" in caught.value.message
    summary = prepared(dataset_name=str(rows), skip_bad=True).summary
    assert (summary["rows"], summary["rows_bad"]) == (4, 2)


def test_a_line_that_is_no_json_is_named_or_counted_like_any_bad_row(
    prepared: Callable[..., Any], tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    rows = tmp_path / "data"
    rows.mkdir()
    good = json.dumps(GOOD)
    (rows / "train.jsonl").write_text(f'{good}\n{{"decision": \n[1]\n{good}\n', encoding="utf-8")
    write(rows / "validation.jsonl", [GOOD])
    with pytest.raises(DataError) as caught:
        prepared(dataset_name=str(rows))
    assert "2 of 4 rows cannot be used" in caught.value.message
    assert "train.jsonl:2: not valid JSON" in caught.value.message
    for keys in ({}, {"dataset_subset": "de_de"}):
        result = prepared(dataset_name=str(rows), skip_bad=True, **keys)
        assert (result.summary["rows"], result.summary["rows_bad"], len(result.dataset)) == (4, 2, 2)
    config = write_config(dataset_name=str(rows / "train.jsonl"))
    shown = slds("preview-prompts", "--config", config, "--no-tokenizer", "--skip-bad-rows", "--split", "train")
    assert shown.exit_code == 0
    assert "rows unreadable" in shown.stdout
    refused = slds("preview-prompts", "--config", config, "--no-tokenizer", "--split", "train", "--row", 2)
    assert (refused.exit_code, "train.jsonl:2" in refused.stderr) == (DataError.exit_code, True)


def test_training_says_for_each_language_pair_what_its_rows_are(tiny_training: Callable[..., Path]) -> None:
    shown = slds("train", "--config", tiny_training(max_length=720), "--dry-run").stderr
    pairs = [line.split(":")[0].strip() for line in shown.splitlines() if " rows; prompt tokens median" in line]
    assert pairs == sorted({f"{r['decision_language']}_{r['headnote_language']}" for r in sample_rows("train")})
    assert "rows cut by" in shown


def test_skipping_bad_rows_shows_the_others(write_config: Callable[..., Path], tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [GOOD, GOOD | {"decision": 7}, GOOD | {"headnote": "Art. 9 OR."}])
    config = write_config(dataset_name=str(tmp_path / "train.jsonl"), dataset_subset=None)
    refused = slds("preview-prompts", "--config", config, "--no-tokenizer", "--split", "train")
    assert refused.exit_code == DataError.exit_code
    assert "train.jsonl:2" in refused.stderr
    shown = slds("preview-prompts", "--config", config, "--no-tokenizer", "--skip-bad-rows", "--json")
    assert [row["row"] for row in json.loads(shown.stdout)["rows"]] == [1, 3]


def test_decisions_that_splits_share_are_reported(write_config: Callable[..., Path], tmp_path: Path) -> None:
    rows = tmp_path / "data"
    rows.mkdir()
    write(rows / "train.jsonl", [GOOD | {"decision_id": "A"}, GOOD | {"decision_id": "B", "decision": "Nur hier."}])
    write(rows / "validation.jsonl", [GOOD | {"decision_id": "C"}])
    write(rows / "test.jsonl", [GOOD | {"decision_id": "B", "decision": "Anders."}])
    config = write_config(dataset_name=str(rows), dataset_eval_split="validation", dataset_test_split="test")
    loaded = load_config(config)
    splits = {role: load_split(loaded, role) for role in ("train", "eval", "test")}
    found = {leak.splits: (leak.ids, leak.texts) for leak in leaks(splits, "decision")}
    assert found == {("train", "eval"): ([], 1), ("train", "test"): (["B"], 0)}
    shown = slds("preview-prompts", "--config", config, "-n", 0, "--stats", "--no-tokenizer")
    assert "train and test share 1 decision_id (B)" in shown.stderr


def test_the_samples_share_no_decision(write_config: Callable[..., Path]) -> None:
    config = load_config(write_config(dataset_eval_split="validation", dataset_test_split="test"))
    assert leaks({role: load_split(config, role) for role in ("train", "eval", "test")}, "decision") == []


def test_rows_of_one_decision_are_never_split_off_apart(write_config: Callable[..., Path], tmp_path: Path) -> None:
    rows = [GOOD | {"decision_id": f"D{n // 3}", "decision": f"Text {n // 3}"} for n in range(90)]
    write(tmp_path / "rows.jsonl", rows)
    config = load_config(write_config(dataset_name=str(tmp_path / "rows.jsonl")))
    splits = {role: load_split(config, role) for role in ("train", "eval", "test")}
    assert leaks(splits, "decision") == []
    assert sum(len(list(part)) for part in splits.values()) == 90
    assert all(list(part) for part in splits.values())


def test_another_task_needs_a_config_and_a_prompts_folder_alone(
    tmp_path: Path, tiny_training: Callable[..., Path]
) -> None:
    """Text to SQL: other fields, other prompts, no code."""
    rows = [
        {
            "id": year,
            "question": f"Wie viele Urteile gab es {year}?",
            "table": "CREATE TABLE urteile (jahr INT);",
            "sql": f"SELECT count(*) FROM urteile WHERE jahr = {year};",
        }
        for year in range(1990, 1998)
    ]
    data = tmp_path / "sql"
    prompts = tmp_path / "sql_prompts"
    data.mkdir()
    prompts.mkdir()
    for split in ("train", "validation"):
        write(data / f"{split}.jsonl", rows)
    (prompts / "system.jinja").write_text("Answer with one SQL query.", encoding="utf-8")
    (prompts / "user.jinja").write_text("{{ table }}\n{{ question }}", encoding="utf-8")
    (prompts / "assistant.jinja").write_text("{{ sql }}", encoding="utf-8")
    keys = {"dataset_name": str(data), "prompts_path": str(prompts), "overflow_field": "table", "max_steps": 2}
    config = tiny_training(**keys, dataset_test_split=None, overflow="error", load_in_4bit=False)
    shown = slds("preview-prompts", "--config", config, "-n", 1)
    assert "SELECT count(*) FROM urteile WHERE jahr = 1990;" in shown.stdout
    trained = slds("train", "--config", config, "--json")
    assert trained.exit_code == 0, trained.stderr
    assert json.loads(trained.stdout)["steps"] == 2


@pytest.mark.slow
def test_memory_stays_flat_however_many_rows(tmp_path: Path, gemma_tokenizer: Any) -> None:
    """Peak memory of preparing 3,000 and 20,000 rows of about 10,000 tokens differs by less than a tenth."""
    gemma_tokenizer.save_pretrained(tmp_path / "model")
    text = " ".join(row["decision"] for row in sample_rows("train")[::3]) * 2
    peaks = []
    for count in (3_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        with (folder / "train.jsonl").open("w", encoding="utf-8") as stream:
            for number in range(count):
                stream.write(json.dumps(GOOD | {"sample_id": number, "decision": text}) + "\n")
        code = (
            "import resource, sys\nfrom pathlib import Path\n"
            "from transformers import AutoTokenizer\n"
            "from headnote_cli.config.layers import load_config\nfrom headnote_cli.data.sources import _local\n"
            "from headnote_cli.data.encoding import Encoder\nfrom headnote_cli.data.prompts import PromptTemplates\n"
            "from headnote_cli.data.preparation import prepare\n"
            f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / 'model')!r})\n"
            f"encoder = Encoder(tokenizer, PromptTemplates(Path({str(PROMPTS)!r})), None)\n"
            f"prepare(_local(Path({str(folder)!r})).read('train'), encoder, 2)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        environment = os.environ | {"SLDS_CACHE": str(folder / "cache")}
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        )
        peaks.append(int(result.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0]
