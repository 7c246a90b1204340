"""Memory for generation and merging. All in bytes."""

from __future__ import annotations

from headnote_cli.memory.estimate import ALLOCATOR_SLACK, CUDA_CONTEXT, LIBRARIES, Estimate
from headnote_cli.memory.setup import Setup
from headnote_cli.memory.shapes import Shapes

HEADNOTE_LIMIT = 512  # default token limit of `slds generate`
# The merge works in blocks (`merging/stream.py`): two threads with about three float32 blocks each.
MERGE_BLOCKS = 2 * 3
BLOCK_ELEMENTS = 2**20
# The check of a merge loads one whole float32 model if ROOM times its size is free, else single layers of up to
# LARGEST_LAYER elements as three float64 tensors (`merging/verification.py`).
ROOM = 1.25
LARGEST_LAYER = 2**28
CHECKED_POSITIONS = 128


def kv_cache(shapes: Shapes, rows: int, tokens: int, width: int) -> int:
    """Keys and values, (rows, tokens, kv width) each, of every layer. Between steps a sliding layer keeps only what its
    next token sees, window - 1 tokens (transformers' `DynamicSlidingWindowLayer`)."""
    whole = shapes.layers // shapes.global_every if shapes.window else shapes.layers
    sliding = shapes.layers - whole
    kept = whole * tokens + sliding * min(tokens, (shapes.window or 1) - 1)
    return 2 * rows * kept * shapes.key_value_width * width


def kv_cache_of_prompt(shapes: Shapes, rows: int, tokens: int, width: int) -> int:
    """The same after the prompt: a sliding layer's cache is then a view of all its tokens' keys, which stay."""
    return 2 * rows * tokens * shapes.layers * shapes.key_value_width * width


def prefill_work(shapes: Shapes, setup: Setup, rows: int) -> int:
    """One layer on a prompt of S tokens: its MLP (four tensors (tokens, h), three (tokens, I)) or its attention.

    Eager attention has scores and probabilities, (rows, heads, S, S), and a float32 copy: 8 bytes, with 16-bit or
    float32 weights. One of them is live during the MLP.
    """
    tokens, width = rows * setup.length, setup.width
    square = rows * setup.length**2
    eager = setup.kind.attention == "eager"
    mlp = tokens * (4 * shapes.hidden + 3 * shapes.mlp) * width
    attention = tokens * 3 * (shapes.hidden + shapes.query_width) * width + 2 * tokens * shapes.key_value_width * width
    if eager:
        mlp += square * shapes.heads * width
        attention += 8 * square * shapes.heads
    # Masks: one for all layers, one for sliding ones. SDPA's are boolean; one row needs no causal mask.
    masks = (1 if eager or rows > 1 else 0) + (1 if shapes.window else 0)
    mask_width = width if eager else 1
    return max(mlp, attention) + (0 if setup.kind.attention == "flash_attention_2" else masks * square * mask_width)


def generation(shapes: Shapes, setup: Setup, rows: int = 1) -> Estimate:
    """The merged model, unquantized as `slds generate` loads it: prefill of the longest prompt, then decoding to the
    token limit, where each layer's keys or values are copied to grow. The last position's logits also exist in
    float32."""
    width = setup.width
    weights = shapes.parameters * width
    logits = rows * shapes.vocabulary * (width + 4)
    tokens = setup.length + HEADNOTE_LIMIT
    phases = {
        "loading": {"weights": weights},
        "prefill": {
            "weights": weights,
            "KV cache": kv_cache_of_prompt(shapes, rows, setup.length, width),
            "one layer at work": prefill_work(shapes, setup, rows),
            "logits": logits,
        },
        "decoding": {
            "weights": weights,
            "KV cache": kv_cache(shapes, rows, tokens, width),
            "one layer at work": rows * tokens * shapes.key_value_width * width,
            "logits": logits,
        },
    }
    return fullest_phase(shapes, setup, phases, setup.on_gpu)


def merging(shapes: Shapes, setup: Setup, available: int) -> Estimate:
    """Main memory of a streamed merge: blocks of a few weights and the adapter of one layer; then its check.

    Args:
        available: Bytes of free main memory, which decide how the merge is checked.
    """
    layer = sum(setup.rank * (rows + columns) for _, rows, columns in shapes.linear_modules())
    widest = max(rows * columns for _, rows, columns in shapes.linear_modules())
    model = 4 * shapes.parameters
    phases = {
        "merging": {
            "libraries": LIBRARIES,
            "blocks in float32": MERGE_BLOCKS * 4 * BLOCK_ELEMENTS,
            "adapter of a layer": 4 * layer,
        }
    }
    if ROOM * model < available:
        positions = 4 * CHECKED_POSITIONS * shapes.vocabulary
        phases["check of the whole model"] = {"libraries": LIBRARIES, "model in float32": model, "logits": positions}
    else:
        phases["check of some layers"] = {
            "libraries": LIBRARIES,
            "a layer in float64": 3 * 8 * min(widest, LARGEST_LAYER),
        }
    return fullest_phase(shapes, setup, phases, on_gpu=False)


def fullest_phase(shapes: Shapes, setup: Setup, phases: dict[str, dict[str, int]], on_gpu: bool) -> Estimate:
    """The components of the largest phase."""
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    parts = phases[phase]
    moving = sum(size for name, size in parts.items() if name != "weights")
    beside = {"allocator slack": int(ALLOCATOR_SLACK * moving), "CUDA context": CUDA_CONTEXT} if on_gpu else {}
    totals = {name: sum(part.values()) for name, part in phases.items()}
    return Estimate(parts | beside, phase, totals, shapes.parameters, 0, setup.unknown_weights)
