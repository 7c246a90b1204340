"""All private names of other libraries that slds uses.

They may change in any release. `tests/unit/test_upstream.py` checks that each exists with the parameters that slds
relies on, so an upgrade fails there first. Nothing is imported at the top: callers pass the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Methods of transformers' Trainer that `training.trainer.CompletionTrainer` overrides, with their parameters. No public
# method orders the rows or ends an evaluation early.
OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "_get_train_sampler": ("self", "train_dataset"),
    "_maybe_log_save_evaluate": (
        "self", "tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time",
        "learning_rate",
    ),
}  # fmt: skip
# A module of bitsandbytes. On a CPU with AVX512-BF16 and with `kernels` installed, its import looks for a kernel on the
# hub, so startup would wait for the network. Without that kernel it uses its own C function.
ASKS_THE_HUB = "bitsandbytes.backends.cpu.ops"


def attention_of(model: Any) -> str:
    """The attention implementation of a transformers model, such as `sdpa`."""
    return str(getattr(model.config, "_attn_implementation", "unknown"))


def train_on_one_gpu(arguments: Any) -> None:
    """Keep transformers' Trainer from copying the model to every visible GPU (`nn.DataParallel`)."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def begin_token_count(trainer: Any, tokens: int) -> None:
    """Start TRL's count of trained tokens at the total of the run's earlier parts."""
    trainer._total_train_tokens = tokens


def count_tokens(trainer: Any, tokens: int) -> None:
    """Add a batch to TRL's count of trained tokens, and log it as TRL does."""
    trainer._total_train_tokens += tokens
    trainer._metrics["train"]["num_tokens"] = [trainer._total_train_tokens]


def keep_differentiable(model: Any) -> None:
    """Keep the 4-bit layers of bitsandbytes in the layout that has a backward pass and computes in the inputs' dtype.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer at its first forward without gradients
    (`Linear4bit.forward`). From then on the layer uses a bfloat16 kernel without autograd, and every adapter below it
    gets a gradient of zero.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def compute_without_casts(layer: Any) -> None:
    """Keep PEFT from casting the inputs of a LoRA layer to its adapter's dtype."""
    layer.cast_input_dtype_enabled = False


def linear_by_onednn(states: Any, weights: Any, bias: Any) -> Any:
    """The operator that PyTorch's compiler uses for linear layers on a CPU; it has no gradient."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(states, weights, bias, "none", [], "")


def corpus_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Any:
    """The statistics of each text, which sacrebleu sums into a corpus score; for the bootstrap."""
    return metric._extract_corpus_statistics(list(texts), [list(references)])


def corpus_score(metric: Any, statistics: Sequence[int]) -> float:
    """The corpus score of summed statistics."""
    return float(metric._compute_score_from_stats(list(statistics)).score)


def share_weights(scorer: Any, other: Any, longest: int) -> None:
    """Let one bert-score scorer use another's model, and limit texts to `longest` tokens."""
    scorer._model = other._model
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, longest)


def fingerprint_of(dataset: Any) -> str:
    """The fingerprint by which `datasets` identifies a data set's content."""
    return str(dataset._fingerprint)
