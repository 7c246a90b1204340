"""Every private name of another library that slds touches, in one place.

None of them is promised to stay. `tests/unit/test_upstream.py` asserts that each is there, with the parameters that we
rely on, so that an upgrade fails here first. Nothing is imported: the objects come from whoever has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Methods of transformers' Trainer that `training.trainer.CompletionTrainer` overrides, with their parameters. There is
# no public way to order the rows, or to leave the rest of an evaluation.
OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "_get_train_sampler": ("self", "train_dataset"),
    "_maybe_log_save_evaluate": (
        "self", "tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time",
        "learning_rate",
    ),
}  # fmt: skip
# The module of bitsandbytes that asks the hub for a kernel while it is imported, on a CPU with AVX512-BF16 where the
# `kernels` package is installed: a start would wait for the network. It goes on with its own C function.
ASKS_THE_HUB = "bitsandbytes.backends.cpu.ops"


def attention_of(model: Any) -> str:
    """The attention that a transformers model computes with, such as `sdpa`."""
    return str(getattr(model.config, "_attn_implementation", "unknown"))


def train_on_one_gpu(arguments: Any) -> None:
    """Keep transformers' Trainer from copying the model to every visible GPU (`nn.DataParallel`)."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def begin_token_count(trainer: Any, tokens: int) -> None:
    """Let TRL's count of trained tokens begin at what an earlier part of the run came to."""
    trainer._total_train_tokens = tokens


def count_tokens(trainer: Any, tokens: int) -> None:
    """Add a batch to TRL's count of trained tokens, and log it as TRL does."""
    trainer._total_train_tokens += tokens
    trainer._metrics["train"]["num_tokens"] = [trainer._total_train_tokens]


def keep_differentiable(model: Any) -> None:
    """Keep the 4-bit layers of bitsandbytes in the layout that has a backward, and that computes in the inputs' dtype.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer at its first forward without gradients
    (`Linear4bit.forward`). From then on the layer multiplies in bfloat16 by a kernel without autograd: every adapter
    below it gets a gradient of zero.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def compute_without_casts(layer: Any) -> None:
    """Keep PEFT from casting the inputs of a LoRA layer to its adapter's dtype."""
    layer.cast_input_dtype_enabled = False


def linear_by_onednn(states: Any, weights: Any, bias: Any) -> Any:
    """The operator that PyTorch's compiler writes for linear layers on a CPU; it has no gradient."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(states, weights, bias, "none", [], "")


def corpus_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Any:
    """The statistics of each text, of which sacrebleu adds up a corpus's score, for bootstrap."""
    return metric._extract_corpus_statistics(list(texts), [list(references)])


def corpus_score(metric: Any, statistics: Sequence[int]) -> float:
    """The score of statistics that were added up."""
    return float(metric._compute_score_from_stats(list(statistics)).score)


def share_weights(scorer: Any, other: Any, longest: int) -> None:
    """Let one scorer of bert-score use another's model, and texts of at most so many tokens."""
    scorer._model = other._model
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, longest)


def fingerprint_of(dataset: Any) -> str:
    """What `datasets` knows a data set's content by."""
    return str(dataset._fingerprint)
