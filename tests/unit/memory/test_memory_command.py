"""What `slds check-memory` shows, and whose card decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headnote_cli.config.keys import Settings
from headnote_cli.errors import UsageError
from headnote_cli.machine.detect import Gpu, Machine
from headnote_cli.memory import command
from headnote_cli.memory.cards import GIB, card
from headnote_cli.memory.rows import training_order
from tests.commands import slds
from tests.conftest import ROOT, SAMPLES
from tests.unit.memory.given import first_run

SHIPPED = [f"configs/ipst/slds/{name}.yaml" for name in ("sft", "sft_liger", "sft_liger_peft")]
# The demo's config with its model by the hub's name, whose sizes are bundled: its folder comes with `make demo`.
DEMO = ("--config", ROOT / "configs/demo.yaml", "--set", "model_name_or_path=HuggingFaceTB/SmolLM2-135M-Instruct")
SIDE_BY_SIDE = [part for name in SHIPPED for part in ("--config", ROOT / name)]


@pytest.mark.parametrize(
    ("text", "name", "memory"),
    [
        ("4090", "RTX 4090", 24),
        ("RTX 4090 24GB", "RTX 4090", 24),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 24),
        ("A100 40GB", "A100-40", 40),
        ("A100-40GB", "A100-40", 40),
        ("A100-40", "A100-40", 40),
        ("NVIDIA A100-SXM4-80GB", "A100-80", 80),
        ("A100", "A100-80", 80),
        ("H100 80GB", "H100", 80),
        ("NVIDIA H100 80GB HBM3", "H100", 80),
        ("NVIDIA L4", "L4", 24),
        ("Tesla T4", "T4", 16),
        ("A10G", "A10G", 24),
        ("A10", "A10", 24),
        ("24576MiB", "24576MiB", 24),
        ("24 GiB", "24 GiB", 24),
    ],
)
def test_cards_are_known_by_the_names_that_people_write(text: str, name: str, memory: int) -> None:
    found = card(text)
    assert (found.name, found.memory) == (name, memory * GIB)


@pytest.mark.parametrize("text", ["0GiB", "0.0 GB", "RTX", "-8GiB", "", "4091", "GiB"])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        card(text)


def test_a_variant_has_the_memory_that_is_written() -> None:
    assert card("RTX 3060 8GiB").memory == 8 * GIB


@pytest.mark.parametrize(
    "change", ["per_device_train_batch_size=1000000", "max_length=100000000"], ids=["batch", "length"]
)
def test_absurd_batches_and_lengths_are_named(change: str) -> None:
    result = slds("check-memory", "--set", change)
    assert result.exit_code == 2
    assert "is more than any GPU could hold" in result.stderr


# Whose card decides.


def machine_with(*gpus: Gpu) -> Callable[[], Machine]:
    return lambda: Machine(gpus, frozenset({"triton", "liger_kernel", "torchao", "bitsandbytes"}), "g++", 2, 64 * GIB)


@pytest.mark.parametrize(("gibibytes", "used", "code"), [(12, 0, 3), (24, 0, 0), (24, 10, 3)])
def test_this_machines_own_gpu_decides(gibibytes: int, used: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("Some GPU", (8, 9), gibibytes * GIB, used * GIB)
    monkeypatch.setattr(command, "detect", machine_with(gpu))
    result = slds("check-memory")
    assert result.exit_code == code
    assert ("does not fit on this machine" in result.stderr) == (code == 3)
    assert "Some GPU (here)" in result.stdout
    assert slds("check-memory", "--gpu", "H100").exit_code == 0, "a card that is named decides instead"


def test_a_cpu_is_held_against_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "available_memory", lambda: 4 * GIB)
    monkeypatch.setattr(command, "detect", machine_with())
    on_cpu = ("--set", "use_cpu=true")
    cards = first_run(*on_cpu)["cards"]  # without Liger and FlashAttention, as `slds train` does it
    assert [(one["name"], one["used"]) for one in cards] == [("main memory (here)", 60 * GIB)]
    assert slds("check-memory", *on_cpu).exit_code == 3


def test_without_a_gpu_one_line_says_what_train_would_do_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "detect", machine_with())
    monkeypatch.setattr(command, "available_memory", lambda: 40 * GIB)
    *usual, here = first_run()["cards"]
    assert here["name"] == "this CPU"
    assert len(usual) == 9
    on_cpu = first_run("--set", "use_cpu=true")["cards"][0]
    assert {name: here[name] for name in ("verdict", "largest_batch", "longest")} == {
        name: on_cpu[name] for name in ("verdict", "largest_batch", "longest")
    }
    assert slds("check-memory").exit_code == 0, "a card that one may rent fits"
    assert "this CPU, " in slds("check-memory").stdout
    assert len(first_run("--gpu", "H100")["cards"]) == 1


def test_configs_for_a_cpu_and_a_gpu_stand_side_by_side(write_config: Callable[..., Path]) -> None:
    model = "google/gemma-3-270m-it"
    cpu = write_config("cpu.yaml", model_name_or_path=model, use_cpu=True)
    gpu = write_config("gpu.yaml", model_name_or_path=model)
    for pair in ((cpu, gpu), (gpu, cpu)):
        shown = slds("check-memory", *[part for one in pair for part in ("--config", one)])
        assert "main memory (here)" in shown.stdout, shown.stderr
        assert "RTX 4090" in shown.stdout


def test_an_evaluation_on_a_cpu_counts_its_own_batch_and_its_labelled_logits() -> None:
    keys = (*DEMO, "--set", "max_length=1024")
    small, large = (
        first_run(*keys, "--set", f"per_device_eval_batch_size={batch}")["phases"]["evaluation"] for batch in (2, 12)
    )
    logits = 2 * 4 * 10 * 768 * 49152  # ten rows more, two float32 copies of each headnote's logits
    assert large - small == pytest.approx(logits, rel=0.01)


def test_on_a_cpu_the_total_is_that_of_the_process() -> None:
    components = first_run(*DEMO)["components"]
    assert components["libraries"] > 400_000_000
    assert components["base's file, mapped"] == 2 * 134_515_008, "in 16 bits on the disk"
    assert "CUDA context" not in components


def test_each_card_is_judged_by_what_slds_would_do_on_it() -> None:
    """A T4 has no bfloat16 and no FlashAttention-2."""
    runs = {name: first_run("--gpu", name) for name in ("T4", "RTX 3090", "24GiB")}
    assert runs["T4"]["total_bytes"] == pytest.approx(29.6 * GIB, rel=0.01)
    assert runs["RTX 3090"]["total_bytes"] == runs["24GiB"]["total_bytes"] == pytest.approx(16.3 * GIB, rel=0.01)
    together = first_run("--gpu", "T4", "--gpu", "RTX 3090")["cards"]
    assert [(one["fits"], one["largest_batch"]) for one in together] == [(False, 1), (True, 6)]
    changes = {row["setting"]: row["effective"] for row in together[0]["changes"]}
    assert changes == {"dtype": "float32", "attn_implementation": "sdpa"}
    assert together[1]["changes"] == []


def test_the_table_says_what_a_card_does_otherwise_and_the_plan_is_the_named_cards() -> None:
    shown = slds("check-memory", "--gpu", "T4", "--gpu", "24GiB")
    assert "no; batch 1 or length 3,584 would fit" in shown.stdout
    assert "T4: float32, sdpa (it has no bfloat16)" in shown.stdout
    assert "24GiB: taken for an Ampere GPU or a later one" in shown.stdout
    plan = {row["setting"]: row["effective"] for row in first_run("--gpu", "T4")["plan"]}
    assert (plan["device"], plan["dtype"], plan["attn_implementation"]) == ("cuda", "float32", "sdpa")


def test_plain_trl_does_as_it_is_told_on_any_card() -> None:
    totals = {first_run("--gpu", name, "--stack", "trl")["total_bytes"] for name in ("T4", "RTX 3090")}
    assert len(totals) == 1


def test_a_grid_is_coloured_by_a_card_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_run("--grid")["grid_card"] == "RTX 4090", "the smallest usual card that holds the config"
    assert first_run("--grid", "--gpu", "H100", "--gpu", "8GiB")["grid_card"] == "H100"
    assert "green fits RTX 4090 (24 GiB)" in " ".join(slds("check-memory", "--grid").stdout.split())
    monkeypatch.setattr(command, "detect", machine_with(Gpu("Mine", (8, 0), 24 * GIB)))
    assert first_run("--grid")["grid_card"] == "Mine (here)"


# What is shown.


def test_three_configs_tell_the_story_on_one_screen_with_every_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = slds("check-memory", *SIDE_BY_SIDE).stdout
    lines = shown.splitlines()
    assert len(lines) <= 50
    assert max(len(line) for line in lines) <= 80
    for name in ("weights", "adapters", "optimizer states", "activations", "one layer at work", "gradients", "batch",
                 "allocator slack", "CUDA context", "total", "fullest in", "weights in", "attention", "method", "loss",
                 "batch × length"):  # fmt: skip
        assert any(line.strip().startswith(name) for line in lines), name
    runs = json.loads(slds("check-memory", *SIDE_BY_SIDE, "--json").stdout)["runs"]
    for run in runs:
        assert sum(run["components"].values()) == run["total_bytes"]
        assert all(f" {name} " in shown for name in run["components"])
    assert "39.7 GiB" in shown
    assert "39.4 GiB" in shown
    assert "16.3 GiB" in shown


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_cards_and_yaml_lines_stay_whole_on_every_screen(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (SIDE_BY_SIDE, ("--stack", "trl", "--grid")):
        shown = slds("check-memory", *arguments).stdout
        assert max(len(line) for line in shown.splitlines()) <= columns or "--grid" in arguments
        for name in ("RTX 4090, 24 GiB", "H200, 141 GiB", "optimizer states", "one layer at work"):
            assert name in shown
    assert "per_device_train_batch_size: 1\n" in "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    assert "gradient_accumulation_steps: 4" in shown


def test_advice_for_trl_spares_the_vision_tower() -> None:
    def advised(stack: str) -> dict[str, list[str]]:
        return {change["what"]: change["lines"] for change in first_run("--stack", stack)["advice"]}

    what = "no adapters in the unused vision tower"
    assert what in advised("trl")
    assert what in advised("workshop")
    assert what not in advised("slds"), "it is spared already"
    lines = first_run("--stack", "trl")["advice"]
    change = next(one for one in lines if one["what"] == what)
    pattern = change["lines"][0].split(": ", 1)[1]
    spared = first_run("--stack", "trl", "--set", f"lora_target_modules={pattern}")
    assert spared["parameters"]["trainable"] == 59_604_992
    assert spared["total_bytes"] == change["total"]


def test_advice_that_does_nothing_is_not_given() -> None:
    """The workshop's 4 bits reach no weight."""
    single = first_run("--stack", "workshop", "--set", "use_bnb_nested_quant=false")["advice"]
    assert "double quantization" not in [change["what"] for change in single]
    assert all(change["saved"] > 0 for change in single)


