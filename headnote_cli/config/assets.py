"""Where the shipped configs, prompts and samples lie: inside the wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def assets_root() -> Path:
    """The folder that holds `configs/`, `prompts/` and `samples/`."""
    packaged = PACKAGE / "assets"
    return packaged if packaged.is_dir() else PACKAGE.parent


def locate(name: str, beside: Path | None = None) -> Path | None:
    """An existing file or folder called `name`: in the working directory, beside a file, or shipped."""
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # no such user's home
        return None
    folders = [Path(), *([beside] if beside else []), assets_root()]
    candidates = [path] if path.is_absolute() else [folder / path for folder in folders]
    return next((candidate for candidate in candidates if _exists(candidate)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name
        return False
