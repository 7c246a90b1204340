"""The wing that imports torch, transformers, trl, peft and datasets. Nothing outside imports it at the top."""

from __future__ import annotations

import logging
import os
import warnings


def _quieten() -> None:
    """Keep the libraries' import-time chatter off the user's screen; `--debug` lets it through."""
    if os.environ.get("SLDS_DEBUG"):
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # Both log at import, before any verbosity setting of theirs can be reached.
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", UserWarning)


_quieten()
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data workers would deadlock
