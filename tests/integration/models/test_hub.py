"""Each command against a local hub: gated, missing, busy, broken, slow, cut off half-way, offline. Nothing is mocked:
the libraries' own download code runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROMPTS, ROOT, build_text_model, sample_rows
from tests.integration.hub import FAULTS, Hub, files_of, serving_hub

pytestmark = pytest.mark.filterwarnings("ignore")
TOKEN = "hf_plantedSecretToken"
ROW = {"decision": "Erwägungen 1. Gut.", "headnote_language": "de", "decision_language": "fr"}
CARD = """---
configs:
- config_name: fr_de
  data_files:
  - {split: train, path: fr_de/train.jsonl}
  - {split: validation, path: fr_de/validation.jsonl}
- config_name: de_de
  data_files:
  - {split: train, path: de_de/train.jsonl}
---
"""
SAMPLES_CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: train.jsonl}
  - {split: validation, path: validation.jsonl}
  - {split: test, path: test.jsonl}
---
"""
MODEL, DATA = "court/tiny-gemma", "court/samples"


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def hub(gemma_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    model = build_text_model(gemma_tokenizer, tmp_path_factory.mktemp("hub") / "model")
    decisions = {
        "README.md": CARD.encode(),
        "fr_de/train.jsonl": lines([ROW | {"headnote": "Art. 1 OR."}, ROW | {"headnote": "Art. 2 OR."}]),
        "fr_de/validation.jsonl": lines([ROW | {"headnote": "Art. 3 OR."}]),
        "de_de/train.jsonl": lines([ROW | {"headnote": "Art. 4 OR."}]),
    }
    samples = {f"{split}.jsonl": lines(sample_rows(split)) for split in ("train", "validation", "test")}
    datasets = {"court/decisions": decisions, DATA: samples | {"README.md": SAMPLES_CARD.encode()}}
    with serving_hub(Hub({MODEL: files_of(model)}, datasets)) as served:
        yield served


@pytest.fixture(autouse=True)
def healthy(hub: Hub) -> None:
    hub.fault, hub.at = None, ""
    hub.seen.clear()


class Client:
    """Runs commands with a cache of their own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.folder = folder
        self.hub = hub
        self.config = folder / "config.yaml"
        keys = {
            "model_name_or_path": MODEL, "model_class": "AutoModelForCausalLM", "dataset_name": DATA,
            "dataset_eval_split": "validation", "dataset_test_split": "test", "prompts_path": str(PROMPTS),
            "output_dir": str(folder / "run"), "use_peft": True, "max_steps": 1, "save_steps": 1, "use_cpu": True,
            "per_device_train_batch_size": 1, "max_length": 512, "eval_strategy": "no", "report_to": "none",
        }  # fmt: skip
        self.config.write_text(json.dumps(keys), encoding="utf-8")

    def run(self, *arguments: object, offline: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "HF_ENDPOINT": self.hub.address,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_TOKEN": TOKEN,
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "no_proxy": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "headnote_cli", *map(str, arguments), "--config", str(self.config)]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment | more, cwd=self.folder, timeout=300
        )


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path)


COMMANDS: dict[str, tuple[str, ...]] = {
    "preview-prompts": ("preview-prompts",),
    "check-memory": ("check-memory", "--set", "model_name_or_path=court/tiny-gemma"),
    "train": ("train",),
    "merge": ("merge", "--checkpoint", "run/checkpoint-1"),
    "generate": ("generate", "--split", "test", "--output", "out.jsonl", "--model", MODEL, "--max-new-tokens", "2"),
    "evaluate": ("evaluate", "--predictions", "written.jsonl"),
    "review": ("review", "--predictions", "written.jsonl", "--output", "review.html"),
}


def prepare(client: Client, gemma_tokenizer: Any) -> None:
    """What the later commands need besides the hub: predictions, and an adapter whose base is on the hub."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    rows = [{"sample_id": r["sample_id"], "lang": r["headnote_language"], "headnote": "x"} for r in sample_rows("test")]
    (client.folder / "written.jsonl").write_bytes(lines(rows))
    local = build_text_model(gemma_tokenizer, client.folder / "local")
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(local), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = MODEL
    model.save_pretrained(client.folder / "run" / "checkpoint-1")


def refused(result: subprocess.CompletedProcess[str], *told: str) -> None:
    assert result.returncode == 4, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert TOKEN not in result.stdout + result.stderr
    assert all(text in result.stderr for text in told), result.stderr


def test_a_hub_data_set_with_a_subset_is_read_and_kept_for_later_offline(client: Client) -> None:
    subset = ("--no-tokenizer", "--json", "--set", "dataset_name=court/decisions", "--set", "dataset_subset=fr_de")

    def headnotes(*more: str, offline: bool = False) -> list[str]:
        result = client.run("preview-prompts", *subset, *more, offline=offline)
        assert result.returncode == 0, result.stdout + result.stderr
        return [row["completion"][0]["content"] for row in json.loads(result.stdout)["rows"]]

    assert headnotes() == ["Art. 1 OR.", "Art. 2 OR."]
    assert headnotes("--split", "eval", offline=True) == ["Art. 3 OR."]
    other = client.run("preview-prompts", *subset, "--set", "dataset_subset=it_it")
    assert other.returncode == 4
    assert "not this `dataset_subset`" in other.stdout


def test_a_gated_model_is_told_with_the_way_in(client: Client, hub: Hub) -> None:
    hub.fault, hub.at = "gated", "tiny-gemma"
    refused(client.run("train"), MODEL, "ask for access", "hf auth login")


@pytest.mark.slow
def test_a_download_that_was_cut_off_is_told_and_made_up_for(client: Client, hub: Hub) -> None:
    hub.fault, hub.at = "half", "model.safetensors"
    refused(client.run("train"), MODEL)
    hub.fault = None
    hub.seen.clear()
    again = client.run("train")
    assert again.returncode == 0, again.stderr
    fetched = [path for method, path, _, _ in hub.seen if method == "GET" and "/resolve/" in path]
    assert any(path.endswith("model.safetensors") for path in fetched)
    assert not any(path.endswith("tokenizer.json") for path in fetched), "what was there is not fetched again"
    run = (client.folder / "run" / "run.json").read_text()
    assert TOKEN not in run


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", [*FAULTS, "slow", "offline"])
def test_each_command_says_what_the_hub_said(
    command: str, fault: str, client: Client, hub: Hub, gemma_tokenizer: Any
) -> None:
    prepare(client, gemma_tokenizer)
    hub.fault = None if fault == "offline" else fault
    refused(client.run(*COMMANDS[command], offline=fault == "offline"), "court/")
    for name in ("out.jsonl", "review.html", "run/checkpoint-1-merged"):
        assert not (client.folder / name).exists(), "nothing half-written has its final name"
    hub.fault = None
    again = client.run(*COMMANDS[command])
    assert again.returncode in (0, 3), again.stderr  # 3: check-memory, where a card is too small
