"""Of what the libraries say, real warnings reach the user, once; known noise does not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from headnote_cli.machine import libraries
from headnote_cli.machine.libraries import quieten
from headnote_cli.screen.console import Screen


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told while this test runs."""
    lines: list[str] = []
    monkeypatch.delenv("SLDS_DEBUG", raising=False)
    monkeypatch.setattr(libraries, "tell", lines.append)
    monkeypatch.setattr(libraries, "_told", set())
    return lines


def test_a_real_warning_is_told_once_and_noise_never(told: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        quieten()
        for number in range(3):
            exec(f"import warnings\n{chr(10) * number}warnings.warn('your batch of 3 is odd')")
            warnings.warn("`is_gradient_checkpointing` is deprecated and will go", FutureWarning, stacklevel=1)
    assert [line.partition(": ")[2] for line in told] == ["your batch of 3 is odd"]


def test_a_logged_warning_of_a_library_is_told_once_with_its_name(told: list[str]) -> None:
    quieten()
    for _ in range(2):
        logging.getLogger("trl.trainer").warning("`max_length` is\n  ignored")
        logging.getLogger("trl.trainer").info("all is well")
    assert told == ["trl: `max_length` is ignored"]


def test_warnings_go_to_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(quiet=True)
    libraries.tell("torch: mind this")
    assert capsys.readouterr().err == "! torch: mind this\n"


def test_the_engines_libraries_say_nothing_when_they_are_imported() -> None:
    code = "import headnote_cli.training.job"
    quiet = {name: value for name, value in os.environ.items() if name != "SLDS_DEBUG"}  # `--debug` leaves it there
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=quiet)
    assert done.stdout + done.stderr == ""


ASKING = "try:\n    from kernels import get_kernel\n    get_kernel('a')\nexcept ImportError:\n    pass\n"


@pytest.mark.parametrize("of", ["a stand-in", "the installed one"])
def test_bitsandbytes_asks_the_hub_for_no_kernel_while_it_is_imported(of: str, tmp_path: Path) -> None:
    """The installed one asks on a CPU with AVX512-BF16 alone, the stand-in everywhere."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    print('asked')\n", encoding="utf-8")
    if of == "a stand-in":
        folder = tmp_path / "bitsandbytes" / "backends" / "cpu"
        folder.mkdir(parents=True)
        for part in (folder, folder.parent, folder.parent.parent):
            (part / "__init__.py").touch()
        (folder / "ops.py").write_text(ASKING, encoding="utf-8")
    code = f"import {libraries.ASKS_THE_HUB}, kernels; print(kernels.__name__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def printed(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    assert printed(f"import headnote_cli.models, {code.removeprefix('import ')}") == "kernels\n"
    if of == "a stand-in":
        assert printed(code) == "asked\nkernels\n"
