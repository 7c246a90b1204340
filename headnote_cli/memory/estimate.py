"""The peak memory of a training step: the maximum over its phases, each the sum of what is live. All in bytes.

Weights, adapters, gradients and optimizer states follow from their dtypes. What a layer and the loss keep comes from
`forms`, counted on the real model classes. `docs/memory.md` derives one config by hand. Sources: QLoRA is Dettmers et
al. 2023, arXiv:2305.14314; those of the optimizers are at their constants.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from headnote_cli.memory.forms import (
    LayerForms,
    StepKind,
    fullest,
    fused_tile,
    is_counted,
    layer_forms,
    loss_forms,
    value,
)
from headnote_cli.memory.optimizers import OPTIMIZERS, Optimizer, Tensor
from headnote_cli.memory.setup import EMBEDDINGS, Setup, adapted_modules
from headnote_cli.memory.shapes import Shapes
from headnote_cli.models.fit import VISION_MODULES

# bitsandbytes' NF4: 4 bits per weight and a float32 scale per 64 weights. With double quantization (QLoRA, section 3)
# the scale has 8 bits, with a float32 per 256 scales; 1 KiB of code book per tensor is ignored.
NF4 = 0.5 + 4 / 64
NF4_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)
QUANTIZED = {"nf4": NF4, "nf4 double": NF4_DOUBLE, "int8": 1}  # bytes per weight
# CUDA's context with cuBLAS and torch's kernels: 0.14 GB (T4) to 0.5 GB, by published pairs of the driver's and torch's
# figures; the larger one is used.
CUDA_CONTEXT = 500_000_000
# Overhead of torch's caching allocator (c10/cuda/CUDACachingAllocator): it rounds large blocks up to 2 MiB and splits
# them; the rest counts as reserved. As a share of temporary tensors.
ALLOCATOR_SLACK = 0.05
# What a CPU process uses before it loads a model: Python, torch and other libraries (resident after import, torch
# 2.13).
LIBRARIES = 520_000_000
# The C heap and the operators' own temporaries on a CPU, as a share of temporary tensors (measured on steps of SmolLM2
# of 2 × 1,024 tokens, `tests/integration/memory/test_memory_check.py`).
HEAP_SLACK = 0.25
BESIDE = ("CUDA context", "allocator slack", "base's file, mapped", "libraries")
# FSDP gathers one unit and prefetches the next (`backward_prefetch`).
GATHERED_UNITS = 2
MASTER = 4  # bytes of the float32 copy that DeepSpeed and FSDP keep of a 16-bit weight


@dataclass(frozen=True)
class Estimate:
    """Bytes by component at the peak, and what each phase needs.

    `unknown` lists what is not counted; then the total is a lower bound. `nearest` is the layer kind whose count was
    used because the actual kind was not counted.
    """

    components: dict[str, int]
    phase: str
    phases: dict[str, int]
    parameters: int
    trainable: int
    unknown: tuple[str, ...] = ()
    nearest: str | None = None

    @property
    def total(self) -> int:
        return sum(self.components.values())

    @property
    def allocated(self) -> int:
        """What `torch.cuda.max_memory_allocated` would report: only tensors."""
        return self.total - sum(self.components.get(name, 0) for name in BESIDE)


def estimate(shapes: Shapes, setup: Setup) -> Estimate:
    """The peak of one training step on one device, from the second step on, when the optimizer has its states."""
    fixed = fixed_parts(shapes, setup)
    moving = {"loading": loading(shapes, setup)} | step_phases(shapes, setup) | {"saving": {}}
    phases = {name: (part if name == "loading" else fixed | part) for name, part in moving.items()}
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    tensors = {name: size for name, size in phases[phase].items() if size}
    coming = sum(size for name, size in moving[phase].items() if name not in fixed)
    beside = beside_tensors(shapes, setup, coming)
    used = nearest_kind(shapes.model_type, setup.kind)
    return Estimate(
        tensors | beside,
        phase,
        {name: sum(part.values()) for name, part in phases.items()},
        shapes.parameters,
        trained_parameters(shapes, setup),
        setup.unknown,
        None if used == setup.kind else used.key,
    )


def beside_tensors(shapes: Shapes, setup: Setup, coming: int) -> dict[str, int]:
    """Memory besides tensors: on a GPU that of the driver and allocator, on a CPU that of the process.

    A base that is quantized or converted while loading stays mapped: its file is resident while there is room.

    Args:
        coming: Bytes of a step's temporary tensors.
    """
    if setup.on_gpu:
        return {"allocator slack": math.ceil(ALLOCATOR_SLACK * coming), "CUDA context": CUDA_CONTEXT}
    copied = shapes.quantized is None and (setup.quantization != "none" or setup.width != shapes.stored_width)
    return {
        "allocator slack": math.ceil(HEAP_SLACK * coming),
        "base's file, mapped": shapes.parameters * shapes.stored_width if copied else 0,
        "libraries": LIBRARIES,
    }


def fixed_parts(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """What is live during the whole step."""
    adapters = trained_parameters(shapes, setup) * setup.adapter_width if setup.kind.method != "full" else 0
    parts = {
        "weights": -(-weights(shapes, setup) // setup.share("weights")),
        "adapters": -(-adapters // setup.share("adapters")),
        "optimizer states": optimizer_states(shapes, setup),
    }
    if setup.sharding == "full":
        parts["gathered weights"] = gathered_weights(shapes, setup)
    if setup.sharding == "ddp":  # buckets copy the gradients (torch.nn.parallel, `gradient_as_bucket_view`)
        parts["DDP buckets"] = gradients(shapes, setup)
    return parts


def loading(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """Weights while loading: a GPU quantizes one 16-bit weight at a time (transformers/core_model_loading.py: no
    threads while quantizing)."""
    width = 0 if setup.quantization == "none" else 2
    widest = max(rows * columns for _, rows, columns in (*shapes.linear_modules(), *shapes.vision_modules()))
    return {"weights": -(-weights(shapes, setup) // setup.share("weights")), "a weight to quantize": width * widest}


def step_phases(shapes: Shapes, setup: Setup) -> dict[str, dict[str, int]]:
    """What each phase of a step needs besides the fixed part.

    With checkpointing a layer keeps only its input (tokens, hidden), without it all that its backward needs. The last
    layer is recomputed and its backward runs while all layers' activations are live; at the first layer only its own
    are, but all other layers' gradients exist.
    """
    sizes = sizes_of(shapes, setup)
    layer = forms_for(shapes, setup.kind)
    stored, kept = (shapes.layers * value(form, sizes) for form in (layer.stored, layer.kept))
    if setup.offloaded:  # how many are still on the GPU is unknown: a lower bound
        stored = kept = 0
    own = kept // shapes.layers
    scored, unscored = loss(shapes, setup)
    forward, backward = (fullest(forms, sizes) for forms in (layer.forward, layer.backward))
    grads = gradients(shapes, setup)
    accumulated = {"gradients": grads} if setup.gradients_stay else {}
    logits = {"logits": held_logits(shapes, setup)}
    others = {"gradients": grads if setup.gradients_stay else layer_gradients(shapes, setup) * (shapes.layers - 1)}
    phases = {
        "forward": {"activations": stored, "one layer at work": forward} | accumulated,
        "loss": {"activations": stored, "loss": scored} | accumulated,
        "backward of the loss": {"activations": kept, "loss": unscored} | accumulated,
        "backward of the last layer": {"activations": kept, "one layer at work": backward} | logits | accumulated,
        "backward of the first layer": {"activations": own, "one layer at work": backward} | others | logits,
        "end of backward": {"gradients": grads, "embedding's gradient": embedding_gradient(shapes, setup)} | logits,
        "optimizer step": {"gradients": grads, "optimizer step": optimizer_step(shapes, setup)} | logits,
    }
    if setup.evaluation_batch:
        evaluated = dataclasses.replace(setup, batch=setup.evaluation_batch)
        phases["evaluation"] = {"evaluation": evaluation(shapes, evaluated)} | batch_of(evaluated)
    return {name: batch_of(setup) | part for name, part in phases.items()}


def batch_of(setup: Setup) -> dict[str, int]:
    """Ids, labels and mask, in int64."""
    return {"batch": 3 * 8 * setup.batch * setup.length}


def sizes_of(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """The sizes used in forms (see `forms`)."""
    labelled = setup.batch * setup.labels
    return {
        "T": setup.batch * setup.length, "B": setup.batch, "S": setup.length, "N": labelled,
        "h": shapes.hidden, "I": shapes.mlp, "q": shapes.query_width, "kv": shapes.key_value_width,
        "d": shapes.head_dim, "H": shapes.heads, "K": shapes.kv_heads, "r": setup.rank, "V": shapes.vocabulary,
        "tile": fused_tile(labelled, shapes.vocabulary),
    }  # fmt: skip


def forms_for(shapes: Shapes, kind: StepKind) -> LayerForms:
    """The counted forms of a layer kind, or of the nearest one."""
    if kind.repeats_keys:
        heads = {shapes.heads: "each", 1: "one"}.get(shapes.kv_heads, "shared")
        kind = dataclasses.replace(kind, key_heads=heads)
    return layer_forms(shapes.model_type, nearest_kind(shapes.model_type, kind))


@cache
def nearest_kind(model_type: str, kind: StepKind) -> StepKind:
    """The kind itself if it was counted, else the nearest counted kind that needs at least as much."""
    nearest = kind
    steps: tuple[dict[str, Any], ...] = (
        {}, {"key_heads": "shared"}, {"targets": "all"}, {"amp": True}, {"adapters": "float32"}, {"attention": "eager"},
    )  # fmt: skip
    for step in steps:
        nearest = dataclasses.replace(nearest, **step)
        if is_counted(model_type, nearest):
            return nearest
    raise KeyError(kind.key)


def weights(shapes: Shapes, setup: Setup) -> int:
    """The base model's weights. Only linear layers are quantized, never embeddings, output layer, norms and biases."""
    linear = shapes.text_linear + shapes.vision_linear
    rest = (shapes.parameters - linear) * (4 if setup.upcast else setup.width)
    return math.ceil(linear * QUANTIZED.get(setup.quantization, setup.width)) + rest


