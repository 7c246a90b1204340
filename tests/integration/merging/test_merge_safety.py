"""Merging: what is broken is named before anything is written, and a killed merge leaves nothing half."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headnote_cli.errors import SldsError
from headnote_cli.runs.folders import locked, replacing
from tests.commands import slds, slds_json
from tests.conftest import build_text_model, text_config
from tests.integration.merging.test_merge import ATTENTION, CLASSES, make_adapter

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = CLASSES["text"]


@pytest.fixture(scope="module")
def base(gemma_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_text_model(gemma_tokenizer, tmp_path_factory.mktemp("base") / "text")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return make_adapter(base, TEXT, tmp_path / "adapter", target_modules=ATTENTION)


@pytest.fixture
def merge(base: Path, adapter: Path, write_config: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Run a merge of the adapter; nothing may be written unless it ends well."""
    config = write_config(model_name_or_path=str(base), model_class=TEXT)

    def run(*more: object, output: Path = tmp_path / "out") -> Any:
        result = slds("merge", "--checkpoint", adapter, "--config", config, "--output", output, *more)
        if result.exit_code:
            assert not output.exists()
            assert not list(output.parent.glob(f".{output.name}.writing/new/*"))
            assert "Traceback" not in result.stderr
        return result

    return run


def _rewritten(adapter: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_another_bases_adapter_is_refused_with_the_shapes(
    merge: Callable[..., Any], adapter: Path, gemma_tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import Gemma3ForCausalLM

    config = text_config(len(gemma_tokenizer))
    config.hidden_size = 32
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "other")
    gemma_tokenizer.save_pretrained(tmp_path / "other")
    result = merge("--set", f"peft_base_model_path={tmp_path / 'other'}")
    assert result.exit_code == 5
    assert "has the shape (4, 64), and the base's weight" in result.stderr


def test_a_tensor_without_a_home_is_listed_with_the_nearest_weights(merge: Callable[..., Any], adapter: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    strange = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    _rewritten(adapter, lambda tensors: {strange if key == name else key: value for key, value in tensors.items()})
    result = merge()
    assert result.exit_code == 5
    assert strange in result.stderr
    assert "nearest: model.layers" in result.stderr


def test_numbers_that_are_not_finite_are_named(merge: Callable[..., Any], adapter: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"

    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[name][0, 0] = float("nan")
        return tensors

    _rewritten(adapter, spoil)
    result = merge()
    assert result.exit_code == 5
    assert f"{name} holds numbers that are not finite" in result.stderr


def test_pickles_halves_and_missing_files_are_refused(merge: Callable[..., Any], adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-10])
    assert "is not a whole safetensors file" in merge().stderr
    weights.rename(adapter / "adapter_model.bin")
    result = merge()
    assert result.exit_code == 2
    assert "can run code and is not read" in result.stderr
    weights.write_bytes(data)
    (adapter / "adapter_config.json").write_text("{")
    assert merge().exit_code == 5
    (adapter / "adapter_config.json").unlink()
    assert "no adapter_config.json" in merge().stderr


def test_output_in_a_bad_place(merge: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    assert "inside the checkpoint" in merge(output=adapter / "merged").stderr
    (tmp_path / "file").write_text("a file")
    result = merge(output=tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_too_little_room_is_told_beforehand(merge: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headnote_cli.merging.stream.shutil.disk_usage", lambda _: type("", (), {"free": 1000})())
    result = merge()
    assert result.exit_code == 1
    assert "the disk has 0.0 GiB left" in result.stderr


def test_other_weights_than_the_runs_are_refused(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    """The base was trained on in the meantime, or replaced: same names and shapes, other numbers."""
    import shutil

    from safetensors.torch import load_file, save_file

    own = tmp_path / "base"
    config = tiny_training(max_steps=1, save_steps=1)
    model = Path(json.loads(config.read_text().split("model_name_or_path: ")[1].splitlines()[0]))
    shutil.copytree(model, own)
    config = tiny_training(max_steps=1, save_steps=1, model_name_or_path=str(own))
    slds_json("train", "--config", config)
    tensors = load_file(own / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, own / "model.safetensors", {"format": "pt"})
    result = slds("merge", "--checkpoint", "latest", "--config", config)
    assert result.exit_code == 5
    assert "not those that the checkpoint was trained on" in result.stderr


@pytest.fixture(scope="module")
def source(base: Path) -> Path:
    """One adapter for all examples."""
    return make_adapter(base, TEXT, base.parent / "fuzzed", target_modules=["q_proj"])


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_adapter_folder_is_merged_or_refused_in_words(
    base: Path, source: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Headers with other lengths, ranges, dtypes and names; configs with other values: no crash, no large memory."""
    from headnote_cli.merging.plan import MergeJob, plan_merge
    from headnote_cli.models.adapters import NeedsPeft
    from headnote_cli.models.base import BaseModel

    folder = tmp_path_factory.mktemp("fuzz") / "adapter"
    folder.mkdir()
    config = json.loads((source / "adapter_config.json").read_text())
    values = st.none() | st.booleans() | st.integers(-3, 2**40) | st.text(max_size=5)
    values |= st.lists(st.integers(), max_size=2)
    values |= st.dictionaries(st.text(max_size=5), st.integers(-1, 9), max_size=2)
    for key in data.draw(st.lists(st.sampled_from([*config, "new_feature"]), max_size=3)):
        config[key] = data.draw(values)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    content = bytearray((source / "adapter_model.safetensors").read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for at in data.draw(st.lists(st.integers(0, end - 1), max_size=4)):
        content[at] = data.draw(st.sampled_from(b'09[]{}",:aFB \x00\xff'))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    (folder / "adapter_model.safetensors").write_bytes(bytes(content[:cut]))
    told, size = "", 0
    try:
        size = plan_merge(MergeJob(BaseModel(str(base), TEXT), (folder,))).bytes
    except (SldsError, NeedsPeft) as reason:
        told = str(reason)
    assert told or 0 < size < 10**8


def _kill_while_writing(command: list[str], output: Path, wait: float) -> bool:
    """Start a merge and kill it `wait` seconds after its first bytes; tells whether it was still at work."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    new = output.with_name(f".{output.name}.writing") / "new"
    while process.poll() is None and not any(new.glob("*")):
        time.sleep(0.002)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_kill_9_leaves_no_output_or_a_whole_one(
    kills: int, base: Path, adapter: Path, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config, output = write_config(model_name_or_path=str(base), model_class=TEXT), tmp_path / "out"
    arguments = ["merge", "--checkpoint", str(adapter), "--config", str(config), "--output", str(output), "--force"]
    command = [sys.executable, "-m", "headnote_cli", *arguments]
    dice, killed = random.Random(kills), 0
    for _ in range(kills):
        killed += _kill_while_writing(command, output, dice.choice([0, 0, 0.01, 0.05, 0.5, 2]))
        assert not output.exists() or slds_json("merge", "--check", output)["sound"]
    assert killed
    slds_json(*arguments)
    assert slds_json("merge", "--check", output)["sound"]
    assert not list(tmp_path.glob(".*")), "leftovers are cleaned up"


def _half_written(target: Path) -> None:
    with replacing(target) as folder:
        (folder / "new").touch()
        raise ValueError("half")


def test_an_older_output_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target, work = tmp_path / "model", tmp_path / ".model.writing"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(ValueError, match="half"):
        _half_written(target)
    assert [file.name for file in target.iterdir()] == ["old"]
    assert not work.exists()
    # Killed between the two renames: the older one is brought back first.
    work.mkdir()
    target.rename(work / "old")
    with pytest.raises(ValueError, match="half"):
        _half_written(target)
    assert [file.name for file in target.iterdir()] == ["old"]
    with replacing(target) as folder:
        (folder / "new").touch()
    assert [file.name for file in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_merges_to_one_place_are_refused(merge: Callable[..., Any], tmp_path: Path) -> None:
    with locked(tmp_path / ".out.writing"):
        code = (
            "import sys\nfrom pathlib import Path\nfrom headnote_cli.runs.folders import replacing\n"
            "with replacing(Path(sys.argv[1])): pass"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another run is at work in this folder: process" in result.stderr


def test_merging_imports_no_peft(base: Path, adapter: Path, write_config: Callable[..., Path], tmp_path: Path) -> None:
    """Its import takes longer than the merge; what is compared afterwards may need it."""
    config = write_config(model_name_or_path=str(base), model_class=TEXT)
    arguments = ["merge", "--checkpoint", str(adapter), "--config", str(config), "--no-verify"]
    code = (
        "import sys\nfrom headnote_cli.cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'peft', 'trl', 'bitsandbytes', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *arguments, "--output", str(tmp_path / "out")], check=True)


def test_four_bit_weights_in_a_fresh_process(base: Path, write_config: Callable[..., Path], tmp_path: Path) -> None:
    """The threads that merge must find bitsandbytes whole."""
    adapter = make_adapter(base, TEXT, tmp_path / "all-linear", target_modules="all-linear")
    config = write_config(model_name_or_path=str(base), model_class=TEXT)
    arguments = ["merge", "--checkpoint", str(adapter), "--config", str(config), "--onto", "nf4", "--no-verify"]
    command = [sys.executable, "-m", "headnote_cli", *arguments, "--output", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    assert slds_json("merge", "--check", tmp_path / "out")["sound"]
