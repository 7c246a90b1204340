"""Training asks the estimate first, and writes beside it what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from headnote_cli.config.layers import load_config
from headnote_cli.machine.detect import Gpu, Machine
from headnote_cli.machine.memory import available_memory, main_memory
from headnote_cli.machine.plan import resolve
from headnote_cli.memory.cards import GIB, Card
from headnote_cli.memory.estimate import BESIDE
from headnote_cli.training import expected as train
from tests.commands import slds
from tests.conftest import ROOT


def test_a_step_that_cannot_fit_is_refused_before_loading(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(per_device_train_batch_size=1_000_000, load_in_4bit=False)
    refused = slds("train", "--config", config)
    assert refused.exit_code == 3
    assert "a step needs" in refused.stderr
    assert "--ignore-memory" in refused.stderr
    assert slds("train", "--config", config, "--ignore-memory", "--dry-run").exit_code == 0


def test_the_record_has_the_estimate_and_what_was_measured(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(max_steps=1, save_steps=1, load_in_4bit=False, output_dir=str(tmp_path / "run"))
    shown = slds("train", "--config", config)
    assert shown.exit_code == 0, shown.stderr
    assert "memory: " in shown.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["estimated_memory"]["bytes"] == sum(record["estimated_memory"]["components"].values())
    assert record["measured_memory"]["peak_rss"] > record["estimated_memory"]["bytes"], "libraries are in it too"


def test_a_model_of_unknown_sizes_trains_without_an_estimate(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: object
) -> None:
    config = tiny_training(load_in_4bit=False)
    folder = Path(json.loads(slds("train", "--config", config, "--print-config", "--json").stdout)["config"]
                  ["model_name_or_path"])  # fmt: skip
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    strange = tmp_path / "strange"
    strange.mkdir()
    for file in folder.iterdir():
        (strange / file.name).write_bytes(file.read_bytes())
    sizes.pop("intermediate_size")  # transformers falls back to its default, the estimate does not guess
    (strange / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    shown = slds("train", "--config", config, "--dry-run", "--set", f"model_name_or_path={strange}")
    assert "memory not estimated" in shown.stderr


# What this process trains in, and when it is refused.


def test_a_gpu_is_a_processes_own_and_main_memory_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (Gpu("first", (8, 0), 24 * GIB, used=20 * GIB), Gpu("second", (8, 0), 24 * GIB))
    machine = Machine(gpus, frozenset(), None, 2, 64 * GIB)
    card, processes = train.own_card("cuda", machine, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert (card.name, card.used, processes) == ("second", 0, 1)
    monkeypatch.setattr(train, "available_memory", lambda: 10 * GIB)
    card, processes = train.own_card("cpu", machine, {"LOCAL_WORLD_SIZE": "2"})
    assert (card.memory - card.used, processes) == (10 * GIB, 2)


def test_only_tensors_beyond_what_is_free_are_refused() -> None:
    card = Card("card", 24 * GIB, used=4 * GIB)
    assert not card.clearly_below(20 * GIB)
    assert card.verdict(20 * GIB) == "does not fit", "that is a warning"
    assert card.clearly_below(20 * GIB + 1)


def test_processes_on_one_cpu_share_its_memory(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_training(load_in_4bit=False)
    components = json.loads(slds("check-memory", "--config", config, "--json").stdout)["runs"][0]["components"]
    needed = sum(size for name, size in components.items() if name not in BESIDE)  # tensors alone refuse
    monkeypatch.setattr(train, "available_memory", lambda: int(1.5 * needed))
    assert slds("train", "--config", config, "--dry-run").exit_code == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    refused = slds("train", "--config", config, "--dry-run")
    assert refused.exit_code == 3
    assert "main memory has" in refused.stderr


def test_the_launchers_way_to_share_is_estimated(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_training(load_in_4bit=False, use_peft=False))
    machine = Machine((), frozenset(), "g++", 2, 64 * GIB)
    plan = resolve(config.settings, machine, "gemma3_text")

    def expected() -> dict[str, int]:
        found = train.expected_memory(config, plan, machine, True, lambda _: None)
        assert found is not None
        return dict(found["components"])

    alone = expected()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert expected()["DDP buckets"] > 0
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    shared = expected()
    assert shared["optimizer states"] == -(-alone["optimizer states"] // 4)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "cpu")
    assert train.expected_memory(config, plan, machine, False, lambda _: None) is None


def test_on_a_gpu_the_line_says_which_figure_the_progress_shows(tiny_training: Callable[..., Path]) -> None:
    config = load_config(tiny_training(load_in_4bit=False, use_cpu=False))
    machine = Machine((Gpu("card", (8, 6), 24 * GIB),), frozenset(), "g++", 2, 64 * GIB)
    told = []
    for one in (machine, Machine((), frozenset(), "g++", 2, 64 * GIB)):
        plan = resolve(config.settings, one, "gemma3_text")
        found = train.expected_memory(config, plan, one, True, lambda _: None)
        assert found is not None
        told.append(found["told"])
    assert "(card), estimated; tensors alone, as the progress counts them, " in told[0]
    assert told[1].endswith("(main memory), estimated")


def test_what_other_programs_hold_of_the_own_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from headnote_cli.models import loading

    asked: list[int] = []

    def free_and_total(index: int) -> tuple[int, int]:
        asked.append(index)
        return 5 * GIB, 24 * GIB

    properties = SimpleNamespace(name="card", major=8, minor=9, total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_and_total)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [gpu.used for gpu in loading.this_machine().gpus] == [0, 19 * GIB]
    assert asked == [1], "asking another GPU would take a context there"


def test_available_memory_is_what_the_system_says() -> None:
    assert 0 < available_memory() <= main_memory()


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, {"load_in_4bit": "false"}], ids=["4 bits", "float32"])
def test_on_a_cpu_the_estimate_is_the_resident_set_of_a_real_step(keys: dict[str, str], tmp_path: Path) -> None:
    """The demo's model: a tiny one would show the libraries alone. In a process of its own, whose peak is its own."""
    if not (ROOT / ".cache/demo/SmolLM2-135M-Instruct/model.safetensors").is_file():
        pytest.skip("the demo's model is not here: `make demo` fetches it")
    settings = {
        "output_dir": str(tmp_path / "run"), "max_steps": "2", "max_length": "1024", "save_strategy": "no",
        "eval_strategy": "no", **keys,
    }  # fmt: skip
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "headnote_cli", "train", "--config", "configs/demo.yaml", *options]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    ratio = record["measured_memory"]["peak_rss"] / record["estimated_memory"]["bytes"]
    assert 0.75 < ratio < 1.2, f"measured / estimated: {ratio:.2f}"
