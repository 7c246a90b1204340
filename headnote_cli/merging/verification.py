"""Is the merged folder the model that was trained? Logits and losses on real prompts, or layers, one by one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from headnote_cli.data.encoding import IGNORED
from headnote_cli.machine.memory import available_memory
from headnote_cli.machine.plan import Quantization
from headnote_cli.merging.plan import MergeJob, MergePlan
from headnote_cli.merging.stream import through_four_bits
from headnote_cli.models.adapters import LowRank, Replaced, WeightDecomposed, as_float32, load_tensor
from headnote_cli.models.loading import four_bits, load_model, with_adapter
from headnote_cli.models.weights import OutputTensor, read_weights
from headnote_cli.upstream import keep_differentiable

# Relative L2 distance that rounding the merged weights explains, by dtype: measured 1e-6 in float32; a bfloat16
# weight keeps 8 bits, a float16 one 11, and the reference holds the adapter beside the base in float32.
LOGITS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.08, "float16": 0.02}
LAYER_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.01, "float16": 0.002}
POSITIONS = 128  # at the end of each prompt whose logits are compared: a vocabulary of 262,208 makes 134 MB of them
LAYERS = 8
LARGEST_LAYER = 2**28  # elements: float64 copies of a larger one would not be small
INPUTS = 16  # random vectors that go through each layer
CPU = torch.device("cpu")  # where all is compared, also beside a GPU
ROOM = 1.25  # of a model in float32 that must be free


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt with its headnote, encoded; labels are IGNORED on the prompt."""

    ids: list[int]
    labels: list[int]


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far the merged model is from another one, on the same prompts or inputs."""

    max_abs: float
    relative_l2: float
    loss: float | None = None  # of the other model on the headnotes
    merged_loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was compared, and how far apart it is."""

    how: str
    distance: Distance  # to what was to be merged
    tolerance: float
    trained: Distance | None = None  # to the 4-bit model that training saw, where that is another one

    @property
    def passed(self) -> bool:
        return math.isfinite(self.distance.relative_l2) and self.distance.relative_l2 <= self.tolerance


def verify(
    job: MergeJob,
    plan: MergePlan | None,
    folder: Path,
    dtype: str,
    probes: Sequence[Probe],
    trained: Quantization | None,
) -> Verification:
    """Compare a merged folder with its base and adapters: whole models if they fit into memory, else some layers.

    Args:
        plan: None if PEFT merged it; then only whole models can be compared.
        trained: The 4-bit form in which training saw the base, if it did.
    """
    size = sum(math.prod(tensor.shape) for tensor in read_weights(folder)) * 4
    if plan is None or size * ROOM < available_memory():
        return compare_models(job, folder, dtype, probes, trained)
    return compare_layers(plan, folder, dtype)


def compare_models(
    job: MergeJob, folder: Path, dtype: str, probes: Sequence[Probe], trained: Quantization | None
) -> Verification:
    """Logits of the merged folder, loaded as any user of transformers would, beside those of base + adapters.

    One model is in memory at a time, in float32 on the CPU: there 16-bit arithmetic is slow, and would blur the
    comparison of weights with its own rounding.
    """

    def logits_of(load: Callable[[], Any]) -> list[torch.Tensor]:
        model = load().eval()
        return [_logits(model, probe) for probe in probes]

    merged_base = dataclasses.replace(job.base, name=str(folder), revision="main")
    merged = logits_of(lambda: load_model(merged_base, torch.float32, CPU))
    quantization = job.onto or trained
    in_four_bits = logits_of(lambda: _adapted(job, quantization)) if quantization else None
    expected = in_four_bits if job.onto and in_four_bits else logits_of(lambda: _adapted(job, None))
    what = "4-bit base + adapter" if job.onto else "base + adapter"
    return Verification(
        f"logits of {len(probes)} prompts against {what}",
        _distance(expected, merged, probes),
        LOGITS_TOLERANCE[dtype],
        _distance(in_four_bits, merged, probes) if in_four_bits and not job.onto else None,
    )


def _adapted(job: MergeJob, quantization: Quantization | None) -> Any:
    """The base with its adapters on: all but the last one merged by PEFT, the last beside it."""
    how = four_bits(quantization, torch.float32) if quantization is not None else None
    model: Any = load_model(job.base, torch.float32, CPU, quantization=how)
    keep_differentiable(model)  # the other layout multiplies in bfloat16
    for adapter in job.adapters[:-1]:
        model = with_adapter(model, adapter).merge_and_unload()
    return with_adapter(model, job.adapters[-1])


