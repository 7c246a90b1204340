"""The versions that pyproject.toml allows, those that constraints.txt pins, and the table of `make test-latest`."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts import test_latest
from scripts.test_latest import pinned, versions
from tests.conftest import ROOT


def requirements() -> list[Requirement]:
    """What is installed with slds, or with the extras that read and score."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (project["optional-dependencies"][name] for name in ("demo", "serve", "pdf", "evaluate", "bertscore"))
    texts = project["dependencies"] + [text for texts in extras for text in texts]
    return [Requirement(text) for text in texts if not text.startswith("headnote-cli")]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda one: one.name)
def test_a_dependency_is_capped_and_allows_the_pinned_version(requirement: Requirement) -> None:
    assert any(one.operator == "<" for one in requirement.specifier)
    assert requirement.specifier.contains(pinned()[requirement.name])


@pytest.mark.parametrize("library", ["accelerate", "bitsandbytes", "datasets", "peft", "torch", "torchao", "trl"])
def test_the_next_minor_version_of_a_library_that_trains_is_not_allowed(library: str) -> None:
    (specifier,) = (one.specifier for one in requirements() if one.name == library)
    ours = Version(pinned()[library])
    assert not specifier.contains(f"{ours.major}.{ours.minor + 1}")


def test_the_table_shows_our_version_beside_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pinned()
    monkeypatch.setattr(test_latest, "pinned", lambda: ours | {"transformers": "5.1.0", "six": "1.0", "absent": "1"})
    columns: Any = [list(column.cells) for column in versions().columns]
    rows = {name: (ours, newest) for name, ours, newest in zip(*columns, strict=True)}
    assert rows["transformers"][0] == "5.1.0"
    assert rows["transformers"][1] != "5.1.0"
    assert rows["six"][0] == "1.0"  # not asked for by slds, but another one
    assert "absent" not in rows
    assert {"torch", "trl", "peft"} <= rows.keys()
