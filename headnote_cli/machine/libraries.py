"""Keep the libraries' chatter off the user's screen, and let their real warnings through, each once."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from headnote_cli import __version__
from headnote_cli.errors import UnsoundTrainingError
from headnote_cli.upstream import ASKS_THE_HUB

# These log at import, before their verbosity can be set.
NOISY = ("torchao", "torch.utils._pytree", "bitsandbytes")
# Whose warnings are shown.
LIBRARIES = ("accelerate", "datasets", "peft", "torch", "transformers", "trl")
# What one library says to another, and a user can do nothing about: how it begins.
NOISE = (
    "`is_gradient_checkpointing` is deprecated",
    "`torch.jit.script_method` is deprecated",
)

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's name for its setting, and the older one
# Warnings after which a run learns something else than it should, such as torch's of a kernel without autograd.
UNSOUND = r"(?is).*(incorrect|no autograd|autograd kernel was not registered)"

_told: set[str] = set()


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"! {text}\n")


tell: Callable[[str], None] = _to_stderr  # where a warning goes; the screen puts itself here


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _tell_once(record.name, record.getMessage())


_TELLER = _Teller(logging.WARNING)


def _tell_once(source: str, text: str) -> None:
    text = " ".join(text.split())
    if text not in _told and not text.startswith(NOISE):
        _told.add(text)
        tell(f"{source.partition('.')[0]}: {text}")


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
    package = filename.replace(os.sep, "/").rpartition("site-packages/")[2].partition("/")[0]
    _tell_once(package or category.__name__, str(message))


class _Refuser(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if re.match(UNSOUND, record.getMessage()):
            raise _unsound(record.name, record.getMessage())


@contextmanager
def refusing_unsound_warnings() -> Iterator[None]:
    """Within it, a library's warning of incorrect results is an error.

    Raises:
        UnsoundTrainingError: A library gave one.
    """
    refuser = _Refuser(logging.WARNING)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    for logger in loggers:
        logger.addHandler(refuser)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=UNSOUND)
            yield
    except Warning as warning:
        if not re.match(UNSOUND, str(warning)):
            raise
        raise _unsound("a library", str(warning)) from warning
    finally:
        for logger in loggers:
            logger.removeHandler(refuser)


def _unsound(source: str, text: str) -> UnsoundTrainingError:
    return UnsoundTrainingError(
        f"{source.partition('.')[0]} warns that results are wrong: {' '.join(text.split())}",
        hint="nothing after the last checkpoint was kept; please report this with the versions in run.json",
    )


def allocator_setting() -> str:
    """The setting of torch's allocator on a GPU: the user's own words, else segments that grow, which fragment less."""
    return next((os.environ[name] for name in ALLOCATOR if os.environ.get(name)), "expandable_segments:True")


def version_of(package: str) -> str | None:
    """The version that is installed, ours too where slds runs from its sources; None without one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return __version__ if package == "headnote-cli" else None


class _LoaderWithoutKernels(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        before = sys.modules.get("kernels")
        sys.modules["kernels"] = None  # type: ignore[assignment] # Python's own way to say that there is none
        try:
            super().exec_module(module)
        finally:
            del sys.modules["kernels"]
            if before is not None:
                sys.modules["kernels"] = before


class _FinderWithoutKernels(MetaPathFinder):
    """Finds `ASKS_THE_HUB`, to be executed as if `kernels` were not installed."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != ASKS_THE_HUB:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _LoaderWithoutKernels(fullname, spec.origin)
        return spec


def quieten() -> None:
    """To be called before the libraries are imported; `--debug` lets everything through."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data workers would deadlock
    os.environ.setdefault("PYTORCH_ALLOC_CONF", allocator_setting())  # torch reads it once, when it is imported
    if not any(isinstance(finder, _FinderWithoutKernels) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FinderWithoutKernels())
    if os.environ.get("SLDS_DEBUG"):
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings go past Python, straight to the screen
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else a line on each retry
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(_TELLER)
    for beginning in NOISE:
        warnings.filterwarnings("ignore", message=re.escape(beginning))
    warnings.showwarning = _show_warning
