"""What optimizers keep per trained weight. All in bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """Trained tensors of one size."""

    elements: int
    count: int = 1
    embedding: bool = False  # of an nn.Embedding


@dataclass(frozen=True)
class Optimizer:
    """State bytes of a trained weight, as a multiple of its own width and as a constant, and what a step needs.

    Attributes:
        plain: The same for tensors that are not quantized: multiple of the weight's width, and bytes.
        block: Tensors with at least `SMALLEST` elements are quantized; with torchao, only multiples of this.
        spares_embeddings: nn.Embedding is not quantized (transformers' Trainer, `create_optimizer`, for bitsandbytes).
    """

    widths: float = 0.0
    bytes: float = 0.0
    step_widths: float = 0.0
    plain: tuple[float, float] | None = None
    block: int = 1
    spares_embeddings: bool = False

    def per_weight(self, tensor: Tensor, width: int, shards: int = 1) -> float:
        """State bytes per weight of a tensor."""
        local = -(-tensor.elements // shards)
        whole = local < SMALLEST or local % self.block or (tensor.embedding and self.spares_embeddings)
        widths, beside = self.plain if self.plain and whole else (self.widths, self.bytes)
        return widths * width + beside


SMALLEST = 4096  # smallest tensor with quantized states (bitsandbytes' `min_8bit_size`, torchao's rule)
ADAM = Optimizer(widths=2)  # torch.optim.AdamW: exp_avg and exp_avg_sq in the weight's dtype
# bitsandbytes: two 8-bit states, a float32 per block of 256; unquantized states are float32.
BNB_8BIT = Optimizer(bytes=2 * (1 + 4 / 256), plain=(0, 8), spares_embeddings=True)
OPTIMIZERS = {
    # `foreach`, torch's default on CUDA, keeps the square roots of all second moments at once (_multi_tensor_adamw).
    "adamw_torch": Optimizer(widths=2, step_widths=1),
    "adamw_torch_fused": ADAM,
    "adamw_hf": ADAM,
    "adamw_apex_fused": Optimizer(bytes=8),
    "adamw_anyprecision": ADAM,
    # torchao (optim/adam.py, `_new_buffer`): a float32 per block of 256, also for 4 bits, as set by transformers'
    # Trainer (`_get_torchao_optimizer`). Unquantized states have the weight's dtype.
    "adamw_torch_8bit": Optimizer(bytes=2 * (1 + 4 / 256), plain=(2, 0), block=256),
    "adamw_torch_4bit": Optimizer(bytes=2 * (0.5 + 4 / 256), plain=(2, 0), block=256),
    "adamw_bnb_8bit": BNB_8BIT,
    "adamw_8bit": BNB_8BIT,
    # Paged: CUDA's unified memory moves the states out if the GPU is full.
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit", "paged_adamw_8bit"), Optimizer()),
    **dict.fromkeys(("paged_lion_8bit", "paged_lion_32bit"), Optimizer()),
    "lion_32bit": Optimizer(bytes=4),
    "lion_8bit": Optimizer(bytes=1 + 4 / 256, plain=(0, 4), spares_embeddings=True),
    "rmsprop": Optimizer(widths=1),
    "adagrad": Optimizer(widths=1),
    "sgd": Optimizer(),
    "adafactor": Optimizer(bytes=0.01, step_widths=1),  # row and column sums; the update is a whole tensor
}