def test_the_sizes_say_where_they_come_from() -> None:
    assert "google/gemma-3-4b-it" in first_run()["sizes"]


# Rows at hand.


def test_an_empty_split_is_bad_data(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for file in SAMPLES.glob("*.jsonl"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = tiny_training(load_in_4bit=False, dataset_name=str(folder), overflow="drop", max_length=16)
    result = slds("check-memory", "--config", config, "--data")
    assert result.exit_code == 5
    assert "no row is left" in result.stderr


def test_rows_at_hand_give_length_labels_and_what_gave_way(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(load_in_4bit=False, max_length=512)
    result = slds("check-memory", "--config", config, "--data")
    assert "rows from" in result.stderr
    assert "rows cut by" in result.stderr
    run = first_run("--config", config, "--data")
    assert run["data"]["rows_cut"] > 0
    assert 0 < run["data"]["labels"] < 512
    shorter = first_run("--config", config)
    assert run["phases"]["loss"] < shorter["phases"]["loss"], "headnotes at hand are shorter than the longest known"


def test_the_mean_follows_the_order_of_training() -> None:
    """Rows of like length lie together, the longest first."""
    lengths = [100 * (1 + index % 40) for index in range(400)]
    order = training_order(lengths, Settings(per_device_train_batch_size=4))
    assert sorted(order) == list(range(400))
    assert lengths[order[0]] == 4000
    padded = sum(4 * max(lengths[row] for row in order[start : start + 4]) for start in range(0, 400, 4))
    assert padded < 1.1 * sum(lengths)
    shuffled = Settings(per_device_train_batch_size=4, train_sampling_strategy="random")
    assert training_order(lengths, shuffled) != order
