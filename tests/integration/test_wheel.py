"""The wheel carries configs, prompts and samples, and works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


def test_assets_travel_and_tests_stay(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "configs/demo.yaml",
        "configs/ipst/slds/sft_liger_peft.yaml",
        "prompts/ipst/slds/user.jinja",
        "samples/slds/train.jsonl",
    ):
        assert f"headnote_cli/assets/{needed}" in names
    for page in ("review.html.jinja", "review.css", "review.js"):
        assert f"headnote_cli/review/{page}" in names
    assert not any(name.startswith(("tests", ".")) for name in names)


def test_an_installed_wheel_previews_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """In a venv of its own that holds the wheel alone and borrows its dependencies from this one."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    code = f"import sys; sys.path += {borrowed!r}; from headnote_cli.cli.app import main; main()"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [str(home / "bin" / "python"), "-I", "-c", code, "preview-prompts", "-n", "1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "ARRÊT FICTIF" in result.stdout
