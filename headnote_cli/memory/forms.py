"""What lives at the fullest moments of a step, as sums of bytes times sizes: read from a table that a script counts.

`forms_by_type/` comes out of `scripts/memory_forms.py`, which runs one step of transformers' own model classes on tiny
sizes and names every live tensor by its shape. So a form is exact for the operators that were run, and its terms can
be read: `{"T*h": 2}` is one 16-bit tensor of tokens × hidden.

Sizes: T tokens of a batch, B rows, S tokens of a row, N labelled tokens; h hidden, I width of the MLP, q and kv widths
of queries and keys, d width of a head, H and K their counts, r rank, V vocabulary; tile, the logits that TRL's fused
output layer holds at a time.
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
FOLDER = Path(__file__).with_name("forms_by_type")  # a file for each model type
# Model types whose layers hold the same tensors as another's.
SAME_LAYERS = {"gemma3": "gemma3_text", "mistral": "llama", "smollm3": "llama", "mistral3": "llama"}


@dataclass(frozen=True)
class StepKind:
    """What decides which tensors a layer keeps, apart from sizes.

    Attributes:
        method: `full`, `lora` or `qlora`.
        dtype: Of the loaded weights: `bfloat16` (float16 holds as much) or `float32`.
        amp: Forward under autocast to 16 bits.
        adapters: Dtype of LoRA's weights; `float32 cast` where PEFT casts each input to float32 first.
        attention: `eager`, `sdpa` (with a mask), `sdpa_causal` (without) or `flash_attention_2`.
        targets: Of LoRA: `all` linear layers, `attention` (q, k, v, o) or `qv`.
        key_heads: `one` for all queries, which transformers repeats without a copy, `each` query's own, which it does
            not repeat, or `shared` by some.
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
        """Whether keys and values are repeated for the queries' heads."""
        return self.attention in ("eager", "sdpa")

    @property
    def key(self) -> str:
        """What an entry of the table's layers is called."""
        lora = self.method != "full"
        return _words(
            (self.method, True), (self.dtype, True), ("amp", self.amp), (self.adapters, lora), (self.attention, True),
            ("checkpointing", self.checkpointing), ("dropout", lora and self.dropout), ("liger", self.liger),
            (self.targets, lora and self.targets != "all"), (f"{self.key_heads} key head", self.key_heads != "shared"),
        )  # fmt: skip

    @property
    def head_key(self) -> str:
        """What decides how the loss is taken, and what lives through it; each attention has a mask of its own dtype."""
        return _words(
            ("full" if self.method == "full" else "lora", True), (self.dtype, True), ("amp", self.amp),
            (self.attention, self.repeats_keys), ("checkpointing", self.checkpointing), ("liger", self.liger),
        )  # fmt: skip


def _words(*words: tuple[str, bool]) -> str:
    return " ".join(word for word, holds in words if holds)


@dataclass(frozen=True)
class LayerForms:
    """Of one decoder layer: what it leaves stored, and the fullest moments beyond what all layers store.

    Attributes:
        stored: While forward lasts, autocast's casts of weights included.
        kept: From the loss's backward on.
        beside, beside_kept: Of all layers together what is not so many times that, when the loss is taken and when its
            backward begins: negative where the first layer stores less, since its input needs no gradient.
    """

    stored: Form
    kept: Form
    beside: Form
    beside_kept: Form
    forward: tuple[Form, ...]
    backward: tuple[Form, ...]


def fused_tile(labelled: int, vocabulary: int) -> int:
    """Elements of the tile of logits in TRL's fused output layer (trl/kernels/chunked_logprob.py: 4,096 tokens,
    32,768 words)."""
    return min(labelled, 4096) * min(vocabulary, 32768)


def value(form: Form, sizes: Mapping[str, int]) -> int:
    """Bytes of a form."""
    return sum(width * math.prod(sizes[name] for name in product.split("*")) for product, width in form.items())


def fullest(forms: tuple[Form, ...], sizes: Mapping[str, int]) -> int:
    """Bytes of the largest of some forms, 0 of none."""
    return max((value(form, sizes) for form in forms), default=0)


@cache
def _table(model_type: str) -> dict[str, Any]:
    """What was counted for one of `known_types`."""
    name = SAME_LAYERS.get(model_type, model_type)
    table: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return table


@cache
def known_types() -> tuple[str, ...]:
    """Model types whose layers have been counted."""
    return tuple(sorted({*(file.stem for file in FOLDER.glob("*.json")), *SAME_LAYERS}))


def is_counted(model_type: str, kind: StepKind) -> bool:
    """Whether a kind of layer was counted for a model type."""
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
    """The fullest moments of the loss's forward and of its backward, until the last layer's begins, beyond what the
    layers hold (`LayerForms`).

    Args:
        loss: `fused`, `full`, `held` (`full`, the model's output kept through backward), or `shifted` (models before
            transformers 4.45: float32 logits and a shifted copy).
    """
    table = _table(model_type)
    forward, backward = table["losses"][f"{kind.head_key} {loss}"]
    return tuple(table["forms"][index] for index in forward), tuple(table["forms"][index] for index in backward)
