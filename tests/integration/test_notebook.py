"""The notebook runs from its first cell to its last, and the Dockerfile names what there is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.test_readme import MODEL

NOTEBOOK = ROOT / "docs/notebooks/road.ipynb"


def test_the_notebook_goes_the_road(
    tmp_path: Path,
    tiny_models: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a tiny random model in the place of the demo's, and two steps."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_models("AutoModelForCausalLM"), MODEL)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    shorter = code.replace('["output_dir=', '["max_steps=2", "max_length=900", "output_dir=')
    assert shorter != code
    exec(compile(shorter.replace("max_new_tokens=112", "max_new_tokens=8"), str(NOTEBOOK), "exec"), {})
    shown = capsys.readouterr().out
    assert "--- assistant" in shown
    assert "step 2 of 2: loss" in shown
    assert "unsupported:" in shown
    assert all(cell.get("outputs", []) == [] for cell in cells), "outputs are not kept"


def test_the_dockerfile_installs_extras_that_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert set(re.findall(r"-c (\S+)", text)) == {"constraints.txt"}
