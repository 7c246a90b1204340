"""Adapter + base → one model folder that needs neither PEFT nor this tool."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open

from headnote_cli.engine.base import BaseModel, load_model_config, load_tokenizer, reaching
from headnote_cli.engine.loading import load_model, torch_dtype, with_adapter
from headnote_cli.errors import DataError
from headnote_cli.events import Listener, Note

# Relative L2 distance of the logits that rounding the merged weights explains, by dtype: measured 1e-6 in
# float32; a bfloat16 weight keeps 8 bits, and base + adapter holds the adapter beside it in float32.
LOGITS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.08, "float16": 0.02}
# Whole-folder copies leave these behind: the merged weights replace them.
WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".gguf",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
)


@dataclasses.dataclass(frozen=True)
class Verification:
    """Logits of base + adapter against the merged folder as loaded again."""

    max_abs_diff: float
    relative_l2: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.relative_l2 <= self.tolerance


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """What was written."""

    copied: int
    merged: int
    bytes: int
    dtype: str
    verification: Verification | None


def merge(
    base: BaseModel,
    adapter: Path,
    output: Path,
    dtype: str | None,
    probes: list[str],
    finish: Callable[[Path], None],
    emit: Listener,
) -> MergeResult:
    """Write the merged model beside `output`; only when all is written and flushed does it get that name.

    Args:
        finish: Completes the folder that it is given, and renames it to `output`.
        dtype: Of the merged weights; None is the base's own.
        probes: Texts on which to compare logits, none to leave that out.

    Raises:
        DataError: The merged folder gives other logits than base + adapter.
    """
    name = dtype or _own_dtype(base)
    model = load_model(base, torch_dtype(name))
    emit(Note(f"base {base.name} loaded in {name}"))
    with_lora = with_adapter(model, adapter)
    with_lora.eval()
    merged_names = _touched(with_lora)
    tokenizer = load_tokenizer(base)
    inputs = [tokenizer(text, return_tensors="pt") for text in probes]
    expected = [_logits(with_lora, batch) for batch in inputs]
    merged = with_lora.merge_and_unload()
    for leftover in output.parent.glob(f".{output.name}.*.tmp"):  # of merges that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _copy_companions(base, adapter, temporary)
        verification = _verified(base, temporary, name, inputs, expected) if probes else None
        if verification is not None and not verification.passed:
            raise DataError(
                f"the merged model's logits differ from base + adapter by {verification.relative_l2:.2g} "
                f"(relative L2; {verification.tolerance:g} is what rounding explains)",
                str(output),
                "nothing was written",
            )
        written = _tensor_count(temporary)
        _flush(temporary)
        finish(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return MergeResult(written - len(merged_names), len(merged_names), size, name, verification)


def _own_dtype(base: BaseModel) -> str:
    """The dtype that the base's `config.json` states."""
    config = load_model_config(base)
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    return str(dtype).removeprefix("torch.")


def _touched(model: PeftModel) -> set[str]:
    """The weights that the adapter changes."""
    marks = (".base_layer.weight", ".original_module.")
    return {name for name in model.state_dict() if any(mark in name for mark in marks)}


def _tensor_count(folder: Path) -> int:
    """Tensors in the folder's weight files; tied ones stand there once."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            total += len(weights.keys())
    return total


@torch.inference_mode()
def _logits(model: Any, batch: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    return logits


def _verified(
    base: BaseModel, folder: Path, dtype: str, inputs: list[Any], expected: list[torch.Tensor]
) -> Verification:
    """Load the folder again as any user of transformers would, and compare."""
    again = load_model(dataclasses.replace(base, name=str(folder), revision="main"), torch_dtype(dtype))
    again.eval()
    found = torch.cat([_logits(again, batch).flatten() for batch in inputs])
    wanted = torch.cat([logits.flatten() for logits in expected])
    difference = found - wanted
    relative = float(difference.norm() / wanted.norm().clamp(min=1e-12))
    return Verification(float(difference.abs().max()), relative, LOGITS_TOLERANCE.get(dtype, 0.0))


def _copy_companions(base: BaseModel, adapter: Path, target: Path) -> None:
    """All of the base's other files (processor, licence …), and the chat template that training used."""
    source = Path(base.name)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "NOTICE*"]
        with reaching("model", base.name):
            source = Path(snapshot_download(base.name, revision=base.revision, allow_patterns=patterns))
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.endswith(WEIGHTS) and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)
    template = adapter / "chat_template.jinja"
    if template.is_file():
        shutil.copyfile(template, target / template.name)


def _flush(folder: Path) -> None:
    """Everything on the disk before the folder gets its name."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
