"""Check that a merged folder is the trained model: compare logits and losses on real prompts, or single layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headnote_cli.config.assets import assets_root
from headnote_cli.data.encoding import IGNORED, Encoder
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.sources import sound
from headnote_cli.errors import SldsError
from headnote_cli.machine.memory import available_memory
from headnote_cli.machine.plan import Quantization
from headnote_cli.merging.plan import MergeJob, MergePlan
from headnote_cli.merging.stream import through_four_bits
from headnote_cli.models.adapters import LowRank, Replaced, WeightDecomposed, as_float32, load_tensor
from headnote_cli.models.base import BaseModel, load_tokenizer
from headnote_cli.models.loading import four_bits, load_model, with_adapter
from headnote_cli.models.weights import OutputTensor, read_weights
from headnote_cli.upstream import keep_differentiable

# Relative L2 distance that rounding of the merged weights explains, by dtype: measured 1e-6 in float32. A bfloat16
# weight keeps 8 bits, a float16 weight 11; the reference keeps the adapter beside the base in float32.
LOGITS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.08, "float16": 0.02}
LAYER_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.01, "float16": 0.002}
POSITIONS = 128  # last positions of each prompt to compare; a vocabulary of 262,208 makes 134 MB of logits
LAYERS = 8
LARGEST_LAYER = 2**28  # elements; larger layers are skipped because of their float64 copies
INPUTS = 16  # random input vectors per layer
CPU = torch.device("cpu")  # all comparisons run here, even with a GPU
ROOM = 1.25  # free memory needed, relative to the model in float32
# Three lines in the court's style, for prompt templates that do not fit the shipped rows.
PLAIN_PROBES = (
    "Art. 41 Abs. 1 OR; Haftung aus unerlaubter Handlung. Voraussetzungen der Widerrechtlichkeit (E. 2.1).",
    "Art. 8 CC; fardeau de la preuve. Portée de la maxime des débats devant l'autorité cantonale (consid. 3).",
    "Art. 29 cpv. 2 Cost.; diritto di essere sentito. Obbligo di motivazione della decisione impugnata (consid. 4a).",
)
PROBE_TOKENS = 512
PROBE_ROWS = Path("samples/slds/test.jsonl")
# A prompt with its headnote: `input_ids`, and `labels`, which are IGNORED on the prompt.
Probe = Mapping[str, list[int]]


@dataclass(frozen=True)
class Distance:
    """How far the merged model is from another one on the same prompts or inputs."""

    max_abs: float
    relative_l2: float
    loss: float | None = None  # of the other model on the headnotes
    merged_loss: float | None = None


@dataclass(frozen=True)
class Verification:
    """What was compared, and the distances."""

    how: str
    distance: Distance  # to base + adapters
    tolerance: float
    trained: Distance | None = None  # to the 4-bit model of training, if that differs

    @property
    def passed(self) -> bool:
        return math.isfinite(self.distance.relative_l2) and self.distance.relative_l2 <= self.tolerance


def verify(job: MergeJob, plan: MergePlan | None, folder: Path, dtype: str, probes: Sequence[Probe]) -> Verification:
    """Compare a merged folder with its base and adapters: whole models if they fit into memory, else some layers.

    Args:
        plan: None if PEFT merged; then only whole models can be compared.
    """
    size = sum(math.prod(tensor.shape) for tensor in read_weights(folder)) * 4
    if plan is None or size * ROOM < available_memory():
        return _compare_models(job, folder, dtype, probes)
    return _compare_layers(plan, folder, dtype)


def probes_for(folder: Path, prompts: Path | None, max_length: int | None) -> list[Probe]:
    """Shipped rows in the run's templates; if these do not fit, plain lines with all tokens in the loss."""
    tokenizer = load_tokenizer(BaseModel(str(folder), "AutoModelForCausalLM"))
    if prompts is not None:
        try:
            encoder = Encoder(tokenizer, PromptTemplates(prompts), min(max_length or PROBE_TOKENS, PROBE_TOKENS))
            rows = itertools.islice(stream_rows(assets_root() / PROBE_ROWS), len(PLAIN_PROBES))
            encoded = [encoder.encode(sound(row)) for _, row in rows]
            if any(encoded):
                return [row.example() for row in encoded if row is not None]
        except SldsError:
            pass
    plain = [tokenizer(text)["input_ids"] for text in PLAIN_PROBES]
    return [{"input_ids": ids, "labels": ids} for ids in plain]


