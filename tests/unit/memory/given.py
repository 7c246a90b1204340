"""What the tests of the estimate start from: bundled sizes, the shipped configs, and the command's own answer."""

from __future__ import annotations

import json
from typing import Any

from headnote_cli.config.keys import Settings
from headnote_cli.config.layers import load_config
from headnote_cli.memory.lookup import bundled
from headnote_cli.memory.shapes import Shapes
from tests.commands import slds
from tests.conftest import ROOT


def sizes(name: str) -> Shapes:
    shapes = bundled(name)
    assert shapes is not None
    return shapes


def gemma() -> Shapes:
    return sizes("google/gemma-3-4b-it")


def shipped(name: str, **keys: Any) -> Settings:
    return load_config(ROOT / f"configs/ipst/slds/{name}.yaml").settings.model_copy(update=keys)


def first_run(*arguments: object) -> Any:
    return json.loads(slds("check-memory", *arguments, "--json").stdout)["runs"][0]
