"""Checks of keys and values, with their messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from headnote_cli.config.keys import RULES, Rule, Settings, kinds
from headnote_cli.config.problems import Entry, Origin, Problems, brief
from headnote_cli.config.renamed import RENAMED

YAML_1_1_BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}
WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    NoneType: "null",
}


def checked(entries: dict[str, Entry], problems: Problems) -> Settings:
    """The settings. Invalid keys and values are added to `problems`; such keys keep their defaults."""
    values = {key: _yaml_1_1(key, entry.value) for key, entry in entries.items()}
    faults: dict[str, str] = {}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults = dict(_validation_messages(error))
        settings = Settings.model_validate({key: value for key, value in values.items() if key not in faults})
    sound = [key for key in entries if key not in faults]
    faults |= {key: fault for key in sound if (fault := _value_fault(key, getattr(settings, key)))}
    for key, message in faults.items():
        problems.add(entries[key].origin, message)
    doubtful = faults.keys() | {_nearest(key) for key in faults}
    for keys, message in _contradictions(settings):
        if not doubtful & set(keys):
            problems.add(entries[keys[0]].origin if keys[0] in entries else Origin("configuration"), message)
    return settings


def _value_fault(key: str, value: Any) -> str | None:
    """What is wrong with a value of the right type, or None."""
    rule = RULES.get(key, Rule())
    if isinstance(value, int | float) and rule.range:
        low, high = rule.range
        if not low <= value <= high:
            return f"`{key}: {value}` is out of range: {low:g} to {high:g}"
        if rule.is_share_or_steps and value > 1 and value != int(value):
            return f"`{key}: {value}` is neither a share of the steps below 1 nor a whole number of steps"
    if isinstance(value, str) and rule.form and not re.fullmatch(rule.form[0], value):
        return f"`{key}: {brief(value)}` is not {rule.form[1]}"
    if value == [] and key == "lora_target_modules":
        return f"`{key}: []` names no module; leave the key out for the model's default"
    return None


def _yaml_1_1(key: str, value: object) -> object:
    """The boolean for `yes`, `on`, `no` and `off`, if the key takes only a boolean."""
    if isinstance(value, str) and kinds(key) in ({bool}, {bool, NoneType}):
        return YAML_1_1_BOOLEANS.get(value.lower(), value)
    return value


def _validation_messages(error: ValidationError) -> Iterator[tuple[str, str]]:
    """One message per key, in file order."""
    seen: set[str] = set()
    for fault in error.errors(include_url=False):
        key = str(fault["loc"][0])
        if key in seen:
            continue
        seen.add(key)
        if fault["type"] == "extra_forbidden":
            near = _nearest(key)
            yield key, f"unknown key `{key}`" + (f"; did you mean `{near}`?" if near else "")
        else:
            yield key, f"`{key}: {brief(fault['input'])}` is not {_allowed(key, fault['input'])}"


def _nearest(key: str) -> str | None:
    """The known key most similar to a misspelt one."""
    return next(iter(difflib.get_close_matches(key, [*Settings.model_fields, *RENAMED], n=1, cutoff=0.6)), None)


def _allowed(key: str, given: object) -> str:
    """What a key accepts, in words; from a long list of choices, those most similar to the given value."""
    types = kinds(key)
    parts = {part for kind in types for part in (kind, *get_args(kind)) if get_origin(part) is Literal}
    choices = [str(choice) for part in parts for choice in get_args(part)]
    if len(choices) > 12:
        near = difflib.get_close_matches(str(given), choices, n=5, cutoff=0.3) or choices[:5]
        choices = [*near, f"… ({len(choices)} in all)"]
    plain = {get_origin(kind) or kind for kind in types}
    words = [word for kind, word in WORDS.items() if kind in plain]
    return " or ".join(([f"one of {', '.join(choices)}"] if choices else []) + words)


def _contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Conflicting keys, the one to report first, and a message."""
    if settings.load_in_4bit and settings.load_in_8bit:
        yield ("load_in_8bit", "load_in_4bit"), "`load_in_4bit` and `load_in_8bit` exclude each other"
    if (settings.load_in_4bit or settings.load_in_8bit) and not settings.use_peft:
        key = "load_in_4bit" if settings.load_in_4bit else "load_in_8bit"
        yield (key, "use_peft"), f"`{key}` needs `use_peft: true`: quantized weights cannot be trained"
    if settings.bf16 and settings.fp16:
        yield ("fp16", "bf16"), "`bf16` and `fp16` exclude each other"
    if settings.completion_only_loss is False:
        yield ("completion_only_loss",), "`completion_only_loss: false`: the loss is taken on the headnote alone"
    if settings.early_stopping and settings.eval_strategy == "no":
        message = "`early_stopping` needs evaluations: set `eval_strategy: steps` or `epoch`"
        yield ("early_stopping", "eval_strategy"), message
    if settings.save_strategy == "best" and settings.eval_strategy == "no":
        message = "`save_strategy: best` needs evaluations: set `eval_strategy: steps` or `epoch`"
        yield ("save_strategy", "eval_strategy"), message
    if isinstance(settings.resume_from_checkpoint, str):
        message = "a run goes on from its newest whole checkpoint by itself; leave the key out"
        yield ("resume_from_checkpoint",), message
    if settings.model_init_kwargs is not None:
        yield ("model_init_kwargs",), "write its keys at the top level: `dtype`, `attn_implementation` …"
    if settings.parallelism_config is not None:
        yield ("parallelism_config",), "`parallelism_config` is set through accelerate's config file, not here"
