"""A data set on the hub, with a subset: a small local server speaks as much of the hub's protocol as is used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import PROMPTS, ROOT

REVISION = "0" * 40
ROW = {"decision": "Erwägungen 1. Gut.", "headnote_language": "de", "decision_language": "fr"}
CARD = """---
configs:
- config_name: fr_de
  data_files:
  - {split: train, path: fr_de/train.jsonl}
  - {split: validation, path: fr_de/validation.jsonl}
- config_name: de_de
  data_files:
  - {split: train, path: de_de/train.jsonl}
---
"""


def lines(*headnotes: str) -> bytes:
    return "".join(json.dumps(ROW | {"headnote": headnote}) + "\n" for headnote in headnotes).encode()


FILES = {
    "README.md": CARD.encode(),
    "fr_de/train.jsonl": lines("Art. 1 OR.", "Art. 2 OR."),
    "fr_de/validation.jsonl": lines("Art. 3 OR."),
    "de_de/train.jsonl": lines("Art. 4 OR."),
}


def entry(path: str) -> dict[str, object]:
    content = FILES[path]
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


class Hub(BaseHTTPRequestHandler):
    """Answers for one data set, `court/decisions`."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        resolve, api = f"/datasets/court/decisions/resolve/{REVISION}/", "/api/datasets/court/decisions"
        name = path.replace("/resolve/main/", f"/resolve/{REVISION}/").removeprefix(resolve)
        folder = path.partition(f"/tree/{REVISION}")[2].strip("/")
        if name in FILES:
            etag = hashlib.sha1(FILES[name]).hexdigest()
            self.answer(FILES[name], ETag=f'"{etag}"', X_Repo_Commit=REVISION)
        elif path in (api, f"{api}/revision/main", f"{api}/revision/{REVISION}"):
            siblings = [{"rfilename": file} for file in FILES]
            self.answer(json.dumps({"id": "court/decisions", "sha": REVISION, "siblings": siblings}).encode())
        elif path.startswith(f"{api}/tree/") and any(file.startswith(folder) for file in FILES):
            self.answer(json.dumps([entry(file) for file in FILES if file.startswith(folder)]).encode())
        else:
            self.answer(b"{}", status=404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(json.dumps([entry(file) for file in asked.get("paths", []) if file in FILES]).encode())


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def preview(hub: str, tmp_path: Path, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "config.yaml"
    config.write_text(f"dataset_name: court/decisions\nprompts_path: {PROMPTS}\n", encoding="utf-8")
    environment = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "headnote_cli", "preview-prompts", "--config", str(config), "--json"]
    return subprocess.run(
        [*command, "--no-tokenizer", *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
    )


def headnotes(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return [row["completion"][0]["content"] for row in json.loads(result.stdout)["rows"]]


def test_a_hub_data_set_with_a_subset_is_read_and_kept_for_later_offline(hub: str, tmp_path: Path) -> None:
    subset = ("--set", "dataset_subset=fr_de", "--set", "dataset_eval_split=validation")
    assert headnotes(preview(hub, tmp_path, *subset)) == ["Art. 1 OR.", "Art. 2 OR."]
    assert headnotes(preview(hub, tmp_path, *subset, "--split", "eval", offline=True)) == ["Art. 3 OR."]


def test_a_subset_that_the_hub_does_not_have_is_unreachable(hub: str, tmp_path: Path) -> None:
    result = preview(hub, tmp_path, "--set", "dataset_subset=it_it")
    assert result.returncode == 4
    assert "not this `dataset_subset`" in result.stdout
