"""Write `headnote_cli/memory/forms_by_type/`: for each kind of step, what lives at its fullest moments.

One step of every kind is run with two and with three layers on real, tiny tensors (`memory_simulation`). The sizes are
such that the number of a tensor's elements tells its shape. What a third layer adds after forward is what a layer
stores; each operator's moment beyond that is a form. Of the forms those stay that are the fullest for some plausible
model.

    python scripts/memory_forms.py [MODEL_TYPE …] [--check]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headnote_cli.memory.forms import FOLDER, Form, StepKind, fused_tile, value

MODEL_TYPES = ("llama", "gemma3_text", "qwen2", "gemma2", "gemma", "qwen3", "phi3", "apertus")
TINY: dict[str, Any] = {"hidden": 90, "heads": 6, "kv_heads": 2, "head_dim": 16, "mlp": 208, "vocabulary": 523}
BATCH, LENGTH, RANK, LABELS = 2, 23, 4, 7
PRECISIONS = (("bfloat16", True), ("bfloat16", False), ("float32", True), ("float32", False))
ATTENTIONS = ("eager", "sdpa", "sdpa_causal", "flash_attention_2")
# Model types of which there are models with one key head, and those that keep queries, keys and values in one tensor.
KEY_HEADS = {"gemma3_text": ("one",), "gemma": ("one",), "phi3": ("each",)}
NEVER_FULLEST = 0.998  # a form below this share of the fullest for every plausible model is left out


def kinds(model_type: str) -> Iterator[StepKind]:
    """The kinds of step that a model type can do."""
    for kind in _kinds(model_type):
        yield kind
        for heads in KEY_HEADS.get(model_type, ()) if kind.repeats_keys else ():
            yield replace(kind, key_heads=heads)


def _kinds(model_type: str) -> Iterator[StepKind]:
    """Those of several key heads. transformers' Gemma 2 has no SDPA."""
    switches = itertools.product(PRECISIONS, ATTENTIONS, (True, False), (True, False))
    for (dtype, amp), attention, checkpointing, liger in switches:
        if model_type == "gemma2" and attention.startswith("sdpa"):
            continue
        if (liger and not amp) or (attention == "flash_attention_2" and dtype == "float32" and not amp):
            continue
        common: dict[str, Any] = {"dtype": dtype, "amp": amp, "attention": attention}
        common |= {"checkpointing": checkpointing, "liger": liger}
        yield StepKind("full", adapters=dtype, dropout=False, **common)
        adapted = {("bfloat16", True): ("bfloat16", "float32", "float32 cast"), ("bfloat16", False): ("bfloat16",)}
        for method, adapters, dropout in itertools.product(
            ("lora", "qlora"), adapted.get((dtype, amp), ("float32",)), (True, False)
        ):
            if method == "qlora" and "cast" in adapters:
                continue
            yield StepKind(method, adapters=adapters, dropout=dropout, **common)
            if dtype == "bfloat16" and not liger and (adapters == "float32" or not amp):
                for targets in ("attention", "qv"):
                    yield StepKind(method, adapters=adapters, dropout=dropout, targets=targets, **common)


def products(batch: int, length: int, kv_heads: int) -> dict[int, str]:
    """Elements of a tensor → the product of sizes that it is; tensors of other sizes are too small to count."""
    tokens, labelled = batch * length, batch * LABELS
    queries, keys = TINY["heads"] * TINY["head_dim"], kv_heads * TINY["head_dim"]
    hidden, mlp, vocabulary = TINY["hidden"], TINY["mlp"], TINY["vocabulary"]
    widths = {"h": hidden, "I": mlp, "q": queries, "kv": keys, "d": TINY["head_dim"], "H": TINY["heads"],
              "K": kv_heads, "r": RANK, "V": vocabulary}  # fmt: skip
    if kv_heads == 1:  # a key head is as wide as all of them
        del widths["d"], widths["K"]
    if kv_heads == TINY["heads"]:  # keys are as wide as queries
        del widths["kv"], widths["K"]
    found = {tokens * width: f"T*{name}" for name, width in widths.items()}
    shifted = batch * (length - 1)  # what a loss that shifts by one token holds
    found |= {shifted * hidden: "T*h", shifted * vocabulary: "T*V"}
    found |= {tokens: "T", labelled * hidden: "N*h", labelled * vocabulary: "tile"}
    found |= {batch * length**2: "B*S*S", length**2: "S*S", batch * TINY["heads"] * length**2: "B*H*S*S"}
    found |= {vocabulary * hidden: "h*V"}
    found |= {hidden * widths[name]: f"h*{name}" for name in ("I", "q", "kv") if name in widths}
    found |= {RANK * widths[name]: f"r*{name}" for name in ("h", "I", "q", "kv") if name in widths}
    return found


