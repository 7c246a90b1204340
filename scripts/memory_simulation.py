"""Live bytes of one real training step: the model class of transformers, PEFT's LoRA layers, torch's autograd.

A dispatch mode sees every tensor that an operator makes and every storage that dies. On fake tensors
(`torch._subclasses.FakeTensorMode`) nothing is allocated, so full-size models are counted on a laptop; on real CPU
tensors the same count is made of a small model. What a CPU has not is replaced by a function that allocates the same
tensors: FlashAttention-2, bitsandbytes' `Linear4bit`, Liger's norm and MLP, TRL's fused output layer, the workspace of
CUDA's softmax. Each names the code whose allocations it repeats.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
TARGETS = {
    "all": (*ATTENTION, "gate_proj", "up_proj", "gate_up_proj", "down_proj"),
    "attention": ATTENTION,
    "qv": ("q_proj", "v_proj", "qkv_proj"),
}
TOKEN_TILE, VOCABULARY_TILE = 4096, 32768  # TRL's `TOKEN_CHUNK_SIZE` and `_CHUNKED_LOGPROB_CHUNK_SIZE`
Key = tuple[int, int]  # elements of a storage, bytes of one


@dataclass(frozen=True)
class Variant:
    """What decides which tensors live, apart from sizes.

    Attributes:
        method: `full`, `lora` or `qlora`.
        dtype: Of the loaded weights, `bfloat16` or `float32`.
        amp: Forward under autocast to bfloat16.
        adapters: Dtype of LoRA's weights; `float32 cast` is PEFT's way of casting each input to float32 first, which
            `slds train` switches off under autocast.
        attention: `eager`, `sdpa` (a mask is passed), `sdpa_causal` (none is) or `flash_attention_2`.
        targets: Of LoRA: `all` linear layers, `attention` or `qv`.
        loss: `fused` (TRL's tiles over labelled positions), `full` (the model's own loss on all logits), `held` (the
            same, the model's output kept through backward) or `shifted` (as models did before transformers 4.45:
            float32 logits, and a shifted copy of them).
    """

    method: str = "qlora"
    dtype: str = "bfloat16"
    amp: bool = True
    adapters: str = "float32"
    attention: str = "flash_attention_2"
    checkpointing: bool = True
    dropout: bool = True
    liger: bool = False
    targets: str = "all"
    loss: str = "fused"


@dataclass
class Sizes:
    """A model's and a batch's sizes."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    batch: int
    length: int
    rank: int = 8
    labels: int = 16  # labelled tokens a row
    tied: bool = True


class LiveStorages(TorchDispatchMode):  # type: ignore[misc]
    """Counts what lives; `moments` has, for every operator, what it left alive, by size."""

    def __init__(self, ignored: set[int], keep_moments: bool = False) -> None:
        super().__init__()
        self.live: Counter[Key] = Counter()
        self.total = self.peak = 0
        self.phase = "forward"
        self.peaks: dict[str, int] = {}
        self.moments: list[tuple[str, dict[Key, int]]] = []
        self._keep = keep_moments
        self._known: dict[int, weakref.ref[Any]] = {}
        self._ignored = ignored  # storages of weights

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # CUDA's kernel multiplies gradient and output first (aten/src/ATen/native/cuda/SoftMax.cu).
        workspace = torch.empty_like(args[0]) if func is torch.ops.aten._softmax_backward_data.default else None
        for tensor in tree_leaves((result, workspace)):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        self.note()
        return result

    def note(self) -> None:
        self.peak = max(self.peak, self.total)
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.total)
        if self._keep:
            self.moments.append((self.phase, dict(self.live)))

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity in self._known or identity in self._ignored:
            return
        width = tensor.element_size()
        key = (storage.nbytes() // width, width)
        self.live[key] += 1
        self.total += storage.nbytes()

        def died(_: Any, key: Key = key, size: int = storage.nbytes(), identity: int = identity) -> None:
            self.live[key] -= 1
            if not self.live[key]:
                del self.live[key]
            self.total -= size
            self._known.pop(identity, None)

        self._known[identity] = weakref.ref(storage, died)


def storages(model: torch.nn.Module) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}


