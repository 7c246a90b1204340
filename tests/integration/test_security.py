"""What comes from elsewhere runs nothing, and what is secret is written nowhere."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.runs.folders import seal
from tests.commands import slds
from tests.conftest import build_text_model, sample_rows

pytestmark = pytest.mark.filterwarnings("ignore")
SECRETS = {
    "HF_TOKEN": "hf_plantedToken1234567890",
    "OPENAI_API_KEY": "sk-planted-1234567890",
    "WANDB_API_KEY": "planted-wandb-1234567890",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-1234567890",
}


class Opens:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture
def decision(tmp_path: Path) -> Path:
    file = tmp_path / "decision.txt"
    file.write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_no_pickle_of_a_checkpoint_is_run(name: str, tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    keys = {"max_steps": 2, "save_steps": 1, "load_in_4bit": False}
    assert slds("train", "--config", tiny_training(**keys)).exit_code == 0
    run, marker = tmp_path / "run", tmp_path / "it-ran"
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / name).write_bytes(pickle.dumps(Opens(marker)))
        seal(checkpoint)  # its maker can write a manifest too
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    result = slds("train", "--config", tiny_training(**(keys | {"max_steps": 3})), "--force")
    assert not marker.exists(), "it was unpickled"
    assert "Traceback" not in result.stderr
    if result.exit_code:
        assert "error: " in result.stderr


def test_pickled_weights_are_not_run(
    gemma_tokenizer: Any, decision: Path, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    model = build_text_model(gemma_tokenizer, tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Opens(tmp_path / "it-ran")))
    result = slds("generate", "--decision", decision, "--lang", "de", "--model", model, "--config", write_config())
    assert result.exit_code != 0
    assert not (tmp_path / "it-ran").exists()


def test_code_that_comes_with_a_model_is_not_run(
    gemma_tokenizer: Any, decision: Path, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    model = build_text_model(gemma_tokenizer, tmp_path / "model")
    marker = tmp_path / "it-ran"
    (model / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n", encoding="utf-8")
    config = json.loads((model / "config.json").read_text())
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    (model / "config.json").write_text(json.dumps(config | {"auto_map": own, "model_type": "own"}), encoding="utf-8")
    named = write_config(model_name_or_path=str(model), trust_remote_code=True)
    for arguments in (
        ("generate", "--decision", decision, "--lang", "de", "--model", model),
        ("check-memory",),
        ("preview-prompts",),
        ("train",),
    ):
        result = slds(*arguments, "--config", named)
        assert not marker.exists(), arguments
        assert "Traceback" not in result.stderr


def test_secrets_are_written_nowhere(
    tiny_training: Callable[..., Path], decision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    config = tiny_training(max_steps=1, save_steps=1, load_in_4bit=False, hub_token="hf_plantedInConfig")
    spoken = ""
    for arguments in (
        ("train", "--config", config, "--debug"),
        ("train", "--config", config, "--print-config"),
        ("merge", "--checkpoint", "latest", "--config", config),
        ("generate", "--decision", decision, "--lang", "de", "--config", config, "--max-new-tokens", 2, "--json"),
        ("generate", "--decision", decision, "--lang", "de", "--config", config, "--endpoint", "http://127.0.0.1:9"),
        ("generate", "--decision", tmp_path / "none", "--lang", "de", "--config", config, "--debug"),
        ("train", "--config", config, "--set", "model_name_or_path=nobody/nothing", "--debug"),
    ):
        result = slds(*arguments)
        spoken += result.stdout + result.stderr
    config.unlink()
    written = b"".join(Path(folder, name).read_bytes() for folder, _, names in os.walk(tmp_path) for name in names)
    for secret in (*SECRETS.values(), "hf_plantedInConfig"):
        assert secret not in spoken
        assert secret.encode() not in written
