"""The peak of a training step: the maximum over its phases, each the sum of what lives then. Bytes throughout.

Weights, adapters, gradients and optimizer states follow from their dtypes; what a layer and the loss hold comes from
`forms`, counted on the real model classes. `docs/memory.md` derives one config by hand. Sources: QLoRA is Dettmers et
al. 2023, arXiv:2305.14314; the optimizers are named at their constants.
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

# bitsandbytes' NF4: 4 bits a weight and a float32 scale for 64 of them. With double quantization (QLoRA, section 3)
# the scale has 8 bits, with a float32 for 256 of those and 1 KiB of code book a tensor, which is left out.
NF4 = 0.5 + 4 / 64
NF4_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)
QUANTIZED = {"nf4": NF4, "nf4 double": NF4_DOUBLE, "int8": 1}  # bytes of a weight
# CUDA's context with cuBLAS and the kernels of torch: 0.14 GB (T4) to 0.5 GB in published pairs of driver's and
# torch's figures; the larger one.
CUDA_CONTEXT = 500_000_000
# Blocks of torch's caching allocator (c10/cuda/CUDACachingAllocator): large ones are rounded up to 2 MiB and split,
# and what is left over is counted as reserved. Share of the tensors that come and go.
ALLOCATOR_SLACK = 0.05
# What a process takes on a CPU before it loads a model: Python, torch and the other libraries (resident after their
# import, torch 2.13).
LIBRARIES = 520_000_000
# What the C library's heap and the operators' own temporaries come to there, as a share of the tensors that come and go
# (measured on steps of SmolLM2 of 2 × 1,024 tokens, `tests/integration/memory/test_memory_check.py`).
HEAP_SLACK = 0.25
BESIDE = ("CUDA context", "allocator slack", "base's file, mapped", "libraries")
# FSDP gathers one unit while the next one is fetched (`backward_prefetch`).
GATHERED_UNITS = 2
MASTER = 4  # bytes of a float32 weight that DeepSpeed and FSDP step beside 16-bit ones


@dataclass(frozen=True)
class Estimate:
    """Bytes by component at the peak, and what every phase needs.

    `unknown` names what is not counted: then the total is a lower bound. `nearest` is the kind of layer whose count
    stands in for one that was not counted.
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
        """What `torch.cuda.max_memory_allocated` would say: tensors alone."""
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
    """What the device holds beside tensors: on a GPU the driver's and the allocator's part, on a CPU the process.

    A base that is quantized or converted while loading stays mapped: its file is resident as long as there is room.

    Args:
        coming: Bytes of the tensors that come and go in a step.
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
    """What lives through a whole step."""
    adapters = trained_parameters(shapes, setup) * setup.adapter_width if setup.kind.method != "full" else 0
    parts = {
        "weights": -(-weights(shapes, setup) // setup.share("weights")),
        "adapters": -(-adapters // setup.share("adapters")),
        "optimizer states": optimizer_states(shapes, setup),
    }
    if setup.sharding == "full":
        parts["gathered weights"] = gathered_weights(shapes, setup)
    if setup.sharding == "ddp":  # buckets are copies of the gradients (torch.nn.parallel, `gradient_as_bucket_view`)
        parts["DDP buckets"] = gradients(shapes, setup)
    return parts


def loading(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """Weights as they come: on a GPU each is quantized when it is there, in 16 bits, one at a time
    (transformers/core_model_loading.py: no threads while quantizing)."""
    width = 0 if setup.quantization == "none" else 2
    widest = max(rows * columns for _, rows, columns in (*shapes.linear_modules(), *shapes.vision_modules()))
    return {"weights": -(-weights(shapes, setup) // setup.share("weights")), "a weight to quantize": width * widest}


def step_phases(shapes: Shapes, setup: Setup) -> dict[str, dict[str, int]]:
    """What lives beside the fixed part in each phase of a step.

    With checkpointing a layer leaves its input (tokens, hidden) behind, without it all that its backward needs. The
    last layer is recomputed and taken backward while all layers' activations live; the first one when only its own do
    but the gradients of all others are there.
    """
    sizes = sizes_of(shapes, setup)
    layer = forms_for(shapes, setup.kind)
    stored, kept = (shapes.layers * value(form, sizes) for form in (layer.stored, layer.kept))
    if setup.offloaded:  # how many still wait on the GPU is not known: a lower bound
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
    """Ids, labels and mask in int64."""
    return {"batch": 3 * 8 * setup.batch * setup.length}


def sizes_of(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """The sizes that forms are written in (see `forms`)."""
    labelled = setup.batch * setup.labels
    return {
        "T": setup.batch * setup.length, "B": setup.batch, "S": setup.length, "N": labelled,
        "h": shapes.hidden, "I": shapes.mlp, "q": shapes.query_width, "kv": shapes.key_value_width,
        "d": shapes.head_dim, "H": shapes.heads, "K": shapes.kv_heads, "r": setup.rank, "V": shapes.vocabulary,
        "tile": fused_tile(labelled, shapes.vocabulary),
    }  # fmt: skip


def forms_for(shapes: Shapes, kind: StepKind) -> LayerForms:
    """The counted forms of a kind of layer, or of the nearest one."""
    if kind.repeats_keys:
        heads = {shapes.heads: "each", 1: "one"}.get(shapes.kv_heads, "shared")
        kind = dataclasses.replace(kind, key_heads=heads)
    return layer_forms(shapes.model_type, nearest_kind(shapes.model_type, kind))


@cache
def nearest_kind(model_type: str, kind: StepKind) -> StepKind:
    """The kind itself if it was counted, else the nearest counted one that holds no less."""
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
    """The base model: linear layers quantized if asked; embeddings, output layer, norms and biases never are."""
    linear = shapes.text_linear + shapes.vision_linear
    rest = (shapes.parameters - linear) * (4 if setup.upcast else setup.width)
    return math.ceil(linear * QUANTIZED.get(setup.quantization, setup.width)) + rest


def gathered_weights(shapes: Shapes, setup: Setup) -> int:
    """FSDP and ZeRO-3: the layers that are whole at a time, (in × out) of their linear modules."""
    per_weight = QUANTIZED.get(setup.quantization, setup.width)
    return math.ceil(GATHERED_UNITS * shapes.layer_linear * per_weight + shapes.embedding * setup.width)


def trained_parameters(shapes: Shapes, setup: Setup) -> int:
    """All trained weights: LoRA's, those in an unused vision tower too; without PEFT all that text reaches."""
    idle = () if setup.kind.method == "full" else _adapters(shapes, setup, in_tower=True)
    return _elements(idle) + stepped_parameters(shapes, setup)