def gathered_weights(shapes: Shapes, setup: Setup) -> int:
    """FSDP and ZeRO-3: the layers that are gathered at a time, (in × out) of their linear modules."""
    per_weight = QUANTIZED.get(setup.quantization, setup.width)
    return math.ceil(GATHERED_UNITS * shapes.layer_linear * per_weight + shapes.embedding * setup.width)


def trained_parameters(shapes: Shapes, setup: Setup) -> int:
    """All trained weights: LoRA's, including those in an unused vision tower; without PEFT, all that text reaches."""
    idle = () if setup.kind.method == "full" else _adapters(shapes, setup, in_tower=True)
    return _elements(idle) + stepped_parameters(shapes, setup)


def stepped_parameters(shapes: Shapes, setup: Setup) -> int:
    """Trained weights that text reaches: these have gradients and optimizer states."""
    return _elements(trained_tensors(shapes, setup))


def _elements(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.elements * tensor.count for tensor in tensors)


def trained_tensors(shapes: Shapes, setup: Setup) -> tuple[Tensor, ...]:
    """What the optimizer updates: LoRA's matrices and `modules_to_save`; without PEFT, all tensors of the text
    model."""
    if setup.kind.method == "full":
        linear = (Tensor(rows * columns, shapes.layers) for _, rows, columns in shapes.linear_modules())
        vectors = (Tensor(elements, count) for elements, count in shapes.vectors())
        return (Tensor(shapes.embedding, embedding=True), Tensor(shapes.head), *linear, *vectors)
    saved = (name for name in setup.saved_modules if name in EMBEDDINGS)
    embeddings = (Tensor(shapes.embedding, embedding=name == "embed_tokens") for name in saved)
    return (*_adapters(shapes, setup, in_tower=False), *embeddings)


