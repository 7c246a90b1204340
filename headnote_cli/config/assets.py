"""Where the shipped configs, prompts and samples are: in the wheel or in the checkout."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def assets_root() -> Path:
    """The folder that holds `configs/`, `prompts/` and `samples/`."""
    packaged = PACKAGE / "assets"
    return packaged if packaged.is_dir() else PACKAGE.parent


def locate(name: str, beside: Path | None = None) -> Path | None:
    """An existing file or folder called `name`: in the working directory, in the folder `beside`, or shipped."""
    # Unlike pathlib, os.path does not raise for an unknown user or for a name that is too long.
    path = os.path.expanduser(name)
    candidates = [folder / path for folder in (Path(), beside, assets_root()) if folder]
    return next((candidate for candidate in candidates if os.path.exists(candidate)), None)
