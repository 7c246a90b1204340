"""What the `gpu` extra brings fits together: kernels, transformers, torch and Triton."""

from __future__ import annotations

import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from headnote_cli.machine import detect as hardware
from tests.conftest import ROOT

PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
)


def asked_of(package: str, name: str, extra: str = "") -> SpecifierSet | None:
    """The versions of a package that the installed one of another asks for, by its metadata."""
    for requirement in map(Requirement, requires(package) or ()):
        if requirement.name == name and (requirement.marker is None or requirement.marker.evaluate({"extra": extra})):
            return requirement.specifier
    return None


def test_the_extra_takes_kernels_as_transformers_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [Requirement(text) for text in project["optional-dependencies"]["gpu"]]
    assert any(one.name == "transformers" and one.extras == {"kernels"} for one in names)
    assert not any(one.name == "kernels" for one in names), "transformers says which versions"


def test_the_pinned_kernels_are_those_that_transformers_takes() -> None:
    allowed = asked_of("transformers", "kernels", extra="kernels")
    assert allowed is not None
    assert PINS["kernels"] in allowed


def test_the_pinned_triton_is_torchs_own() -> None:
    allowed = asked_of("torch", "triton")
    if allowed is None:
        pytest.skip("this build of torch is for a CPU and names no Triton")
    assert PINS["triton"] in allowed


@pytest.mark.parametrize(("installed", "is_taken"), [("0.18.2", True), ("0.17.2", False), ("0.19.0", False)])
def test_kernels_of_another_version_are_named_with_those_that_are_taken(
    installed: str, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = hardware.version
    monkeypatch.setattr(hardware, "version", lambda name: installed if name == "kernels" else own(name))
    fault = hardware.kernels_fault()
    assert (fault == "") == is_taken
    if not is_taken:
        assert f"kernels {installed} is installed, and transformers {own('transformers')} takes " in fault
