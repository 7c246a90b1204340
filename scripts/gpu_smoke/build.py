"""Write one of the models: `python -m scripts.gpu_smoke.build FOLDER few-layers|full-size cpu|cuda`."""

from __future__ import annotations

import sys
from pathlib import Path

import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)
from scripts.gpu_smoke.models import SIZES, build_model

folder, name, device = sys.argv[1:]
build_model(Path(folder), SIZES[name, device], device if name == "full-size" else "cpu")
