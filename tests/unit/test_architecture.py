"""The house rules: what starts fast, and who may import whom."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
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
# Who may import from whom: a room's rank must be above that of what it imports.
RANKS = {
    "__init__": 0, "errors": 0, "upstream": 0,
    "config": 1, "law": 1,
    "machine": 2,
    "events": 3, "runs": 3,
    "data": 4,
    "models": 5,
    "memory": 6,
    "training": 7, "merging": 7, "generation": 7,
    "evaluation": 8, "review": 8, "demo": 8,
    "screen": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["check-memory", "--quiet"]])
def test_starting_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom headnote_cli.cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True, cwd=ROOT
    )
    assert result.stderr.splitlines()[-1] == "[]"


def imported(file: Path) -> set[str]:
    """The modules of this package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("headnote_cli."):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in {module.split(".")[1] for module in imported(file)}:
        assert other == room or RANKS[other] < RANKS[room], f"{room} imports {other}"


def test_no_two_modules_import_each_other() -> None:
    sorter = TopologicalSorter({name: imported(file) - {name} for name, file in MODULES.items()})
    sorter.prepare()  # raises CycleError, which names the circle


def test_no_room_knows_the_screen() -> None:
    for name, file in MODULES.items():
        if not name.startswith(("headnote_cli.screen", "headnote_cli.cli")):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"^\s*(from|import) rich\b", text, re.M), name
            assert not re.search(r"^\s*(from|import) typer\b", text, re.M), name


def test_no_function_takes_more_than_seven_parameters() -> None:
    """But for the faces, whose parameters are options, and a function that a library calls by its own parameters."""
    many = [
        f"{name}: {node.name}"
        for name, file in MODULES.items()
        if not name.startswith("headnote_cli.cli")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        if len([one for one in (*node.args.args, *node.args.kwonlyargs) if one.arg not in ("self", "cls")]) > 7
    ]
    assert many == ["headnote_cli.generation.cpu: _mask"]
