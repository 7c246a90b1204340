"""Make the demo's model, where benchmarks need it."""

from __future__ import annotations

from pathlib import Path

from headnote_cli.demo.model import make_model

TARGET = Path(".cache/demo/SmolLM2-135M-Instruct")

if __name__ == "__main__":
    make_model(TARGET)
    print(TARGET)
