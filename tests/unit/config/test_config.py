"""The config loader: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headnote_cli.config.keys import RULES, Settings
from headnote_cli.config.layers import Config, as_yaml, load_config
from headnote_cli.config.renamed import GONE, RENAMED
from headnote_cli.errors import ConfigError, UsageError
from headnote_cli.screen.console import printable
from scripts.generate_schema import json_schema
from tests.conftest import ROOT, examples

SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
RECIPE = """
mode: train
model_class: AutoModelForImageTextToText
dataset_name: ipst/slds
prompts_path: ./prompts/ipst/slds
dataset_subset: fr_de
dataset_eval_split: validation
dataset_test_split: test
dataset_train_split: train
fine_tuning_data_format: conversational_prompt_completion
peft_base_model_path: google/gemma-3-4b-it
dtype: bfloat16
trust_remote_code: true
model_name_or_path: google/gemma-3-4b-it
attn_implementation: flash_attention_2
use_peft: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.1
load_in_4bit: true
lora_task_type: CAUSAL_LM
lora_target_modules: all-linear
run_name: google/gemma-3-4b-it-ipst/slds
dataset_num_proc: 8
seed: 42
bf16: true
use_liger_kernel: true
ddp_find_unused_parameters: true
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
optim: adamw_torch_4bit
max_length: 8192
warmup_ratio: 0.1
logging_steps: 1
learning_rate: 2e-4
lr_scheduler_type: cosine
per_device_train_batch_size: 3
report_to: wandb
num_train_epochs: 1
output_dir: ./trainer_output/google/gemma-3-4b-it-ipst/slds
resume_from_checkpoint: false
save_strategy: epoch
"""


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if not path.name.startswith("accelerate")], ids=lambda path: path.name
)
def test_every_shipped_config_loads(path: Path) -> None:
    config = load_config(path)
    assert config.settings.model_name_or_path
    assert config.path_of("prompts_path").is_dir()


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if path.name.startswith("accelerate")], ids=lambda path: path.name
)
def test_accelerate_reads_its_shipped_configs(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes in (1, 4)


def test_the_shipped_recipe_is_the_workshops() -> None:
    peft = load_config(ROOT / "configs/ipst/slds/sft_liger_peft.yaml").settings
    assert (peft.lora_r, peft.lora_alpha, peft.lora_dropout) == (32, 16, 0.1)
    assert (peft.learning_rate, peft.per_device_train_batch_size, peft.max_length) == (2e-4, 4, 8192)
    assert (peft.load_in_4bit, peft.use_liger_kernel, peft.optim) == (True, True, "adamw_torch_4bit")
    assert (peft.attn_implementation, peft.lora_target_modules) == ("flash_attention_2", "all-linear")
    full = load_config(ROOT / "configs/ipst/slds/sft_liger.yaml").settings
    assert (full.learning_rate, full.per_device_train_batch_size, full.use_peft) == (2e-5, 1, False)
    assert (full.attn_implementation, full.use_liger_kernel) == ("eager", True)


def test_the_workshops_yaml_loads_unchanged(tmp_path: Path) -> None:
    config = load(tmp_path, RECIPE)
    assert config.settings.learning_rate == 2e-4
    assert config.settings.warmup_steps == 0.1
    assert config.settings.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert any("`warmup_ratio` is now `warmup_steps`" in note for note in config.notes)
    assert any("`mode` is ignored" in note for note in config.notes)
    vllm = load(tmp_path, f"{RECIPE}\nevaluate_vllm_model_name_or_path: merged\n")
    assert any("`evaluate_vllm_model_name_or_path` is ignored" in note for note in vllm.notes)


def test_all_faults_are_told_at_once_with_line_and_column(tmp_path: Path) -> None:
    text = "max_lenght: 8\nlora_r: abc\nseed: 1\nseed: 2\nlora_dropout: 3\nbf16: true\nfp16: true\nwarmup_ratio: 1\n"
    message = refusal(tmp_path, text)
    assert "6 problems in the configuration" in message
    assert "config.yaml:1:1: unknown key `max_lenght`; did you mean `max_length`?" in message
    assert "config.yaml:2:1: `lora_r: 'abc'` is not a whole number" in message
    assert "config.yaml:4:1: `seed` is given twice, first in line 3" in message
    assert "config.yaml:5:1: `lora_dropout: 3.0` is out of range: 0 to 1" in message
    assert "config.yaml:7:1: `bf16` and `fp16` exclude each other" in message
    assert "config.yaml:8:1: `warmup_ratio: 1` is not a share from 0 to below 1" in message


@pytest.mark.parametrize("line", ["use_peft: 7", "use_pef: true"])
def test_a_key_that_cannot_be_read_contradicts_nothing(tmp_path: Path, line: str) -> None:
    assert "needs `use_peft" not in refusal(tmp_path, f"load_in_4bit: true\n{line}\n")


def test_a_value_out_of_range_names_the_range(tmp_path: Path) -> None:
    assert "`lora_dropout: 3.0` is out of range: 0 to 1" in refusal(tmp_path, "lora_dropout: 3.0\n")


def takes_a_number(key: str) -> bool:
    annotation = Settings.model_fields[key].annotation
    return bool({int, float} & set(get_args(annotation) or (annotation,)))


def test_every_key_that_takes_a_number_has_a_range_that_holds_its_default() -> None:
    ranges = {key: rule.range for key, rule in RULES.items() if rule.range}
    assert set(ranges) == {key for key in Settings.model_fields if takes_a_number(key)}
    for key, (low, high) in ranges.items():
        default = Settings.model_fields[key].default
        assert default is None or isinstance(default, str) or low <= default <= high


@pytest.mark.parametrize(
    "line",
    """
    save_steps: -5 | save_steps: 0 | save_steps: 2.5 | eval_steps: -3 | logging_steps: 0 | label_smoothing_factor: 7
    | ddp_timeout: -1 | evaluate_vllm_tensor_parallel_size: -2 | dataloader_prefetch_factor: -1 | data_seed: -1
    | adam_epsilon: -1 | ddp_bucket_cap_mb: -3 | eval_delay: -2 | neftune_noise_alpha: -1 | eval_accumulation_steps: 0
    | torch_empty_cache_steps: 0 | lora_target_modules: [] | lora_target_modules: "" | attn_implementation: foo
    | bnb_4bit_quant_storage: foo | pad_to_multiple_of: 0 | pad_to_multiple_of: some | warmup_steps: 1.5
    | local_rank: -2 | max_steps: -2 | router_aux_loss_coef: -1
    """.split("|"),
)
def test_a_value_that_makes_no_sense_is_refused(tmp_path: Path, line: str) -> None:
    assert f"config.yaml:1:1: `{line.split(':')[0].strip()}" in refusal(tmp_path, line.strip() + "\n")


@pytest.mark.parametrize(
    "line",
    """
    save_steps: 0.1; eval_steps: 0.25; eval_steps: 20.0; max_steps: -1; local_rank: -1; warmup_steps: 0.03
    ; warmup_ratio: 0; pad_to_multiple_of: auto; pad_to_multiple_of: 64; pad_to_multiple_of: "64"
    ; lora_target_modules: [q_proj]; attn_implementation: kernels-community/flash-attn2
    ; attn_implementation: kernels-community/vllm-flash-attn3@v1:fn
    ; attn_implementation: paged|eager; attn_implementation: flash_attention_3; bnb_4bit_quant_storage: bfloat16
    ; logging_steps: 0.5; neftune_noise_alpha: 5
    """.split(";"),
)
def test_what_the_libraries_take_is_taken(tmp_path: Path, line: str) -> None:
    load(tmp_path, line.strip() + "\n")


def test_forms_are_those_of_the_installed_libraries() -> None:
    from transformers import BitsAndBytesConfig
    from transformers.modeling_utils import AttentionInterface

    forms = {key: rule.form for key, rule in RULES.items() if rule.form}
    theirs = [
        name
        for name, function in AttentionInterface._global_mapping.items()
        if function.__module__.startswith("transformers")  # other tests register their own
    ]
    assert len(theirs) > 5
    for name in [*theirs, "eager"]:
        assert re.fullmatch(forms["attn_implementation"][0], name)
    for name in forms["bnb_4bit_quant_storage"][0].split("|"):
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_storage=name)


@pytest.mark.parametrize("value", ["1", "2", "-0.1", "true", "abc"])
def test_a_warmup_ratio_that_would_count_steps_is_refused(tmp_path: Path, value: str) -> None:
    assert "is not a share from 0 to below 1; for a number of steps write `warmup_steps`" in refusal(
        tmp_path, f"warmup_ratio: {value}\n"
    )


@pytest.mark.parametrize("key", ["sharded_ddp", "xpu_backend", "evaluate_during_training"])
def test_a_key_that_upstream_removed_is_refused_with_the_reason(tmp_path: Path, key: str) -> None:
    assert f"`{key}: 'x'` is gone: {GONE[key][1]}" in refusal(tmp_path, f"{key}: x\n")


@pytest.mark.parametrize(
    ("text", "value"), [("2e-4", 2e-4), ("2.0e-4", 2e-4), ("1", 1.0), (".5", 0.5), ("1E+0", 1.0), ("+0.1", 0.1)]
)
def test_numbers_are_yaml_1_2(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"learning_rate: {text}\n").settings.learning_rate == value


def test_no_is_a_word_where_a_word_is_meant_and_false_where_a_flag_is(tmp_path: Path) -> None:
    settings = load(tmp_path, "eval_strategy: no\nuse_peft: no\nbf16: yes\n").settings
    assert (settings.eval_strategy, settings.use_peft, settings.bf16) == ("no", False, True)


@pytest.mark.parametrize(
    "written",
    "7e44914 | 1e5 | 0123456 | 0x1f | 0o17 | 1.0 | +5 | .5 | .inf | true | yes | off | 2024-01-01 | 1:30".split(" | "),
)
def test_a_key_that_takes_text_is_given_the_text_as_written(tmp_path: Path, written: str) -> None:
    settings = load(
        tmp_path, f"model_revision: {written}\nrun_name: {written}\ndataset_config: {written}\nlora_r: 8\n"
    ).settings
    assert (settings.model_revision, settings.run_name, settings.dataset_subset) == (written, written, written)
    assert settings.lora_r == 8
    assert load(tmp_path, "", f"model_revision={written}").settings.model_revision == written
    listed = load(tmp_path, f"lora_target_modules: [{written}, q_proj]\n").settings
    assert listed.lora_target_modules == [written, "q_proj"]


def test_null_is_no_text_and_other_keys_keep_yamls_types(tmp_path: Path) -> None:
    settings = load(tmp_path, "run_name: ~\nhub_model_id: null\npad_to_multiple_of: 64\n").settings
    assert (settings.run_name, settings.hub_model_id, settings.pad_to_multiple_of) == (None, None, 64)
    assert load(tmp_path, "resume_from_checkpoint: false\n").settings.resume_from_checkpoint is False
    assert "`run_name: {'a': 1}` is not text" in refusal(tmp_path, "run_name: {a: 1}\n")


@settings(max_examples=examples(500), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commit=st.text("0123456789abcdef", min_size=7, max_size=7))
def test_any_short_commit_is_a_revision_without_quotes(tmp_path: Path, commit: str) -> None:
    config = load(tmp_path, f"model_revision: {commit}\n")
    assert config.settings.model_revision == commit
    assert load(tmp_path, config.to_yaml()).settings.model_revision == commit
    assert load(tmp_path, "", f"model_revision={commit}").settings.model_revision == commit


def test_a_wrong_choice_names_those_near_to_it(tmp_path: Path) -> None:
    assert "adamw_torch_4bit" in refusal(tmp_path, "optim: adamw_torch_4bits\n")


def test_extends_layers_files_and_remembers_where_each_value_came_from(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 1\nlora_r: 8\n", encoding="utf-8")
    config = load(tmp_path, "extends: base.yaml\nseed: 2\n", "lora_alpha=64")
    assert (config.settings.seed, config.settings.lora_r, config.settings.lora_alpha) == (2, 8, 64)
    assert config.where("seed").endswith("config.yaml:2:1")
    assert config.where("lora_r").endswith("base.yaml:2:1")
    assert config.where("lora_alpha") == "--set lora_alpha"


def test_a_circle_of_extends_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: config.yaml\n", encoding="utf-8")
    assert "config.yaml → base.yaml → config.yaml" in refusal(tmp_path, "extends: base.yaml\n")


def test_set_reaches_into_a_mapping_and_is_checked_like_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path, "gradient_checkpointing_kwargs: {a: 1}\n", "gradient_checkpointing_kwargs.use_reentrant=true"
    )
    assert config.settings.gradient_checkpointing_kwargs == {"a": 1, "use_reentrant": True}
    assert "--set lora_r: `lora_r: 'x'`" in refusal(tmp_path, "", "lora_r=x")
    with pytest.raises(UsageError, match="write --set key=value"):
        load(tmp_path, "", "lora_r")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("load_in_4bit: true\n", "`load_in_4bit` needs `use_peft: true`"),
        ("use_peft: true\nload_in_4bit: true\nload_in_8bit: true\n", "exclude each other"),
        ("bf16: true\nfp16: true\n", "exclude each other"),
        ("save_safetensors: false\n", "checkpoints are always safetensors"),
        ("warmup_ratio: 0.1\nwarmup_steps: 5\n", "both are given"),
        ("- a list\n", "`key: value` lines"),
        ("a: [\n", "not valid YAML"),
        ("extends: nowhere.yaml\n", "there is no file nowhere.yaml"),
        ("? [1, 2]\n: 3\n", "a key is not text"),
        ("gradient_checkpointing_kwargs: {a: 1, a: 2}\n", "`a` is given twice"),
        ("learning_rate: .nan\n", "`learning_rate: nan` is not a number"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in refusal(tmp_path, text)


def test_a_missing_config_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Path("nowhere.yaml"))
    assert "configs/demo.yaml" in str(caught.value.hint)


def test_the_default_config_is_the_environments_then_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_config: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config().settings.lora_r == 32
    monkeypatch.setenv("SLDS_CONFIG", str(write_config(lora_r=3)))
    assert load_config().settings.lora_r == 3


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.settings.overflow == "structure"
    assert not config.is_set("seed")


def test_the_printed_config_is_the_same_config(tmp_path: Path) -> None:
    config = load(tmp_path, RECIPE, "lora_r=64")
    printed = config.to_yaml()
    assert "lora_r: 64  # --set lora_r" in printed
    assert "# weight_decay: 0.0  # default" in printed
    again = load(tmp_path, printed)
    assert again.settings == config.settings
    assert again.settings.model_fields_set == config.settings.model_fields_set


def test_the_printed_config_means_the_same_wherever_it_is_saved(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    for folder in ("data", "prompts", "elsewhere"):
        (beside / folder).mkdir(parents=True)
    written = {"a\u202eb": [math.inf, -math.inf, 1e-9, {"no": None}], "c": '\x07\u200e\x85\u2028\\"\t\U0001f600é'}
    (beside / "config.yaml").write_text(
        "dataset_name: data\nprompts_path: ./prompts\nmodel_name_or_path: owner/name\nchat_template_path: configs\n"
        f"lr_scheduler_kwargs: {json.dumps(written, ensure_ascii=True).replace('Infinity', '.inf')}\n"
        'run_name: "\\u200e\\a"\noptim_args: "no"\nfsdp_config: {a: .nan}\n',
        encoding="utf-8",
    )
    config = load_config(beside / "config.yaml")
    printed = config.to_yaml()
    assert printable(printed) == printed
    again = load(tmp_path, printed)
    for key in ("dataset_name", "prompts_path"):
        assert again.path_of(key).resolve() == config.path_of(key).resolve() != (tmp_path / key).resolve()
    for key in ("model_name_or_path", "run_name", "optim_args", "chat_template_path"):
        assert getattr(again.settings, key) == getattr(config.settings, key)
    assert again.settings.lr_scheduler_kwargs == config.settings.lr_scheduler_kwargs
    assert isinstance(again.settings.fsdp_config, dict)
    assert math.isnan(again.settings.fsdp_config["a"])  # type: ignore[arg-type]


@settings(max_examples=examples(500), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.floats() | st.integers() | st.none()))
def test_any_mapping_is_printed_so_that_it_can_be_read_back(tmp_path: Path, value: dict[str, Any]) -> None:
    (tmp_path / "config.yaml").write_text(f"liger_kernel_config: {as_yaml(value)}\n", encoding="utf-8")
    read = load_config(tmp_path / "config.yaml").settings.liger_kernel_config
    assert repr(read) == repr(value)


@pytest.mark.parametrize("tag", ["!!binary aGk=", "!!timestamp 2001-01-01", "!!set {a}", "!!python/name:os.system x"])
def test_what_no_key_takes_is_not_even_read(tmp_path: Path, tag: str) -> None:
    assert "could not determine a constructor" in refusal(tmp_path, f"dataset_kwargs: {tag}\n")


def test_the_schema_in_the_tree_is_the_packages() -> None:
    assert json.loads((ROOT / "configs/schema.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(json_schema())
    )


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if not path.name.startswith("accelerate")], ids=lambda path: path.name
)
def test_shipped_configs_name_the_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / first.split("$schema=")[1]).resolve() == ROOT / "configs/schema.json"


KEYS = st.sampled_from([*Settings.model_fields, *RENAMED, *GONE, "extends", "lorar", "<<", "1", "~", "[a]"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=examples(2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mapping=st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_mapping_is_accepted_or_refused_in_words(tmp_path: Path, mapping: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        load(tmp_path, yaml.safe_dump(mapping, allow_unicode=True))


@settings(max_examples=examples(2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)
    | st.text("ab:-?[]{}&*!|>'\"%@`#, \n0.e", max_size=40)
)
def test_any_text_is_accepted_or_refused_in_words(tmp_path: Path, text: str) -> None:
    with contextlib.suppress(ConfigError):
        load(tmp_path, text)


@settings(max_examples=examples(500), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS, value=st.text(max_size=20))
def test_any_override_is_accepted_or_refused_in_words(tmp_path: Path, key: str, value: str) -> None:
    with contextlib.suppress(ConfigError):
        load(tmp_path, "", f"{key}={value}")
