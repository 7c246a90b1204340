"""Which base an adapter belongs to: the weights of its run, wherever they are now, in the form of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.errors import DataError, UnreachableError, UsageError
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.weights import fingerprint, has_weights
from headnote_cli.runs.files import is_path, read_json, require_there
from headnote_cli.runs.folders import noted_base

KEY = "peft_base_model_path"


@dataclass(frozen=True)
class AdapterBase:
    """The base of an adapter."""

    name: str  # a folder or a hub id
    is_trained_on: bool = True  # the run's own weights, not 16-bit ones in place of quantized ones


def base_of_adapter(config: Config, adapter: Path, record: Mapping[str, Any]) -> AdapterBase:
    """The base in the run's record; without a record, `peft_base_model_path`, else PEFT's own entry.

    With a record, `peft_base_model_path` may name another copy of the same weights (their fingerprint is compared), or
    the 16-bit weights of a base that was quantized in training.

    Raises:
        UnreachableError: The base's folder is missing.
        DataError: `peft_base_model_path` names other weights than the run's.
        UsageError: No base is known.
    """
    settings = config.settings
    noted, named = record.get("base_model"), settings.peft_base_model_path
    if named and config.locate(named) is None:
        require_there(f"`{KEY}`", named)
    if named and noted and named != noted and (elsewhere := _elsewhere(config, named, str(noted), record)):
        return elsewhere
    name = noted or named or noted_base(adapter) or settings.model_name_or_path
    if not name:
        raise UsageError("which base model?", str(adapter), f"set `{KEY}`")
    local = config.locate(str(name))
    if _is_gone(config, str(name), record):
        hint = f"name the folder where it lies now: `{KEY}: FOLDER`, or --set {KEY}=FOLDER"
        raise UnreachableError("the base model that the adapter was trained on is missing", str(name), hint)
    return AdapterBase(str(local) if local else str(name))


def _elsewhere(config: Config, named: str, noted: str, record: Mapping[str, Any]) -> AdapterBase | None:
    """The base that `peft_base_model_path` names in place of the run's; None if the run's is to be used."""
    local = config.locate(named)
    is_quantized = local is not None and "quantization_config" in (read_json(local / "config.json") or {})
    if record.get("base_quantized") and not is_quantized:
        return AdapterBase(str(local) if local else named, is_trained_on=False)
    known = record.get("base_fingerprint")
    if local is None or not known or not has_weights(local):
        return None
    if fingerprint(local) == known:
        return AdapterBase(str(local))
    if _is_gone(config, noted, record):
        raise DataError(
            "these weights are not those that the adapter was trained on: their fingerprint differs",
            str(local),
            f"`{KEY}` is to name the base of the run, which was {noted}",
        )
    return None


def _is_gone(config: Config, name: str, record: Mapping[str, Any]) -> bool:
    """Whether a base was a folder that no longer exists."""
    was_local = is_path(name) or (name == record.get("base_model") and record.get("base_is_local"))
    return bool(was_local) and config.locate(name) is None


def noted_quantization(record: Mapping[str, Any]) -> Quantization | None:
    """The 4-bit form of the base in a run's record, or None."""
    noted = record.get("quantization")
    return Quantization(**noted) if noted and noted["kind"] != "int8" else None
