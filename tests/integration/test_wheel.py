"""The wheel carries configs, prompts and samples, and works from any folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.test_readme import MODEL


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


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`slds` in a venv of its own that holds the wheel alone and borrows its dependencies from this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    borrowed = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))

    def slds(folder: Path, *arguments: str) -> str:
        result = subprocess.run(
            [str(home / "bin" / "python"), "-m", "headnote_cli", *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(site), borrowed])},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return slds


def test_an_installed_wheel_previews_from_any_folder(installed: Callable[..., str], tmp_path: Path) -> None:
    assert "ARRÊT FICTIF" in installed(tmp_path, "preview-prompts", "-n", "1")


@pytest.mark.slow
def test_an_installed_wheel_goes_the_demo_in_an_empty_folder(
    installed: Callable[..., str], tiny_models: Callable[[str], Path], tmp_path: Path
) -> None:
    """With a tiny random model in the place of the one that it would fetch; a second start does nothing again."""
    shutil.copytree(tiny_models("AutoModelForCausalLM"), tmp_path / MODEL)
    first = json.loads(installed(tmp_path, "demo", "--json"))
    assert first["quantized_layers"] > 0
    assert len(first["losses"]) == 20
    assert (tmp_path / first["merged"] / "config.json").is_file()
    trained = (tmp_path / first["checkpoint"] / "slds.json").stat().st_mtime_ns
    shown = installed(tmp_path, "demo")
    assert (tmp_path / first["checkpoint"] / "slds.json").stat().st_mtime_ns == trained
    following = shown.rpartition("next:\n")[2].splitlines()
    assert following[0] == "open demo_output/review.html"
    assert (tmp_path / "demo_output/review.html").is_file()
    assert first["after"]["citations"]["unsupported"] == []
    for line in following[1:]:
        installed(tmp_path, *shlex.split(line)[1:])
