"""The house rules: what starts fast, and who may import whom."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "headnote_cli"
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "torchao",
    "pyarrow",
    "numpy",
}
# Who may import from whom: a module's rank must be above that of what it imports.
RANKS = {
    "errors": 0, "assets": 0, "language": 0, "shortening": 0, "upstream_keys": 0, "key_versions": 0,
    "limits": 0, "timings": 0, "published": 0, "main_memory": 0, "plain": 0,
    "acts": 1, "config": 1, "documents": 1, "prompts": 1, "processes": 1, "weights": 1, "files": 1, "sampling": 1,
    "row_files": 1, "hub_layout": 1, "libraries": 1,
    "articles": 2, "data": 2, "hardware": 2, "runs": 2, "modelcard": 2, "curves": 2,
    "base_models": 3, "citations": 3, "encoding": 3, "events": 3, "memory": 3, "resuming": 3, "predictions": 3,
    "chat": 4, "review": 4,
    "endpoint": 5, "engine": 5,
    "console": 6, "commands": 6, "plots": 7,
    "views": 7, "cli": 8, "__main__": 9, "__init__": 0,
}  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["check-memory", "--quiet"]])
def test_starting_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom headnote_cli.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True, cwd=ROOT
    )
    assert result.stderr.splitlines()[-1] == "[]"


def imports(file: Path) -> set[str]:
    """The rooms of this package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("headnote_cli."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports(file):
        assert other == room or RANKS[other] < RANKS[room], f"{room} imports {other}"


def test_the_engine_knows_no_screen() -> None:
    for file in (PACKAGE / "engine").glob("*.py"):
        assert not imports(file) & {"console", "views", "cli", "commands"}
        assert "import rich" not in file.read_text(encoding="utf-8")
