"""What is live at the peaks of a step, as sums of bytes times sizes: read from a table that a script counts.

`scripts/memory_forms.py` writes `forms_by_type/`: it runs one step of transformers' own model classes with tiny sizes
and identifies every live tensor by its shape. So a form is exact for the operators that ran, and its terms are
readable: `{"T*h": 2}` is one 16-bit tensor of tokens × hidden.

Sizes: T tokens of a batch, B rows, S tokens of a row, N labelled tokens; h hidden, I MLP width, q and kv widths of
queries and keys, d head width, H and K numbers of query and key heads, r rank, V vocabulary; tile, the logits that
TRL's fused output layer keeps at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Form = Mapping[str, int]  # bytes by product of sizes
FOLDER = Path(__file__).with_name("forms_by_type")  # one file per model type
# Model types whose layers have the same tensors as another type's.
SAME_LAYERS = {"gemma3": "gemma3_text", "mistral": "llama", "smollm3": "llama", "mistral3": "llama"}


@dataclass(frozen=True)
class StepKind:
    """What determines which tensors a layer keeps, besides sizes.

    Attributes:
        method: `full`, `lora` or `qlora`.
        dtype: Of the loaded weights: `bfloat16` (float16 needs the same) or `float32`.
        amp: Forward under autocast to 16 bits.
        adapters: Dtype of LoRA's weights; `float32 cast` if PEFT first casts each input to float32.
        attention: `eager`, `sdpa` (with a mask), `sdpa_causal` (without) or `flash_attention_2`.
        targets: Of LoRA: `all` linear layers, `attention` (q, k, v, o) or `qv`.
        key_heads: `one` for all queries (transformers repeats it without a copy), one for `each` query (not repeated),
            or `shared` by some.
    """

    method: str = "qlora"
    dtype: str = "bfloat16"
    amp: bool = True
    adapters: str = "float32"
    attention: str = "flash_attention_2"
    checkpointing: bool = True
    dropout: bool = True
    liger: bool = False
    targets: str = "all"
    key_heads: str = "shared"

    @property
    def repeats_keys(self) -> bool:
        """Whether keys and values are repeated for the query heads."""
        return self.attention in ("eager", "sdpa")

    @property
    def key(self) -> str:
        """The name of the entry in the table's layers."""
        lora = self.method != "full"
        return _words(
            (self.method, True), (self.dtype, True), ("amp", self.amp), (self.adapters, lora), (self.attention, True),
            ("checkpointing", self.checkpointing), ("dropout", lora and self.dropout), ("liger", self.liger),
            (self.targets, lora and self.targets != "all"), (f"{self.key_heads} key head", self.key_heads != "shared"),
        )  # fmt: skip

    @property
    def head_key(self) -> str:
        """The name of the entry in the table's losses: what affects the loss; masks differ by attention."""
        return _words(
            ("full" if self.method == "full" else "lora", True), (self.dtype, True), ("amp", self.amp),
            (self.attention, self.repeats_keys), ("checkpointing", self.checkpointing), ("liger", self.liger),
        )  # fmt: skip


def _words(*words: tuple[str, bool]) -> str:
    return " ".join(word for word, holds in words if holds)


@dataclass(frozen=True)
class LayerForms:
    """One decoder layer: what it stores, and its peaks beyond what all layers store.

    Attributes:
        stored: During forward, including autocast's casts of weights.
        kept: From the loss's backward on.
        beside, beside_kept: The difference between all layers together and that multiple of one layer, at the loss and
            at the start of its backward: negative if the first layer stores less, since its input needs no gradient.
    """

    stored: Form
    kept: Form
    beside: Form
    beside_kept: Form
    forward: tuple[Form, ...]
    backward: tuple[Form, ...]


def fused_tile(labelled: int, vocabulary: int) -> int:
    """Elements of the logits tile in TRL's fused output layer (trl/kernels/chunked_logprob.py: 4,096 tokens, 32,768
    words)."""
    return min(labelled, 4096) * min(vocabulary, 32768)


def value(form: Form, sizes: Mapping[str, int]) -> int:
    """Bytes of a form."""
    return sum(width * math.prod(sizes[name] for name in product.split("*")) for product, width in form.items())


def fullest(forms: tuple[Form, ...], sizes: Mapping[str, int]) -> int:
    """Bytes of the largest form; 0 if there are none."""
    return max((value(form, sizes) for form in forms), default=0)


@cache
def _table(model_type: str) -> dict[str, Any]:
    """The counts of one of `known_types`."""
    name = SAME_LAYERS.get(model_type, model_type)
    table: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return table


@cache
def known_types() -> tuple[str, ...]:
    """Model types whose layers have been counted."""
    return tuple(sorted({*(file.stem for file in FOLDER.glob("*.json")), *SAME_LAYERS}))


def is_counted(model_type: str, kind: StepKind) -> bool:
    """Whether a layer kind was counted for a model type."""
    return kind.key in _table(model_type)["layers"]


def layer_forms(model_type: str, kind: StepKind) -> LayerForms:
    """The forms of a layer.

    Raises:
        KeyError: The kind was not counted.
    """
    table = _table(model_type)
    entry = table["layers"][kind.key]
    *single, forward, backward = (tuple(table["forms"][index] for index in part) for part in entry)
    stored, kept, beside, beside_kept = (part[0] for part in single)
    return LayerForms(stored, kept, beside, beside_kept, forward, backward)


def loss_forms(model_type: str, kind: StepKind, loss: str) -> tuple[tuple[Form, ...], tuple[Form, ...]]:
    """The peaks of the loss's forward, and of its backward until the last layer's starts, beyond what layers keep
    (`LayerForms`).

    Args:
        loss: `fused`, `full`, `held` (`full`, with the model's output kept through backward), or `shifted` (models
            before transformers 4.45: float32 logits and a shifted copy).
    """
    table = _table(model_type)
    forward, backward = table["losses"][f"{kind.head_key} {loss}"]
    return tuple(table["forms"][index] for index in forward), tuple(table["forms"][index] for index in backward)
