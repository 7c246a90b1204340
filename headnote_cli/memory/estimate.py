"""The peak of a training step: the maximum over its phases, each the sum of what lives then. All in bytes.

A first estimate from the config alone. GB in the sources below is 1e9 bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headnote_cli.config import Settings
from headnote_cli.memory.shapes import Shapes

# NF4: 4 bits and one float32 scale for 64 weights; double quantization stores the scale in 8 bits with a float32
# for 256 of them (Dettmers et al. 2023, QLoRA, section 3; bitsandbytes' block sizes).
NF4 = 0.5 + 4 / 64
NF4_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8 = 1.0
# CUDA context: 0.14 GB (T4) to 0.5 GB measured by others; the larger one.
CUDA_CONTEXT = 500_000_000
# One layer's live set when it is recomputed, bytes a token as multiples of (hidden, mlp, query width, key-value
# width): least squares over live-tensor counts of small Gemma 3 shapes with the fused loss.
LIVE_QLORA = (39.4, 9.1, 7.9, 7.5)
LIVE_16BIT = (50.1, 13.1, 11.6, 7.9)
LIVE_FLOAT32_FACTOR = 2  # every activation twice as wide
# Tokens that TRL's fused head scores at a time where it scores labelled positions only.
FUSED_TILE = 1024
# Bytes a parameter of the optimizer's state: torchao's AdamW4bit holds two 4-bit states with a scale for 128 each,
# 8-bit ones two bytes and scales, AdamW two states in the parameter's own dtype.
STATE = {
    "adamw_torch_4bit": 1.0625,
    "adamw_torch_8bit": 2.03,
    "adamw_bnb_8bit": 2.03,
    "adamw_8bit": 2.03,
    "paged_adamw_8bit": 0.0,
    "paged_adamw_32bit": 0.0,
    "sgd": 0.0,
    "adafactor": 0.01,
}
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """Bytes by component, and their sum at the peak. `phase` names the moment of the peak."""

    components: dict[str, int]
    phase: str
    parameters: int
    trainable: int

    @property
    def total(self) -> int:
        return sum(self.components.values())


def estimate(shapes: Shapes, settings: Settings, batch: int | None = None, on_gpu: bool = True) -> Estimate:
    """The peak of one training step of a config.

    Args:
        batch: Rows a step on one device, instead of the config's.
        on_gpu: Count the CUDA context.
    """
    rows = batch or settings.per_device_train_batch_size
    tokens = rows * sequence_length(settings)
    width = WIDTH[load_dtype(settings)]
    trainable = trainable_parameters(shapes, settings)
    fixed = {
        "weights": weights(shapes, settings),
        "adapters": 4 * trainable if settings.use_peft else 0,
        "optimizer": optimizer_state(trainable, settings),
        "CUDA context": CUDA_CONTEXT if on_gpu else 0,
    }
    gradients = trainable * (4 if settings.use_peft else width)
    stored = stored_activations(shapes, settings, tokens, width)
    phases = {
        "loss": {"activations": stored, "logits": logits(shapes, settings, tokens)},
        "backward of one layer": {
            "activations": stored,
            "one layer": live_layer(shapes, settings, tokens) + eager_scores(shapes, settings, rows),
            "gradients": gradients if settings.use_peft else 0,
        },
        "end of backward": {"gradients": gradients, "one layer": live_layer(shapes, settings, tokens)},
    }
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    return Estimate(fixed | phases[phase], phase, shapes.parameters, trainable)


def sequence_length(settings: Settings) -> int:
    """Tokens of the longest row."""
    return settings.max_length or 8192


def load_dtype(settings: Settings) -> str:
    """The dtype of the loaded weights on a GPU that can do it."""
    if "dtype" in settings.model_fields_set and settings.dtype in WIDTH:
        return str(settings.dtype)
    return "float16" if settings.fp16 else "float32" if settings.bf16 is False else "bfloat16"


def weights(shapes: Shapes, settings: Settings) -> int:
    """The base model: linear layers quantized if asked, the rest (embeddings, tied head, norms) at the load dtype."""
    width = WIDTH[load_dtype(settings)]
    linear = shapes.text_linear + shapes.vision_linear
    rest = shapes.parameters - linear
    if settings.load_in_4bit:
        per_weight = NF4_DOUBLE if settings.use_bnb_nested_quant else NF4
    else:
        per_weight = INT8 if settings.load_in_8bit else width
    return math.ceil(linear * per_weight) + rest * width


def trainable_parameters(shapes: Shapes, settings: Settings) -> int:
    """LoRA's A and B on each target of the language model: r · (in + out); all weights without PEFT."""
    if not settings.use_peft:
        return shapes.parameters
    targets = settings.lora_target_modules or "all-linear"
    names = [targets] if isinstance(targets, str) else targets
    per_layer = sum(
        settings.lora_r * (rows + columns)
        for name, rows, columns in shapes.linear_modules()
        if names == ["all-linear"] or name in names
    )
    return shapes.layers * per_layer


def optimizer_state(trainable: int, settings: Settings) -> int:
    """Bytes of the optimizer's state."""
    own_width = 4 if settings.use_peft else WIDTH[load_dtype(settings)]
    return math.ceil(trainable * STATE.get(settings.optim, 2 * own_width))


def stored_activations(shapes: Shapes, settings: Settings, tokens: int, width: int) -> int:
    """With checkpointing a layer's input a layer, (tokens, hidden); without it every layer's live set."""
    if (
        settings.activation_checkpointing
        if settings.activation_checkpointing is not None
        else settings.gradient_checkpointing
    ):
        return shapes.layers * tokens * shapes.hidden * width
    return shapes.layers * live_layer(shapes, settings, tokens)


def live_layer(shapes: Shapes, settings: Settings, tokens: int) -> int:
    """What one layer holds while it is recomputed and its gradients are taken."""
    a, b, c, d = LIVE_QLORA if settings.load_in_4bit else LIVE_16BIT
    per_token = a * shapes.hidden + b * shapes.mlp + c * shapes.query_width + d * shapes.key_value_width
    factor = LIVE_FLOAT32_FACTOR if load_dtype(settings) == "float32" else 1
    return math.ceil(factor * tokens * per_token)


def eager_scores(shapes: Shapes, settings: Settings, rows: int) -> int:
    """Eager attention holds scores and probabilities, (heads, seq, seq) a row, in float32 and at the load dtype."""
    if settings.attn_implementation != "eager":
        return 0
    length = sequence_length(settings)
    return rows * shapes.heads * length * length * (4 + WIDTH[load_dtype(settings)])


def logits(shapes: Shapes, settings: Settings, tokens: int) -> int:
    """TRL's fused head scores a tile of labelled positions at a time; label smoothing needs three float32 copies."""
    if settings.label_smoothing_factor:
        return 3 * 4 * tokens * shapes.vocabulary
    return 2 * 4 * min(tokens, FUSED_TILE) * shapes.vocabulary


def largest_batch(shapes: Shapes, settings: Settings, budget: int) -> int:
    """The most rows a step that fit in `budget` bytes, 0 if not even one does; the peak grows with the batch."""
    low, high = 0, 4096
    while low < high:
        middle = (low + high + 1) // 2
        if estimate(shapes, settings, middle).total <= budget:
            low = middle
        else:
            high = middle - 1
    return low
