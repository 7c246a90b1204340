"""Every command's face: bad input gives one message and the documented exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import slds
from tests.conftest import ROOT, sample_rows

COMMANDS = ("preview-prompts", "check-memory", "train", "merge", "generate")


def fails(code: int, text: str, *arguments: object, **options: Any) -> None:
    result = slds(*arguments, **options)
    assert result.exit_code == code, result.stderr + result.stdout
    assert text in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_examples(command: str, option: str) -> None:
    result = slds(command, option)
    assert result.exit_code == 0
    assert f"Examples:\n\n slds {command}" in re.sub(" *$", "", result.stdout, flags=re.M)


def test_alone_it_shows_the_order_of_the_commands() -> None:
    result = slds()
    assert result.exit_code == 0
    places = [result.stdout.index(f"{number}. slds ") for number in range(1, 8)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (("train", "configs/demo.yaml"), "slds train --config configs/demo.yaml"),
        (("train", "--learning_rate", "1e-4"), "slds train --set learning_rate=1e-4"),
        (("train", "--learning-rate", "1e-4"), "slds train --set learning_rate=1e-4"),
        (("merge", "--chekpoint", "x"), "slds merge --help"),
    ],
)
def test_the_habits_of_other_scripts_are_answered_with_what_to_write(arguments: tuple[str, ...], written: str) -> None:
    fails(2, f"→ {written}", *arguments)


def test_version() -> None:
    assert slds("--version").stdout.startswith("slds ")


@pytest.mark.parametrize("command", ["preview-prompts", "check-memory", "train"])
def test_a_missing_config_is_usage(command: str) -> None:
    fails(2, "no such file", command, "--config", "nowhere.yaml")


@pytest.mark.parametrize("command", ["preview-prompts", "check-memory", "train"])
def test_an_unknown_key_is_usage(command: str, write_config: Callable[..., Path]) -> None:
    fails(2, "unknown key `lorar_r`; did you mean `lora_r`?", command, "--config", write_config(lorar_r=3))


def test_preview_shows_messages_without_a_tokenizer(write_config: Callable[..., Path]) -> None:
    result = slds("preview-prompts", "--config", write_config(), "-n", 1, "--no-tokenizer")
    assert result.exit_code == 0
    row = sample_rows("train")[0]
    assert row["headnote"] in result.stdout
    assert row["decision"].splitlines()[2] in result.stdout, "court text is not wrapped in a pipe"


def test_preview_json_has_the_documented_keys(
    write_config: Callable[..., Path], tiny_models: Callable[[str], Path]
) -> None:
    model = str(tiny_models("AutoModelForCausalLM"))
    config = write_config(model_name_or_path=model, max_length=700, dataset_eval_split="validation")
    value = json.loads(slds("preview-prompts", "--config", config, "--row", 2, "--json", "--stats").stdout)
    (row,) = value["rows"]
    assert row.keys() >= {
        "row",
        "split",
        "sample_id",
        "prompt",
        "completion",
        "text",
        "prompt_ids",
        "completion_ids",
        "tokens",
        "overflow",
    }
    assert row["tokens"]["total"] == len(row["prompt_ids"]) + len(row["completion_ids"]) <= 700
    assert (row["overflow"], row["sample_id"]) == ("structure", 9012)
    assert value["stats"]["rows"] == 30
    bare = json.loads(slds("preview-prompts", "--config", config, "-n", 1, "--no-tokenizer", "--json").stdout)
    assert bare["rows"][0]["tokens"] is None
    assert bare["rows"][0]["text"] is None


@pytest.fixture
def odd_rows(
    write_config: Callable[..., Path], tiny_models: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Path]:
    """A config of two rows whose text holds what a terminal would obey."""

    def write(**keys: Any) -> Path:
        texts = ["Erwägungen\t1. Satz\r\nmit \u200e\x07\u202e [bold]Zeichen[/bold].  ", "Erwägungen 1. Zweiter\tSatz."]
        rows = [{"decision": text, "headnote": "Art.\t1 OR.", "headnote_language": "de"} for text in texts]
        (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        model = str(tiny_models("AutoModelForCausalLM"))
        return write_config(dataset_name=str(tmp_path / "odd.jsonl"), model_name_or_path=model, **keys)

    return write


def test_preview_raw_is_the_exact_text_of_json(odd_rows: Callable[..., Path]) -> None:
    shown = slds("preview-prompts", "--config", odd_rows(), "--json")
    texts = [row["text"] for row in json.loads(shown.stdout)["rows"]]
    assert "\t" in texts[0]
    assert any("\u200e\x07\u202e" in text for text in texts)
    assert slds("preview-prompts", "--config", odd_rows(), "--raw").stdout_bytes.decode().split("\0") == texts
    assert slds("preview-prompts", "--config", odd_rows(), "--raw", "--row", 1).stdout_bytes.decode() == texts[0]
    bare = slds("preview-prompts", "--config", odd_rows(), "--raw", "--row", 1, "--no-tokenizer")
    assert "\u200e\x07\u202e [bold]" in bare.stdout_bytes.decode()


def test_preview_of_a_row_that_is_not_cut_says_so(odd_rows: Callable[..., Path]) -> None:
    fails(2, "row 1 fits `max_length`", "preview-prompts", "--config", odd_rows(), "--row", 1, "--only-cut")


def test_preview_stats_say_when_they_come_from_the_cache(odd_rows: Callable[..., Path]) -> None:
    arguments = ("preview-prompts", "--config", odd_rows(max_length=777), "-n", 0, "--stats")
    assert "from the cache" not in slds(*arguments).stderr
    assert "train: the counts are taken from the cache" in slds(*arguments).stderr


def test_preview_tells_what_was_dropped(odd_rows: Callable[..., Path]) -> None:
    config = odd_rows(max_length=64, overflow="drop")
    stats = json.loads(slds("preview-prompts", "--config", config, "-n", 0, "--stats", "--json").stdout)["stats"]
    assert stats["rows_dropped"] == 2
    assert stats["tokens_dropped"] > 2 * 64
    assert "tokens dropped" in slds("preview-prompts", "--config", config, "-n", 0, "--stats").stdout


def test_preview_warns_of_a_chat_template_that_does_not_close_the_turn(
    odd_rows: Callable[..., Path], tmp_path: Path
) -> None:
    template = tmp_path / "open.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}", encoding="utf-8")
    result = slds("preview-prompts", "--config", odd_rows(chat_template_path=str(template)), "-n", 1)
    assert result.exit_code == 0
    assert "training would refuse this: the chat template does not close the assistant's turn" in result.stderr


def test_a_chat_template_path_without_template_is_refused(
    odd_rows: Callable[..., Path], gemma_tokenizer: Any, tmp_path: Path
) -> None:
    gemma_tokenizer.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    config = odd_rows(chat_template_path=str(tmp_path / "bare"))
    fails(2, "bare has no chat template", "preview-prompts", "--config", config, "-n", 1)


def test_preview_without_config_or_hub_shows_the_shipped_samples_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = slds("preview-prompts", "-n", 1)
    assert result.exit_code == 0, result.stderr
    assert "shown instead: the fictional rows" in result.stderr
    assert "ARRÊT FICTIF" in result.stdout
    fails(4, "cannot be reached", "preview-prompts", "--config", ROOT / "configs/ipst/slds/sft.yaml")


def test_preview_of_a_row_that_is_not_there(write_config: Callable[..., Path]) -> None:
    config = write_config(dataset_eval_split="validation")
    fails(2, "rows 1 to 30", "preview-prompts", "--config", config, "--row", 31, "--no-tokenizer")


def test_a_row_that_the_template_cannot_render_is_bad_data(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"desicion": "x", "headnote_language": "de", "headnote": "y"}\n', encoding="utf-8"
    )
    fails(
        5,
        "did you mean `desicion`?",
        "preview-prompts",
        "--config",
        write_config(dataset_name=str(tmp_path)),
        "--no-tokenizer",
    )


def test_check_memory_json_has_the_documented_keys() -> None:
    value = json.loads(slds("check-memory", "--json", "--gpu", "24GiB", "--gpu", "T4").stdout)
    (run,) = value["runs"]
    assert run.keys() >= {
        "config",
        "model",
        "method",
        "batch",
        "max_length",
        "total_bytes",
        "components",
        "parameters",
        "cards",
    }
    assert run["total_bytes"] == sum(run["components"].values())
    assert [card["name"] for card in run["cards"]] == ["24GiB", "T4"]
    assert run["method"] == "QLoRA r=32"


def test_check_memory_exits_3_when_no_card_fits() -> None:
    fails(3, "does not fit", "check-memory", "--gpu", "8GiB")
    assert slds("check-memory", "--gpu", "8GiB", "--json").exit_code == 3


def test_check_memory_shows_several_configs_side_by_side() -> None:
    names = [ROOT / f"configs/ipst/slds/{name}.yaml" for name in ("sft", "sft_liger", "sft_liger_peft")]
    result = slds("check-memory", *(part for name in names for part in ("--config", name)))
    assert result.exit_code == 0
    assert all(name.stem in result.stdout for name in names)


def test_an_unknown_card_lists_the_known() -> None:
    fails(2, "RTX 4090", "check-memory", "--gpu", "Voodoo 2")


def test_an_unreachable_model_is_exit_4(write_config: Callable[..., Path]) -> None:
    config = write_config(model_name_or_path="google/gemma-3-4b-it")
    fails(4, "local folder", "train", "--config", config)


def test_a_missing_checkpoint_is_exit_4(write_config: Callable[..., Path]) -> None:
    fails(
        4,
        "there is no checkpoint checkpoint-1364",
        "merge",
        "--checkpoint",
        "checkpoint-1364",
        "--config",
        write_config(),
    )


def test_a_checkpoint_without_adapter_is_exit_4(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    fails(4, "holds no adapter", "merge", "--checkpoint", tmp_path / "checkpoint-1", "--config", write_config())


def test_merge_wants_a_checkpoint(write_config: Callable[..., Path]) -> None:
    fails(2, "--checkpoint", "merge", "--config", write_config())


def test_generate_without_a_merged_model_says_what_to_run(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("Sachverhalt", encoding="utf-8")
    config = write_config(use_peft=True)
    fails(4, "slds merge", "generate", "--decision", tmp_path / "d.txt", "--lang", "de", "--config", config)


@pytest.mark.parametrize(
    ("content", "message", "code"),
    [
        (b"", "empty", 5),
        (b"  \n", "empty", 5),
        (b"\0\1\2", "not a text file", 5),
        (b"%PDF-1.7", "the PDF cannot be read", 5),
    ],
)
def test_a_decision_without_text_is_bad_data(
    content: bytes, message: str, code: int, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "d.txt").write_bytes(content)
    fails(code, message, "generate", "--decision", tmp_path / "d.txt", "--lang", "de", "--config", write_config())


def test_a_decision_that_is_not_there_and_a_language_that_is_none(write_config: Callable[..., Path]) -> None:
    fails(2, "no such file", "generate", "--decision", "nowhere.txt", "--lang", "de", "--config", write_config())
    fails(2, "'de', 'fr', 'it'", "generate", "--decision", "-", "--lang", "rm", "--config", write_config(), stdin="x")
    fails(5, "empty", "generate", "--decision", "-", "--lang", "de", "--config", write_config(), stdin="")


def test_an_unknown_dtype_is_usage(write_config: Callable[..., Path]) -> None:
    asked = ("merge", "--checkpoint", "x", "--dtype", "int8", "--config", write_config())
    fails(2, "'float32', 'bfloat16', 'float16'", *asked)


def test_an_option_that_is_refused_is_an_error_object_too() -> None:
    for arguments in (("generate", "--lang", "rm"), ("check-memory", "--for", "fun"), ("train", "--sample", "-1")):
        shown = slds(*arguments, "--json")
        assert shown.exit_code == 2
        error = json.loads(shown.stdout)["error"]
        assert error["type"] == "UsageError"
        assert arguments[1] in error["message"]


@pytest.mark.parametrize("name", ["ROWS.JSONL", "rows.Csv", "rows.jsonlines.gz"])
def test_a_file_of_rows_is_known_by_its_name_in_any_case(
    tmp_path: Path, write_config: Callable[..., Path], name: str
) -> None:
    (tmp_path / name).write_text("x", encoding="utf-8")
    given = ("--config", write_config(), "--decision", tmp_path / name, "--lang", "de")
    fails(2, "name a file for the headnotes with --output", "generate", *given)
