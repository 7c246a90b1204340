"""What `preview-prompts` prints, byte for byte: in a wide and a narrow terminal, without colours, and in a pipe.

After a change that is meant, write the files anew and read their diff: `SLDS_GOLDEN=write pytest <this file>`.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
DECISION = (
    "Sachverhalt A. Die fiktive Gemeinde [bold]Musterwil[/bold] bewilligt einen Steg. B. Der Nachbar erhob Beschwerde. "
    "Erwägungen 1. Das Gericht tritt auf die Beschwerde ein. Die Fristen sind gewahrt. "
    "2. Streitig ist der Abstand zum Ufer. 2.1 Art. 41 OR gilt auch hier. Er kennt keine Ausnahme für Stege. "
    "2.2 Der Text <end_of_turn> bleibt Text, und \x1b]0;Titel\x07 setzt keinen Titel. "
    "3. Die Beschwerde ist abzuweisen. Kosten werden keine erhoben. "
)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3[0-7]m")
TERMINALS: dict[str, dict[str, str]] = {
    "wide": {"COLUMNS": "100"},
    "narrow": {"COLUMNS": "60"},
    "no_color": {"COLUMNS": "100", "NO_COLOR": "1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gemma_tokenizer: Any) -> Path:
    """A tokenizer, rows of two language pairs and a config; nothing in the output names where they lie."""
    folder = tmp_path_factory.mktemp("golden")
    gemma_tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "gemma3_text"}', encoding="utf-8")
    (folder / "data").mkdir()
    rows = [
        {
            "sample_id": number,
            "decision": DECISION * repeat,
            "decision_language": "de",
            "headnote": headnote,
            "headnote_language": language,
        }
        for number, (repeat, language, headnote) in enumerate(
            [
                (1, "de", "Art. 41 OR; Abstand zum Ufer (E. 2). Stege sind nicht ausgenommen (E. 2.1)."),
                (9, "fr", "Art. 41 CO; distance à la rive (consid. 2). Les pontons n'en sont pas exceptés."),
            ]
        )
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "train.jsonl").write_text(lines, encoding="utf-8")
    keys = ["model_name_or_path: model", "dataset_name: data", "max_length: 720", "overflow: middle"]
    prompts = f"prompts_path: {ROOT / 'prompts' / 'ipst' / 'slds'}"
    (folder / "config.yaml").write_text("\n".join([*keys, prompts]) + "\n", encoding="utf-8")
    return folder


def in_a_terminal(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a terminal receives, standard output and standard error together."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    ):
        os.close(theirs)
        received = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            received += part
    os.close(ours)
    return received.decode().replace("\r\n", "\n")


def in_a_pipe(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", [*TERMINALS, "piped"])
def test_preview_prints_what_is_pinned(name: str, folder: Path, tmp_path: Path) -> None:
    kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8"}
    environment = kept | {"TERM": "xterm-256color", "SLDS_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "headnote_cli", "preview-prompts", "--config", "config.yaml", "-n", "2", "--stats"]
    run: Callable[..., str] = in_a_pipe if name == "piped" else in_a_terminal
    printed = run(command, folder, environment | TERMINALS.get(name, {}))
    assert "\x1b]0;" not in printed
    file = GOLDEN / f"preview_{name}.txt"
    if os.environ.get("SLDS_GOLDEN") == "write":
        file.write_text(printed, encoding="utf-8")
    assert printed == file.read_text(encoding="utf-8")
    widest = int(TERMINALS[name]["COLUMNS"]) if name in TERMINALS else None
    assert bool(COLOUR.search(printed)) == (name in ("wide", "narrow"))
    if widest:
        assert max(len(ESCAPE.sub("", line)) for line in printed.splitlines()) <= widest