def _compare_models(job: MergeJob, folder: Path, dtype: str, probes: Sequence[Probe]) -> Verification:
    """Compare logits of the merged folder, loaded as any transformers user would, with those of base + adapters.

    One model is in memory at a time, in float32 on the CPU: 16-bit arithmetic is slow there, and its rounding would
    hide differences between the weights.
    """

    def logits_of(load: Callable[[], Any]) -> list[torch.Tensor]:
        model = load().eval()
        return [_logits(model, probe) for probe in probes]

    merged_base = replace(job.base, name=str(folder), revision="main")
    merged = logits_of(lambda: load_model(merged_base, torch.float32, CPU))
    quantization = job.onto or job.trained
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
    """The base with its adapters: PEFT merges all but the last, which stays separate."""
    how = four_bits(quantization, torch.float32) if quantization else None
    model: Any = load_model(job.base, torch.float32, CPU, quantization=how)
    keep_differentiable(model)  # the other layout computes in bfloat16
    for adapter in job.adapters[:-1]:
        model = with_adapter(model, adapter).merge_and_unload()
    return with_adapter(model, job.adapters[-1])


@torch.inference_mode()
def _logits(model: Any, probe: Probe) -> torch.Tensor:
    """Logits at the last positions of a probe, (positions, vocabulary)."""
    ids = torch.tensor([probe["input_ids"]])
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=POSITIONS)
    logits: torch.Tensor = output.logits[0].float()
    return logits


def _distance(expected: list[torch.Tensor], merged: list[torch.Tensor], probes: Sequence[Probe]) -> Distance:
    pairs = list(zip(expected, merged, strict=True))
    return Distance(*_apart(pairs), _loss(expected, probes), _loss(merged, probes))


def _apart(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """The largest absolute difference, and the L2 norm of the differences relative to that of the expected tensors."""
    most = differences = norms = 0.0
    for expected, merged in pairs:
        most = max(most, float((expected - merged).abs().max()))
        differences += float((expected - merged).pow(2).sum())
        norms += float(expected.pow(2).sum())
    return most, math.sqrt(differences) / max(math.sqrt(norms), 1e-12)


def _loss(logits: list[torch.Tensor], probes: Sequence[Probe]) -> float | None:
    """Mean cross-entropy of the headnotes' tokens in the kept positions."""
    total, count = 0.0, 0
    for scores, probe in zip(logits, probes, strict=True):
        labels = torch.tensor(probe["labels"])[-len(scores) :][1:]
        total += float(torch.nn.functional.cross_entropy(scores[:-1], labels, ignore_index=IGNORED, reduction="sum"))
        count += int((labels != IGNORED).sum())
    return total / count if count else None


def _compare_layers(plan: MergePlan, folder: Path, dtype: str) -> Verification:
    """Compare outputs of some adapted layers on random inputs with W + s·B·A recomputed in float64.

    For models that do not fit into memory.
    """
    on_disk = {tensor.name: tensor for tensor in read_weights(folder)}
    candidates = [
        tensor
        for tensor in plan.tensors()
        if tensor.name in plan.changes and len(tensor.shape) == 2 and math.prod(tensor.shape) <= LARGEST_LAYER
    ]
    step = max(1, len(candidates) // LAYERS)
    chosen = candidates[::step][:LAYERS]
    dice = torch.Generator().manual_seed(0)

    def outputs(tensor: OutputTensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(INPUTS, tensor.shape[1], generator=dice, dtype=torch.float64)
        return inputs @ _exact(plan, tensor).T, inputs @ load_tensor(on_disk[tensor.name]).double().T

    distance = Distance(*_apart(map(outputs, chosen)))
    return Verification(f"outputs of {len(chosen)} layers on random inputs", distance, LAYER_TOLERANCE[dtype])


def _exact(plan: MergePlan, tensor: OutputTensor) -> torch.Tensor:
    """The merged weight in float64, from the formulas, independent of the code that merged it."""
    weight = load_tensor(tensor.source)
    if plan.onto and tensor.name in plan.quantized:
        weight = through_four_bits(weight, plan.onto)
    weight = weight.double()
    for change in plan.changes[tensor.name]:
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