def fused_widths(kv_heads: int) -> dict[int, tuple[str, ...]]:
    """Tensors of fused projections: queries, keys and values in one, gate and up in one."""
    tokens, hidden = BATCH * LENGTH, TINY["hidden"]
    queries, keys = TINY["heads"] * TINY["head_dim"], kv_heads * TINY["head_dim"]
    together = queries + 2 * keys
    return {
        tokens * together: ("T*q", "T*kv", "T*kv"),
        hidden * together: ("h*q", "h*kv", "h*kv"),
        RANK * together: ("r*q", "r*kv", "r*kv"),
        tokens * 2 * TINY["mlp"]: ("T*I", "T*I"),
        hidden * 2 * TINY["mlp"]: ("h*I", "h*I"),
        RANK * 2 * TINY["mlp"]: ("r*I", "r*I"),
    }


@dataclass(frozen=True)
class Counted:
    """What was counted of a kind of step, in forward (`last`) and after it (`scored`).

    Attributes:
        stored: By a layer.
        beside: Beyond three layers' storage when the last one is done, and when backward begins: negative where the
            first layer stores less.
        beyond: The moments of each phase, beyond three layers' storage.
    """

    stored: dict[str, Form]
    beside: dict[str, Form]
    beyond: dict[str, list[Form]]


def forms_of(model_type: str, kind: StepKind, loss: str) -> Counted:
    """Count a kind of step with a way of taking the loss."""
    from scripts.memory_simulation import Sizes, Variant, count

    tiny = TINY | {"kv_heads": {"one": 1, "each": TINY["heads"], "shared": TINY["kv_heads"]}[kind.key_heads]}
    named, fused = products(BATCH, LENGTH, tiny["kv_heads"]), fused_widths(tiny["kv_heads"])
    assert len(named) == {"one": 23, "each": 21, "shared": 25}[kind.key_heads], "two shapes have as many elements"

    def form(moment: dict[tuple[int, int], int]) -> Counter[str]:
        counted: Counter[str] = Counter()
        for (elements, width), times in moment.items():
            for product in (named[elements],) if elements in named else fused.get(elements, ()):
                counted[product] += width * times
        return counted

    switches = {name: value for name, value in asdict(kind).items() if name != "key_heads"}
    variant = Variant(**switches, loss=loss)
    runs = {}
    for layers in (2, 3):
        sizes = Sizes(model_type, layers=layers, batch=BATCH, length=LENGTH, rank=RANK, labels=LABELS, **tiny)
        runs[layers] = [(phase, form(moment)) for phase, moment in count(sizes, variant, keep_moments=True).moments]
    stored = {phase: stored_at(phase, runs) for phase in ("last", "scored")}
    beyond: dict[str, list[Form]] = {"last": [], "loss": [], "scored": [], "layer": []}
    for phase, moment in runs[3]:
        if phase in beyond:
            beyond[phase].append(minus(moment, stored["last" if phase in ("last", "loss") else "scored"], 3))
    beside = {phase: beyond[start][0] for phase, start in (("last", "loss"), ("scored", "scored"))}
    return Counted(stored, beside, beyond)


def minus(form: Form, other: Form, times: int = 1) -> Form:
    """A form without another, so many times."""
    rest = {product: form.get(product, 0) - times * other.get(product, 0) for product in sorted({*form, *other})}
    return {product: width for product, width in rest.items() if width}


def stored_at(phase: str, runs: dict[int, list[tuple[str, Counter[str]]]]) -> Form:
    """What a third layer adds to the first moment of a phase. Autocast's casts of weights go when forward ends."""
    two, three = (next(moment for name, moment in runs[layers] if name == phase) for layers in (2, 3))
    return {product: three[product] - two[product] for product in sorted(three) if three[product] != two[product]}


