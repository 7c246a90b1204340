"""Three ways to write for many prompts: our decoder, `model.generate` on a padded batch, `generate_batch`.

python -m scripts.gpu_smoke.writers MODEL DEVICE LENGTHS WRITTEN
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig

import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)
from headnote_cli.generation.decoder import Decoder, RowState
from headnote_cli.generation.sampling import Sampling

Prompts = list[list[int]]


def decoder(model: Any, prompts: Prompts, written: int) -> Prompts:
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    rows = [RowState(place, prompts[place], 0) for place in order]
    done = {row.name: row.written for row in Decoder(model, []).write(rows, Sampling(max_new_tokens=written))}
    return [done[place] for place in range(len(prompts))]


def generate(model: Any, prompts: Prompts, written: int) -> Prompts:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    options = GenerationConfig(max_new_tokens=written, do_sample=False, eos_token_id=[], pad_token_id=0)
    out = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), generation_config=options)
    found: Prompts = out[:, longest:].tolist()
    return found


def generate_batch(model: Any, prompts: Prompts, written: int) -> Prompts:
    options = GenerationConfig(max_new_tokens=written, do_sample=False, eos_token_id=-1, pad_token_id=0)
    out = model.generate_batch(inputs=prompts, generation_config=options, progress_bar=False)
    return [result.generated_tokens for result in out.values()]


WAYS: dict[str, Callable[[Any, Prompts, int], Prompts]] = {  # ours is the last: on a CPU it changes the model
    "model.generate, one batch": generate, "generate_batch": generate_batch, "slds": decoder
}  # fmt: skip


def measured(way: Callable[[Any, Prompts, int], Prompts], model: Any, prompts: Prompts, written: int) -> dict[str, Any]:
    """Seconds, peak bytes and tokens, after a short warm-up; or what went wrong."""
    on_gpu = model.device.type == "cuda"
    try:
        way(model, [prompts[-1][:32]], 2)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = time.monotonic()
        tokens = way(model, prompts, written)
        if on_gpu:
            torch.cuda.synchronize()
        if sum(map(len, tokens)) != written * len(prompts):
            raise ValueError(f"{sum(map(len, tokens))} tokens were written for {len(prompts)} prompts")
    except Exception as error:  # one way that fails must not cost the others
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {"seconds": time.monotonic() - began, "allocated": peak, "tokens": tokens}


def main() -> None:
    name, device, lengths, written = sys.argv[1:]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, attn_implementation="sdpa")
    model = model.to(device).eval()
    dice = random.Random(0)
    prompts = [[dice.randrange(10, 4000) for _ in range(int(length))] for length in lengths.split(",")]
    found = {way: measured(write, model, prompts, int(written)) for way, write in WAYS.items()}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
