"""The formula against a count: real model classes on fake tensors, one step, live bytes by a dispatch mode."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from headnote_cli.memory.estimate import estimate, step_phases
from headnote_cli.memory.forms import StepKind, layer_forms
from headnote_cli.memory.setup import Setup
from headnote_cli.memory.shapes import Shapes
from tests.conftest import ROOT, examples
from tests.unit.memory.given import sizes

COUNTED = ("forward", "loss", "backward of the loss", "backward of the last layer", "backward of the first layer",
           "end of backward")  # fmt: skip
FAMILIES = ("gemma3_text", "llama", "qwen2", "qwen3", "gemma2", "gemma", "phi3", "apertus")


def random_case(dice: random.Random) -> tuple[Shapes, Setup]:
    """A model, a batch and a way of training, of sizes that a laptop counts in a second."""
    method = dice.choice(["full", "lora", "qlora"])
    dtype, amp = dice.choice([("bfloat16", True), ("bfloat16", True), ("float32", True), ("float32", False)])
    attention = dice.choice(["eager", "sdpa", "flash_attention_2"])
    family = dice.choice(FAMILIES)
    if family == "gemma2" and attention == "sdpa":  # transformers has none for it
        attention = "eager"
    if attention == "flash_attention_2" and not amp:  # it takes 16-bit tensors only
        attention = "eager"
    liger = amp and dice.random() < 0.4
    head = dice.choice([64, 128])
    kv_heads = dice.choice([1, 2, 4] if family in ("gemma3_text", "gemma") else [2, 4])  # one where models have it
    heads = kv_heads * dice.choice([1, 2, 4])
    hidden = max(512, head * heads * dice.choice([1, 1, 2]))  # below that a few small tensors weigh too much
    shapes = Shapes(
        "random", family, hidden, dice.randint(2, 8), heads, kv_heads, head,
        mlp=round(hidden * dice.uniform(2, 5) / 64) * 64, vocabulary=dice.choice([8000, 32000, 64000]),
        window=1, global_every=2,
    )  # fmt: skip
    kind = StepKind(
        method, dtype, amp, "float32", attention, checkpointing=dice.random() < 0.7,
        dropout=method != "full" and dice.random() < 0.5, liger=liger,
    )  # fmt: skip
    length = dice.choice([256, 512, 1024])
    setup = Setup(
        kind, dice.choice(["fused", "full"]), batch=dice.choice([1, 2, 4]), length=length,
        labels=dice.choice([32, 100, length - 1]), rank=dice.choice([8, 16, 32]) if method != "full" else 0,
    )  # fmt: skip
    return shapes, setup


def compared(shapes: Shapes, setup: Setup) -> tuple[int, int, int]:
    """Bytes beside the weights by formula and by count, and the weights that both have."""
    from scripts.memory_simulation import Sizes, Variant, count

    kind = setup.kind
    variant = Variant(
        kind.method, kind.dtype, kind.amp, kind.adapters, kind.attention, kind.checkpointing, kind.dropout, kind.liger,
        loss=setup.loss,
    )  # fmt: skip
    sizes = Sizes(
        shapes.model_type, shapes.hidden, shapes.layers, shapes.heads, shapes.kv_heads, shapes.head_dim, shapes.mlp,
        shapes.vocabulary, setup.batch, setup.length, setup.rank, setup.labels, shapes.tied,
    )  # fmt: skip
    phases = {name: sum(part.values()) for name, part in step_phases(shapes, setup).items() if name in COUNTED}
    counted = count(sizes, variant, fake=True)
    return max(phases.values()), counted.peak, counted.weights


def worst_of(cases: Iterator[tuple[Shapes, Setup]]) -> tuple[float, float, str]:
    """The largest relative error of the whole and of what is beside the weights, and the case of the former."""
    worst, worst_moving, told = 0.0, 0.0, ""
    for shapes, setup in cases:
        formula, counted, held = compared(shapes, setup)
        error = abs(formula - counted) / (counted + held)
        worst_moving = max(worst_moving, abs(formula - counted) / counted)
        if error >= worst:
            worst = error
            told = f"{shapes.model_type} {setup.kind.key} {setup.loss} {setup.batch} × {setup.length}: {shapes}"
    return worst, worst_moving, told


def test_the_formula_agrees_with_the_count_within_three_per_cent(capsys: Any) -> None:
    dice = random.Random(2026)
    count = min(60, 2 * examples(60))  # 12 of them with every change
    worst, moving, told = worst_of(random_case(dice) for _ in range(count))
    with capsys.disabled():
        sys.stdout.write(
            f"\nmemory formula against {count} counted steps: worst {worst:.2%} ({moving:.2%} beside weights)"
        )
        sys.stdout.write(f", {told}\n")
    assert worst < 0.03, told


@pytest.mark.slow
def test_the_formula_agrees_at_full_size_and_on_fresh_seeds(capsys: Any) -> None:
    """Gemma 3 4B's and Llama 3.1 8B's layers at 8,192 tokens, four of them; and 120 other random steps."""
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    worst, moving, told = worst_of([*full_size(), *(random_case(dice) for _ in range(120))])
    with capsys.disabled():
        sys.stdout.write(f"\nfull size and seed {seed}: worst {worst:.2%} ({moving:.2%} beside weights), {told}\n")
    assert worst < 0.03, f"seed {seed}: {told}"


def full_size() -> Iterator[tuple[Shapes, Setup]]:
    for name in ("google/gemma-3-4b-it", "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B"):
        found = sizes(name)
        text = {"gemma3": "gemma3_text"}.get(found.model_type, found.model_type)
        shapes = dataclasses.replace(found, model_type=text, layers=4, window=1, global_every=2)
        for method in ("full", "lora", "qlora"):
            kind = StepKind(method, dropout=method != "full", liger=method == "qlora")
            yield shapes, Setup(kind, "fused", 4, 8192, labels=500, rank=32 if method != "full" else 0)


@pytest.mark.slow
def test_fake_and_real_tensors_are_counted_alike() -> None:
    """The count itself: on real CPU tensors of a small model it is the same, to the byte."""
    from scripts.memory_simulation import Sizes, Variant, count

    sizes = Sizes("gemma3_text", 96, 3, 6, 2, 16, 208, 523, 2, 24, 4, 8)
    for method in ("full", "lora", "qlora"):
        for attention in ("eager", "sdpa", "flash_attention_2"):
            variant = Variant(method, attention=attention, dropout=method != "full")
            assert count(sizes, variant).peaks == count(sizes, variant, fake=True).peaks


def test_the_backward_of_softmax_is_counted_with_the_workspace_of_cuda() -> None:
    """Output, the product of gradient and output, and the input's gradient; the CPU's kernel makes no product."""
    import torch

    from scripts.memory_simulation import LiveStorages

    scores = torch.zeros(4, 64, requires_grad=True)
    gradient = torch.ones(4, 64)
    with LiveStorages({gradient.untyped_storage()._cdata}) as live:
        torch.autograd.grad(scores.softmax(-1), scores, gradient)
    assert live.peak == 3 * scores.nbytes


@pytest.mark.parametrize(("dtype", "amp"), [("float32", False), ("float32", True), ("bfloat16", True)])
def test_logits_that_are_held_live_through_the_layers_backward(dtype: str, amp: bool) -> None:
    """A training loop that calls `outputs.loss.backward()`, with layers that hold more than the loss."""
    shapes = Shapes("held", "llama", 512, 2, 8, 2, 64, mlp=1024, vocabulary=4000, tied=False)
    kind = StepKind("qlora", dtype, amp, "float32", "eager", dropout=False)
    setup = Setup(kind, "held", batch=2, length=512, labels=511, rank=8)
    assert estimate(shapes, setup).phase == "backward of the last layer"
    formula, counted, _ = compared(shapes, setup)
    assert formula == pytest.approx(counted, rel=0.01)


def test_a_sample_of_the_table_is_what_the_installed_libraries_give() -> None:
    """The whole of it: `make check-forms`."""
    from scripts.memory_forms import MODEL_TYPES, forms_of, kinds, plausible_models, pruned

    dice, models = random.Random(5), plausible_models()
    for model_type in MODEL_TYPES:
        kind = dice.choice(list(kinds(model_type)))
        counted = forms_of(model_type, kind, "fused")
        found = layer_forms(model_type, kind)
        layer = [forms[phase] for forms in (counted.stored, counted.beside) for phase in ("last", "scored")]
        assert [found.stored, found.kept, found.beside, found.beside_kept] == layer, f"{model_type} {kind.key}"
        for part, phase in ((found.forward, "last"), (found.backward, "layer")):
            assert list(part) == pruned(counted.beyond[phase], models), f"{model_type} {kind.key}"


@pytest.mark.slow
def test_the_table_of_forms_is_what_the_installed_libraries_give() -> None:
    """`make check-forms`."""
    script = ROOT / "scripts" / "memory_forms.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, capture_output=True, text=True)