def plausible_models() -> list[dict[str, int]]:
    """Sizes of models and batches between which the fullest moment may change."""
    dice = random.Random(0)
    found = []
    for _ in range(300):
        hidden = dice.choice([512, 1024, 2048, 2560, 4096, 8192])
        head = dice.choice([64, 128, 256])
        heads = max(1, round(hidden * dice.uniform(0.6, 2.0) / head))
        kv_heads = max(1, heads // dice.choice([1, 2, 4, 8]))
        vocabulary = dice.choice([32_000, 152_000, 262_208])
        length, batch = dice.choice([256, 1024, 2048, 8192]), dice.choice([1, 2, 8])
        found.append(
            {
                "h": hidden,
                "I": round(hidden * dice.uniform(1.5, 8)),
                "q": heads * head,
                "kv": kv_heads * head,
                "d": head,
                "H": heads,
                "K": kv_heads,
                "r": dice.choice([8, 32]),
                "V": vocabulary,
                "T": batch * length,
                "B": batch,
                "S": length,
                "N": batch * dice.choice([length // 20, length - 1]),
            }
        )
        found[-1]["tile"] = fused_tile(found[-1]["N"], vocabulary)  # fmt: skip
    return found


def pruned(forms: Iterable[Form], models: list[dict[str, int]]) -> list[Form]:
    """The forms that are needed to tell the fullest moment of every model, within NEVER_FULLEST."""
    unique = [dict(items) for items in sorted({tuple(sorted(form.items())) for form in forms})]
    terms = sorted({term for form in unique for term in form})
    widths = np.array([[form.get(term, 0) for term in terms] for form in unique], np.float64)
    counts = np.array([[value({term: 1}, sizes) for sizes in models] for term in terms], np.float64)
    kept: set[int] = set()
    for row in (widths @ counts).T:
        if max((row[index] for index in kept), default=-1) < NEVER_FULLEST * row.max():
            kept.add(int(row.argmax()))
    return [unique[index] for index in sorted(kept, key=lambda index: -sum(unique[index].values()))]


def of_type(model_type: str) -> dict[str, dict[str, list[list[Form]]]]:
    """All kinds of one model type."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    models = plausible_models()
    layers: dict[str, list[list[Form]]] = {}
    losses: dict[str, list[list[Form]]] = {}
    for kind in kinds(model_type):
        counted = forms_of(model_type, kind, "fused")
        fullest = [pruned(counted.beyond[phase], models) for phase in ("last", "layer")]
        stored, beside = (
            [[forms[phase]] for phase in ("last", "scored")] for forms in (counted.stored, counted.beside)
        )
        layers[kind.key] = [*stored, *beside, *fullest]
        for loss in ("fused", "full", "held", "shifted"):
            if f"{kind.head_key} {loss}" not in losses:
                moments = (counted if loss == "fused" else forms_of(model_type, kind, loss)).beyond
                losses[f"{kind.head_key} {loss}"] = [
                    [minus(form, counted.beside[start]) for form in pruned(moments[phase], models)]
                    for phase, start in (("loss", "last"), ("scored", "scored"))
                ]
    return {"layers": layers, "losses": losses}


def table(model_type: str) -> str:
    """The text of one model type's file, every form written once."""
    forms: dict[str, int] = {}

    def index(form: Form) -> int:
        return forms.setdefault(json.dumps(form, sort_keys=True), len(forms))

    counted = {
        part: {key: [[index(form) for form in moment] for moment in moments] for key, moments in entries.items()}
        for part, entries in of_type(model_type).items()
    }
    return json.dumps({"forms": [json.loads(form) for form in forms]} | counted, separators=(",", ":")) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_types", nargs="*", default=MODEL_TYPES)
    parser.add_argument("--check", action="store_true", help="only say whether a file would change")
    options = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        for name, text in zip(options.model_types, pool.map(table, options.model_types), strict=True):
            file = FOLDER / f"{name}.json"
            if not options.check:
                file.write_text(text, encoding="utf-8")
            elif text != file.read_text(encoding="utf-8"):
                raise SystemExit(f"{file.name} is not what the installed libraries give: run this without --check")
            print(f"{name}: {len(json.loads(text)['layers'])} kinds", file=sys.stderr)


if __name__ == "__main__":
    main()