def _adapters(shapes: Shapes, setup: Setup, in_tower: bool) -> tuple[Tensor, ...]:
    """LoRA's A (r, in) and B (out, r) of each target in the vision tower, or of each one outside it."""
    widths = _adapted_widths(shapes, setup.targets, setup.vision_adapted, in_tower)
    return tuple(Tensor(setup.rank * side, count) for pair, count in widths.items() for side in pair)


@lru_cache(maxsize=64)
def _adapted_widths(
    shapes: Shapes, targets: str | tuple[str, ...], vision: bool, in_tower: bool
) -> Counter[tuple[int, int]]:
    modules = adapted_modules(shapes, targets, vision)
    return Counter(
        (rows, columns) for name, rows, columns in modules if bool(re.fullmatch(VISION_MODULES, name)) == in_tower
    )


def gradients(shapes: Shapes, setup: Setup) -> int:
    """One per trained weight that text reaches, in its dtype."""
    return -(-stepped_parameters(shapes, setup) * setup.trained_width // setup.share("gradients"))


def layer_gradients(shapes: Shapes, setup: Setup) -> int:
    """Gradients of one layer; in full fine-tuning, the backward forms already have the output layer's."""
    if setup.kind.method != "full":
        return gradients(shapes, setup) // shapes.layers
    layer = (shapes.layer_linear + shapes.norms // shapes.layers) * setup.trained_width
    return -(-layer // setup.share("gradients"))


def embedding_gradient(shapes: Shapes, setup: Setup) -> int:
    """Full fine-tuning with a tied output layer: the embedding's own gradient and its sum with the output layer's, two
    tensors (vocabulary, hidden) besides the one that stays (torch's `embedding_dense_backward`)."""
    tied = setup.kind.method == "full" and shapes.tied
    return 2 * shapes.embedding * setup.width if tied else 0


def optimizer_states(shapes: Shapes, setup: Setup) -> int:
    """States of all updated weights, see `OPTIMIZERS`, and float32 masters where 16-bit weights are whole but updated
    in shards. An unknown optimizer counts as without states (and is in `unknown`)."""
    optimizer = OPTIMIZERS.get(setup.optim, Optimizer())
    shards = setup.share("optimizer states")
    masters = MASTER if setup.keeps_masters and setup.sharding != "full" else 0
    width = masters or setup.trained_width
    states = sum(
        tensor.elements * tensor.count * (optimizer.per_weight(tensor, width, shards) + masters)
        for tensor in trained_tensors(shapes, setup)
    )
    return math.ceil(states / shards)


def optimizer_step(shapes: Shapes, setup: Setup) -> int:
    """What an optimizer step needs besides states and gradients."""
    step = OPTIMIZERS.get(setup.optim, Optimizer()).step_widths
    return math.ceil(step * stepped_parameters(shapes, setup) * setup.trained_width / setup.share("optimizer states"))


def loss(shapes: Shapes, setup: Setup) -> tuple[int, int]:
    """The peaks of the loss's forward and of its backward.

    `fused`, `full`, `held` and `shifted` are counted forms. `liger` (liger_kernel/ops/fused_linear_cross_entropy.py)
    keeps a chunk of logits, its float32 copy, and, from its forward on, the gradient of the hidden states, (T, h);
    `labelled` keeps three float32 copies of the labelled positions' logits.
    """
    sizes = sizes_of(shapes, setup)
    counted = setup.loss if setup.loss in ("fused", "full", "held", "shifted") else "fused"
    if counted != setup.loss:
        sizes |= {"tile": 0}
    # Liger's kernels were counted only under autocast.
    kind = setup.kind if setup.kind.amp else dataclasses.replace(setup.kind, liger=False)
    forms = loss_forms(shapes.model_type, nearest_kind(shapes.model_type, kind), counted)
    layer = forms_for(shapes, setup.kind)
    forward, backward = (
        fullest(part, sizes) + value(beside, sizes)
        for part, beside in zip(forms, (layer.beside, layer.beside_kept), strict=True)
    )
    if setup.loss == "labelled":
        copies = 4 * sizes["N"] * sizes["V"]
        return forward + 2 * copies, backward + 3 * copies
    if setup.loss == "liger":
        rows = max(1, -(-sizes["T"] // -(-sizes["V"] // sizes["h"])))
        chunk = 2 ** math.ceil(math.log2(rows)) * sizes["V"] * (setup.width + 4)
        gradient = sizes["T"] * sizes["h"] * setup.width
        return forward + chunk + gradient, backward + gradient
    return forward, backward


def held_logits(shapes: Shapes, setup: Setup) -> int:
    """The logits, (T, V), where the model's output outlives the loss (`held`)."""
    if setup.loss != "held":
        return 0
    width = 4 if setup.kind.dtype == "float32" and not setup.kind.amp else 2
    return width * setup.batch * setup.length * shapes.vocabulary


def evaluation(shapes: Shapes, setup: Setup) -> int:
    """A forward pass without gradients: one layer or the loss, whichever is larger. On a CPU the loss keeps the
    labelled positions' logits and their softmax in float32."""
    sizes = sizes_of(shapes, setup)
    layer = forms_for(shapes, setup.kind)
    beyond = max(fullest(layer.forward, sizes), fullest((layer.stored,), sizes))
    logits = {"full": sizes["T"] * sizes["V"] * (setup.width + 8), "labelled": 2 * 4 * sizes["N"] * sizes["V"]}
    return max(beyond, logits.get(setup.loss, 2 * sizes["tile"]))
