"""Hide the libraries' messages, but show their real warnings, each once."""

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
# Libraries whose warnings are shown.
LIBRARIES = ("accelerate", "datasets", "peft", "torch", "transformers", "trl")
# Starts of warnings about a library's use of another, which users cannot fix.
NOISE = (
    "`is_gradient_checkpointing` is deprecated",
    "`torch.jit.script_method` is deprecated",
)

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's current and older name of the setting
# Warnings that training results are wrong, such as torch's about a kernel without autograd.
UNSOUND = r"(?is).*(incorrect|no autograd|autograd kernel was not registered)"

_told: set[str] = set()


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"! {text}\n")


tell: Callable[[str], None] = _to_stderr  # prints a warning; the screen replaces it


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
    """Turn a library's warning of incorrect results into an error.

    Raises:
        UnsoundTrainingError: A library gave such a warning.
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
    """The setting of torch's GPU allocator: the user's, else expandable segments, which fragment less."""
    return next((os.environ[name] for name in ALLOCATOR if os.environ.get(name)), "expandable_segments:True")


def version_of(package: str) -> str | None:
    """The installed version, also of slds run from its sources; None if the package is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return __version__ if package == "headnote-cli" else None


class _LoaderWithoutKernels(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        before = sys.modules.get("kernels")
        sys.modules["kernels"] = None  # type: ignore[assignment] # makes `import kernels` fail
        try:
            super().exec_module(module)
        finally:
            del sys.modules["kernels"]
            if before is not None:
                sys.modules["kernels"] = before


class _FinderWithoutKernels(MetaPathFinder):
    """Imports `ASKS_THE_HUB` as if `kernels` were not installed."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != ASKS_THE_HUB:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _LoaderWithoutKernels(fullname, spec.origin)
        return spec


def quieten() -> None:
    """Silence the libraries; must be called before they are imported. `--debug` shows everything."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else forked data workers deadlock
    os.environ.setdefault("PYTORCH_ALLOC_CONF", allocator_setting())  # torch reads it only at import
    if not any(isinstance(finder, _FinderWithoutKernels) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FinderWithoutKernels())
    if os.environ.get("SLDS_DEBUG"):
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # C++ warnings bypass Python
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else it prints a line per retry
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(_TELLER)
    for beginning in NOISE:
        warnings.filterwarnings("ignore", message=re.escape(beginning))
    warnings.showwarning = _show_warning
