"""What another program reads: UTF-8 on any console, and names of files that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import sample_rows
from tests.integration.servers import Chat, completion, running

HEADNOTE = "Art. 684 ZGB – «übermässige» Einwirkungen; œuvre, Żółć, 中, 😀."
NAME = "Lauf – «Żółć», 中"
CONSOLES = {
    "Windows-1252": {"PYTHONIOENCODING": "cp1252"},
    "the C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


class Writer(Chat):
    def do_POST(self) -> None:
        self.asked()
        self.answer(200, completion(HEADNOTE))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running(Writer) as address:
        yield address


@pytest.fixture
def config(chatml_tokenizer: Any, write_config: Callable[..., Path], tmp_path: Path) -> Path:
    chatml_tokenizer.save_pretrained(tmp_path / "model")
    return write_config(model_name_or_path=str(tmp_path / "model"), run_name=NAME)


def slds(console: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "headnote_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False, env=os.environ | console)


@pytest.mark.parametrize("console", CONSOLES.values(), ids=CONSOLES)
def test_json_and_headnotes_are_utf8_on_any_console(
    console: dict[str, str], config: Path, server: str, tmp_path: Path
) -> None:
    file = os.fsencode(tmp_path) + b"/Urteil-\xe9.txt"
    with open(file, "wb") as stream:
        stream.write(sample_rows("test")[0]["decision"].encode())
    arguments = ("generate", "--decision", os.fsdecode(file), "--lang", "de", "--config", config,
                 "--model", tmp_path / "model", "--endpoint", server, "--served-model", "m")  # fmt: skip
    told = slds(console, *arguments, "--json")
    assert told.returncode == 0, told.stderr
    line = json.loads(told.stdout.decode())
    assert (line["headnote"], line["sample_id"]) == (HEADNOTE, r"Urteil-\udce9")
    written = slds(console, *arguments)
    assert written.stdout.decode() == f"{HEADNOTE}\n"


def test_raw_prompts_and_printed_configs_are_utf8_on_any_console(config: Path) -> None:
    console = CONSOLES["Windows-1252"]
    raw = slds(console, "preview-prompts", "--config", config, "--row", 1, "--raw").stdout.decode()
    (row,) = json.loads(slds(console, "preview-prompts", "--config", config, "--row", 1, "--json").stdout)["rows"]
    assert raw == row["text"]
    assert "ü" in raw
    printed = slds(CONSOLES["the C locale"], "train", "--config", config, "--print-config").stdout.decode()
    assert yaml.safe_load(printed)["run_name"] == NAME


@pytest.mark.parametrize("console", [{}, CONSOLES["the C locale"]], ids=["UTF-8", "the C locale"])
def test_a_name_that_is_no_text_is_escaped_in_messages_json_and_records(
    console: dict[str, str], config: Path, server: str, tmp_path: Path
) -> None:
    folder = os.fsencode(tmp_path) + b"/Urteile-\xfc"
    os.mkdir(folder)
    arguments = ("generate", "--lang", "de", "--config", config, "--decision")
    missing = os.fsdecode(folder + b"/nowhere-\xff.txt")
    result = slds(console, *arguments, missing)
    assert result.returncode == 2
    assert rb"Urteile-\udcfc/nowhere-\udcff.txt" in result.stderr
    result = slds(console, *arguments, missing, "--json")
    assert os.fsencode(json.loads(result.stdout)["error"]["where"]) == os.fsencode(missing)
    Path(os.fsdecode(folder + b"/a-\xff.txt")).write_text("Die Klage wird abgewiesen.", encoding="cp1252")
    output = Path(os.fsdecode(folder + b"/out-\xe9.jsonl"))
    server_of = ("--model", tmp_path / "model", "--endpoint", server, "--served-model", "m", "--output", output)
    result = slds(console, *arguments, os.fsdecode(folder), *server_of, "--json")
    assert result.returncode == 0, result.stderr
    assert os.fsencode(json.loads(result.stdout)["output"]) == os.fsencode(output)
    assert json.loads(output.read_text(encoding="utf-8"))["sample_id"] == r"a-\udcff"
