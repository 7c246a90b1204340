"""Keep the libraries' chatter off the user's screen."""

from __future__ import annotations

import logging
import os
import warnings

# These log at import, before any verbosity setting of theirs can be reached.
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes", "accelerate")


def quieten() -> None:
    """To be called before the libraries are imported; `--debug` lets everything through."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data workers would deadlock
    if os.environ.get("SLDS_DEBUG"):
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else a line on each retry
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", UserWarning)
