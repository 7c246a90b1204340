"""Random models with Gemma 3's form, their tokenizer and their rows: everything that the smoke test reads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headnote_cli.config.assets import assets_root
from headnote_cli.memory.shapes import SIGLIP

CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else"
    " 'user') + '\n' + message.content + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TINY_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
               "image_size": 28, "patch_size": 14, "vision_use_head": False}  # fmt: skip
# https://huggingface.co/google/gemma-3-4b-it/blob/main/config.json
GEMMA_3_4B: dict[str, Any] = {
    "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024, "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
}  # fmt: skip
VISION = SIGLIP | {"num_attention_heads": 16, "vision_use_head": False}
# Heads as Gemma 3 4B has them (8 that share 4), a global layer beside sliding ones, a window shorter than the rows.
FEW_LAYERS: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 128, "vocab_size": 4096,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What one part of the smoke test works on.

    Attributes:
        text, vision: Arguments of `Gemma3TextConfig` and `SiglipVisionConfig`.
        image_tokens: Tokens of an image, a square number that the vision tower's patches can be pooled to.
        length: Tokens of a row.
        batches: Rows a step, one run each.
    """

    text: dict[str, Any]
    vision: dict[str, Any] = field(default_factory=lambda: TINY_VISION)
    image_tokens: int = 4
    length: int = 1024
    batches: tuple[int, ...] = (2, 1)
    prompts: tuple[int, ...] = (300, 200, 100, 40)
    written: int = 8


FULL = Sizes(
    GEMMA_3_4B, VISION, image_tokens=256, length=8192, batches=(4, 1, 2), written=64,
    prompts=tuple(1000 + 400 * number for number in range(16)),
)  # fmt: skip
# By the model's name and where it is trained.
SIZES = {
    ("few-layers", "cuda"): Sizes(FEW_LAYERS),
    ("few-layers", "cpu"): Sizes(FEW_LAYERS | {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}),
    ("full-size", "cuda"): FULL,
    ("full-size", "cpu"): Sizes(FEW_LAYERS | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}),
}


def build_model(folder: Path, sizes: Sizes, device: str = "cpu") -> None:
    """A random image-text model in bfloat16 with its tokenizer; a large one is made on the GPU."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig
    from transformers.utils.logging import disable_progress_bar

    config = Gemma3Config(
        text_config=Gemma3TextConfig(**sizes.text, pad_token_id=0, eos_token_id=1, bos_token_id=2),
        vision_config=SiglipVisionConfig(**sizes.vision),
        mm_tokens_per_image=sizes.image_tokens,
        image_token_id=sizes.text["vocab_size"] - 1,
    )
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 1, 0, 2
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Gemma3ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    disable_progress_bar()
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def build_tokenizer() -> Any:
    """4,000 tokens of the sample decisions, with Gemma's control tokens and its form of a chat."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel()  # type: ignore[assignment]
    words.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    words.train_from_iterator(
        [json.dumps(row, ensure_ascii=False) for row in sample_rows()],
        trainers.BpeTrainer(vocab_size=4000, special_tokens=CONTROLS, show_progress=False),
    )
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), CONTROLS, strict=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=CONTROLS[4:], **names)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def sample_rows() -> list[dict[str, Any]]:
    """The shipped fictional rows."""
    text = (assets_root() / "samples/slds/train.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write_long_rows(folder: Path, length: int) -> None:
    """A dataset whose decisions are longer than `length` tokens, so that all rows are cut to the same size."""
    rows = sample_rows()
    folder.mkdir()
    longer = [row | {"decision": "\n".join([row["decision"]] * (1 + length // 200))} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in longer)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