class FlashAttention(torch.autograd.Function):  # type: ignore[misc]
    """flash-attn's `mha_fwd` and `mha_bwd` (csrc/flash_attn/flash_api.cpp): the output and a float32 log-sum-exp; in
    backward a float32 accumulator of dq and, where heads share keys, dk and dv of every query head."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)
        statistics = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, out, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        q, k, v, _, statistics = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        accumulator = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        row_sums = torch.empty_like(statistics)
        if q.shape[1] != k.shape[1]:
            expanded = torch.empty_like(q), torch.empty_like(q)
            del expanded
        del accumulator, row_sums
        return dq, dk, dv


def flash_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **_: Any) -> Any:
    """transformers' interface: (batch, heads, length, width) in, (batch, length, heads, width) out.

    Inputs in float32 are cast to the autocast or weight dtype first, as `_flash_attention_forward` does.
    """
    if query.dtype == torch.float32:
        query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
    return FlashAttention.apply(query, key, value).transpose(1, 2), None


class Quantized(torch.autograd.Function):  # type: ignore[misc]
    """bitsandbytes' `MatMul4Bit`: the weight is dequantized for forward and again for backward, the input not kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        whole = torch.empty(shape, dtype=x.dtype, device=x.device)
        return torch.nn.functional.linear(x, whole)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        whole = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device)
        return torch.matmul(grad, whole), None, None


class Linear4bit(torch.nn.Linear):  # type: ignore[misc]
    """Half a byte a weight; the tables of scales are counted by the formula alone."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.empty(
            (linear.in_features * linear.out_features // 2, 1), dtype=torch.uint8, device=linear.weight.device
        )
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        self.compute_dtype = torch.bfloat16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # As bitsandbytes: computed in the compute dtype, given back in the input's.
        given = x.dtype
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        out = Quantized.apply(x.to(self.compute_dtype), self.weight, (self.out_features, self.in_features))
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.to(given)


def _forward_on_4bit(layer: Any, amp: bool, x: torch.Tensor) -> torch.Tensor:
    """PEFT's `tuners/lora/bnb.py`: the base's output is cloned, and inputs are cast only where nothing is autocast."""
    result = layer.base_layer(x).clone()
    expected = result.dtype
    if not amp:
        x = layer._cast_input_dtype(x, layer.lora_A["default"].weight.dtype)
    output = layer.lora_B["default"](layer.lora_A["default"](layer.lora_dropout["default"](x)))
    output = output * layer.scaling["default"]
    return result + (output if amp else output.to(expected))


class LigerNorm(torch.autograd.Function):  # type: ignore[misc]
    """liger_kernel/ops/rms_norm.py: keeps the input and one float32 a token; no float32 copies."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None


class LigerGate(torch.autograd.Function):  # type: ignore[misc]
    """liger_kernel/ops/geglu.py and swiglu.py: keeps gate and up; their gradients overwrite them."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return ctx.saved_tensors


def _with_liger(model: torch.nn.Module) -> None:
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = lambda x, m=module: LigerNorm.apply(x, m.weight)  # type: ignore[assignment]
        elif kind.endswith("MLP") and hasattr(module, "gate_proj"):
            module.forward = lambda x, m=module: m.down_proj(LigerGate.apply(m.gate_proj(x), m.up_proj(x)))  # type: ignore[assignment]


class FusedHead(torch.autograd.Function):  # type: ignore[misc]
    """trl/kernels/chunked_logprob.py on a GPU: one tile of logits; gradients are summed in float32."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, tile: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.tile = tile
        _tile(hidden, weight, tile)
        return torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        hidden, weight = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_weight = torch.empty_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        _tile(hidden, weight, ctx.tile)
        return grad_hidden.to(hidden.dtype), None if grad_weight is None else grad_weight.to(weight.dtype), None


