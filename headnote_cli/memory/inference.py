"""What generating and merging take. Bytes throughout."""

from __future__ import annotations

from headnote_cli.memory.estimate import ALLOCATOR_SLACK, CUDA_CONTEXT, Estimate, weights
from headnote_cli.memory.setup import Setup
from headnote_cli.memory.shapes import Shapes

HEADNOTE_LIMIT = 512  # tokens that `slds generate` writes at most by default


def kv_cache(shapes: Shapes, rows: int, tokens: int, width: int) -> int:
    """Keys and values, (rows, tokens, kv width) each, of every layer; a sliding layer keeps its window only."""
    whole = shapes.layers // shapes.global_every if shapes.window else shapes.layers
    sliding = shapes.layers - whole
    kept = whole * tokens + sliding * min(tokens, shapes.window or tokens)
    return 2 * rows * kept * shapes.key_value_width * width


def generation(shapes: Shapes, setup: Setup, rows: int = 1) -> Estimate:
    """Prefill of the longest prompt and decoding to the token limit.

    One layer of the prefill holds its input, its residual and gate, up and their product, (tokens, MLP) each, and the
    last position's logits in float32, (rows, vocabulary).
    """
    tokens = setup.length + HEADNOTE_LIMIT
    work = rows * setup.length * (4 * shapes.hidden + 3 * shapes.mlp + 2 * shapes.query_width) * setup.width
    parts = {
        "weights": weights(shapes, setup),
        "KV cache": kv_cache(shapes, rows, tokens, setup.width),
        "one layer at work": work,
        "logits": rows * shapes.vocabulary * (setup.width + 4),
    }
    slack = {"allocator slack": int(ALLOCATOR_SLACK * work), "CUDA context": CUDA_CONTEXT} if setup.on_gpu else {}
    total = sum(parts.values())
    return Estimate(parts | slack, "prefill", {"prefill": total, "decoding": total - work}, shapes.parameters, 0)


def merging(shapes: Shapes, setup: Setup) -> Estimate:
    """Main memory of a merge: the base whole, the largest weight and its sum with the adapter's product in float32,
    and to verify, the merged model loaded beside it."""
    base = shapes.parameters * setup.width
    largest = max([shapes.embedding, *(rows * columns for _, rows, columns in shapes.linear_modules())])
    parts = {"base": base, "one weight in float32": 2 * 4 * largest, "merged model, to verify": base}
    phases = {"merging": base + 2 * 4 * largest, "verifying": 2 * base}
    return Estimate(parts, "verifying", phases, shapes.parameters, 0)