def stepped_parameters(shapes: Shapes, setup: Setup) -> int:
    """Trained weights that text reaches, so that they have a gradient and states."""
    return _elements(trained_tensors(shapes, setup))


def _elements(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.elements * tensor.count for tensor in tensors)


def trained_tensors(shapes: Shapes, setup: Setup) -> tuple[Tensor, ...]:
    """What the optimizer steps: LoRA's matrices and `modules_to_save`, or without PEFT every tensor of the text
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
    """One in the dtype of each trained weight that text reaches."""
    return -(-stepped_parameters(shapes, setup) * setup.trained_width // setup.share("gradients"))


def layer_gradients(shapes: Shapes, setup: Setup) -> int:
    """Of one layer; the output layer's is in the backward forms of full fine-tuning already."""
    if setup.kind.method != "full":
        return gradients(shapes, setup) // shapes.layers
    layer = (shapes.layer_linear + shapes.norms // shapes.layers) * setup.trained_width
    return -(-layer // setup.share("gradients"))


def embedding_gradient(shapes: Shapes, setup: Setup) -> int:
    """Full fine-tuning with a tied output layer: the embedding's own gradient, and its sum with the output layer's,
    two tensors (vocabulary, hidden) beside the one that stays (torch's `embedding_dense_backward`)."""
    tied = setup.kind.method == "full" and shapes.tied
    return 2 * shapes.embedding * setup.width if tied else 0


def optimizer_states(shapes: Shapes, setup: Setup) -> int:
    """States of all stepped weights, see `OPTIMIZERS`, and float32 masters where 16-bit weights are whole and sharded
    ones are stepped; no states for an optimizer that is not known (then it is in `unknown`)."""
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
    """What a step of the optimizer holds beside states and gradients."""
    step = OPTIMIZERS.get(setup.optim, Optimizer()).step_widths
    return math.ceil(step * stepped_parameters(shapes, setup) * setup.trained_width / setup.share("optimizer states"))


def loss(shapes: Shapes, setup: Setup) -> tuple[int, int]:
    """The fullest moments of the loss's forward and of its backward.

    `fused`, `full`, `held` and `shifted` are counted forms. `liger`
    (liger_kernel/ops/fused_linear_cross_entropy.py) holds a chunk of logits, its float32 copy, and the gradient of the
    hidden states, (T, h), from its forward on; `labelled` three float32 copies of the labelled positions' logits.
    """
    sizes = sizes_of(shapes, setup)
    counted = setup.loss if setup.loss in ("fused", "full", "held", "shifted") else "fused"
    if counted != setup.loss:
        sizes |= {"tile": 0}
    # Liger's kernels were counted under autocast only.
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
    """(T, V) as the output layer gives it, where the model's output outlives the loss: `held`."""
    if setup.loss != "held":
        return 0
    width = 4 if setup.kind.dtype == "float32" and not setup.kind.amp else 2
    return width * setup.batch * setup.length * shapes.vocabulary


def evaluation(shapes: Shapes, setup: Setup) -> int:
    """A forward without gradients: one layer at work, or the loss, whichever is larger. On a CPU the loss holds the
    labelled positions' logits and their softmax in float32."""
    sizes = sizes_of(shapes, setup)
    layer = forms_for(shapes, setup.kind)
    beyond = max(fullest(layer.forward, sizes), fullest((layer.stored,), sizes))
    logits = {"full": sizes["T"] * sizes["V"] * (setup.width + 8), "labelled": 2 * 4 * sizes["N"] * sizes["V"]}
    return max(beyond, logits.get(setup.loss, 2 * sizes["tile"]))