def _tile(hidden: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> None:
    shape = (min(hidden.shape[0], TOKEN_TILE), min(weight.shape[0], VOCABULARY_TILE))
    torch.empty(shape, dtype=dtype, device=hidden.device)


def build(sizes: Sizes, variant: Variant) -> torch.nn.Module:
    """The model, its adapters and its switches, as `slds train` sets them; weights are whatever memory holds."""
    options: dict[str, Any] = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": sizes.tied,
        "max_position_embeddings": max(sizes.length, 64),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if sizes.model_type.startswith("gemma"):
        options["sliding_window"] = max(2, sizes.length // 3)
        options["layer_types"] = ["sliding_attention"] + ["full_attention"] * (sizes.layers - 1)
    config = AutoConfig.for_model(sizes.model_type, **options)
    attention = {"sdpa_causal": "sdpa"}.get(variant.attention, variant.attention)
    flash = attention == "flash_attention_2"
    config._attn_implementation = "eager"
    dtype = getattr(torch, variant.dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager" if flash else attention)
    if flash:
        _use_flash(model)
    if variant.method == "qlora":
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                model.set_submodule(name, Linear4bit(module))
    if variant.liger:
        _with_liger(model)
    if variant.method != "full":
        linears = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
        lora = LoraConfig(
            r=sizes.rank,
            lora_dropout=0.1 if variant.dropout else 0.0,
            target_modules=[name for name in TARGETS[variant.targets] if name in linears],
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, variant.adapters.split()[0]))
        for module in model.modules():
            if isinstance(module, LoraLayer) and variant.amp and "cast" not in variant.adapters:
                module.cast_input_dtype_enabled = False
            if isinstance(module, LoraLayer) and variant.method == "qlora":
                module.forward = partial(_forward_on_4bit, module, variant.amp)
    if variant.checkpointing:
        inner = model.get_base_model() if variant.method != "full" else model
        inner.activation_checkpointing_enable({"use_reentrant": False})
        if variant.method != "full":
            inner.enable_input_require_grads()
    return model.train()


def _use_flash(model: torch.nn.Module) -> None:
    """Attention through the stand-in, without masks."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register("counted", flash_attention)
    AttentionMaskInterface.register("counted", lambda *_, **__: None)
    model.set_attn_implementation("counted")


@dataclass
class Counted:
    """Bytes beside the weights: the peak, the peak of each phase, and each moment by sizes."""

    weights: int
    trainable: int
    peak: int
    peaks: dict[str, int]
    moments: list[tuple[str, dict[Key, int]]] = field(repr=False)


def _as_fake(model: torch.nn.Module) -> None:
    """Meta weights become fake ones on the CPU; tied ones stay tied. PEFT cannot build its layers on fake tensors."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    made[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                kept[name] = made[id(tensor)]  # type: ignore[assignment]


@contextlib.contextmanager
def maybe_fake(fake: bool) -> Iterator[None]:
    if not fake:
        yield
        return
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def count(sizes: Sizes, variant: Variant, fake: bool = False, keep_moments: bool = False) -> Counted:
    """One forward and backward of a batch, optimizer states left out."""
    if fake:
        with torch.device("meta"):
            model = build(sizes, variant)
    else:
        model = build(sizes, variant)
    with maybe_fake(fake):
        if fake:
            _as_fake(model)
        ids = torch.ones((sizes.batch, sizes.length), dtype=torch.long)
        mask = torch.ones((sizes.batch, sizes.length), dtype=torch.long)
        if variant.attention != "sdpa_causal" and not fake:
            mask[0, -1] = 0  # a padded row: otherwise no mask is made
        live = LiveStorages(storages(model), keep_moments)
        _mark_phases(model, live)
        autocast = torch.autocast("cpu", torch.bfloat16) if variant.amp else contextlib.nullcontext()
        with live:
            with autocast:
                loss = _loss(model, variant, ids, mask, sizes.labels)
            live.phase = "scored"
            loss.backward()
            live.phase = "end"
            live.note()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return Counted(weights, trainable, live.peak, live.peaks, live.moments)


def _mark_phases(model: torch.nn.Module, live: LiveStorages) -> None:
    """`forward`, `last` in the last layer, `loss` from the last norm on, `scored` when its backward begins, `layer`
    while the last layer is taken backward, `rest` after it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = inner.model.layers

    def to(phase: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            live.phase = phase

        return hook

    inner.model.norm.register_forward_pre_hook(to("loss"))

    def entered(_: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if live.phase == "forward" and hidden.requires_grad:
            hidden.register_hook(to("rest"))
        elif live.phase == "scored":
            live.phase = "layer"
        if live.phase == "forward":
            live.phase = "last"

    def left(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if live.phase == "last":
            hidden.register_hook(to("layer"))

    layers[-1].register_forward_pre_hook(entered, with_kwargs=True)
    layers[-1].register_forward_hook(left)


def _loss(model: torch.nn.Module, variant: Variant, ids: Any, mask: Any, labels: int) -> torch.Tensor:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if variant.loss == "held":
        held = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False)
        held.loss.held = held  # as `outputs` in `outputs.loss.backward()`
        kept: torch.Tensor = held.loss
        return kept
    if variant.loss == "full":
        loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
        return loss
    if variant.loss == "shifted":
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        shifted = logits[:, :-1].contiguous()
        return torch.nn.functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), ids[:, 1:].reshape(-1))
    hidden = inner.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    row, position = _labelled(ids.shape[0], ids.shape[1], int(labels))
    tile = torch.bfloat16 if variant.amp else hidden.dtype
    per_token: torch.Tensor = FusedHead.apply(hidden[row, position], inner.lm_head.weight, tile)
    return per_token.sum()


def _labelled(batch: int, length: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and position of what is scored: the last `labels` tokens of every row, shifted by one."""
    row = torch.arange(batch).repeat_interleave(labels, output_size=batch * labels)
    position = torch.arange(length - 1 - labels, length - 1).repeat(batch)
    return row, position