@torch.inference_mode()
def _logits(model: Any, probe: Probe) -> torch.Tensor:
    """(positions, vocabulary), the last positions of a probe."""
    ids = torch.tensor([probe.ids])
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=POSITIONS)
    logits: torch.Tensor = output.logits[0].float()
    return logits


def _distance(expected: list[torch.Tensor], merged: list[torch.Tensor], probes: Sequence[Probe]) -> Distance:
    pairs = list(zip(expected, merged, strict=True))
    most = max(float((a - b).abs().max()) for a, b in pairs)
    apart = math.sqrt(sum(float((a - b).pow(2).sum()) for a, b in pairs))
    long = math.sqrt(sum(float(a.pow(2).sum()) for a, _ in pairs))
    return Distance(most, apart / max(long, 1e-12), _loss(expected, probes), _loss(merged, probes))


def _loss(logits: list[torch.Tensor], probes: Sequence[Probe]) -> float | None:
    """Mean cross-entropy on the headnotes' tokens that stand in the kept positions."""
    total, count = 0.0, 0
    for one, probe in zip(logits, probes, strict=True):
        labels = torch.tensor(probe.labels)[-len(one) :]
        total += float(torch.nn.functional.cross_entropy(one[:-1], labels[1:], ignore_index=IGNORED, reduction="sum"))
        count += int((labels[1:] != IGNORED).sum())
    return total / count if count else None


def compare_layers(plan: MergePlan, folder: Path, dtype: str) -> Verification:
    """Outputs of some adapted layers on random inputs, with W + s·B·A computed anew in float64.

    For models that do not fit into memory.
    """
    on_disk = {tensor.name: tensor for tensor in read_weights(folder)}
    candidates = [tensor for _, tensors in plan.shards for tensor in tensors if _checkable(plan, tensor)]
    step = max(1, len(candidates) // LAYERS)
    chosen = candidates[::step][:LAYERS]
    most = apart = long = 0.0
    dice = torch.Generator().manual_seed(0)
    for tensor in chosen:
        exact = _exact(plan, tensor)
        inputs = torch.randn(INPUTS, exact.shape[1], generator=dice, dtype=torch.float64)
        expected = inputs @ exact.T
        found = inputs @ load_tensor(on_disk[tensor.name]).double().T
        most = max(most, float((expected - found).abs().max()))
        apart += float((expected - found).pow(2).sum())
        long += float(expected.pow(2).sum())
    distance = Distance(most, math.sqrt(apart) / max(math.sqrt(long), 1e-12))
    return Verification(f"outputs of {len(chosen)} layers on random inputs", distance, LAYER_TOLERANCE[dtype])


def _checkable(plan: MergePlan, tensor: OutputTensor) -> bool:
    edits = plan.edits.get(tensor.name, ())
    return len(tensor.shape) == 2 and math.prod(tensor.shape) <= LARGEST_LAYER and bool(edits)


def _exact(plan: MergePlan, tensor: OutputTensor) -> torch.Tensor:
    """The merged weight in float64, by the formulas and not by the code that merged it."""
    assert tensor.source is not None
    weight = load_tensor(tensor.source)
    if plan.onto and tensor.name in plan.quantized:
        weight = through_four_bits(weight, plan.onto)
    weight = weight.double()
    for edit in plan.edits[tensor.name]:
        for change in edit.changes:
            low_rank = change.low_rank if isinstance(change, WeightDecomposed) else change
            if isinstance(change, Replaced):
                weight = load_tensor(change.tensor).double()
            elif isinstance(low_rank, LowRank):
                product = as_float32(low_rank.b).double() @ as_float32(low_rank.a).double()
                weight = weight + low_rank.scaling * (product.T if low_rank.transposed else product)
            if isinstance(change, WeightDecomposed):
                axis = 0 if change.low_rank.transposed else 1
                factor = as_float32(change.magnitude).double() / weight.norm(dim=axis)
                weight = weight * factor.unsqueeze(axis)
    return weight


def probes_of(texts: Sequence[str], tokenizer: Any) -> list[Probe]:
    """Plain texts as probes, every token in the loss."""
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    return [Probe(list(ids), list(ids)) for ids in encoded]
