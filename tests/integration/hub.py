"""A small local server that speaks as much of the hub's protocol as its clients use, with faults of the real one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.integration.servers import serving

REVISION = "0" * 40
SLOW = 3.0  # seconds before an answer: longer than the clients are told to wait
FAULTS = {
    "bad token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}),
    "missing": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "too many": (429, {"Retry-After": "0"}),
    "broken": (500, {}),
}


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder as a repository."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass
class Hub:
    """What is served, and what goes wrong.

    Attributes:
        models, datasets: Files by the repository's id.
        fault: A key of `FAULTS`, `slow` or `half`; None answers as one should.
        at: Faults are limited to paths that hold this text.
        seen: Method and path of each request, its range and its token.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fault: str | None = None
    at: str = ""
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    address: str = ""

    def files(self, path: str) -> tuple[str, dict[str, bytes], str] | None:
        """The repository of a path, its files, and what is asked about it."""
        kinds = (("/api/datasets/", self.datasets), ("/datasets/", self.datasets), ("/api/models/", self.models))
        for prefix, repositories in (*kinds, ("/", self.models)):
            for name, files in repositories.items():
                if path == f"{prefix}{name}" or path.startswith(f"{prefix}{name}/"):
                    return name, files, path.removeprefix(f"{prefix}{name}")
        return None


@contextmanager
def serving_hub(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        served = hub

    with serving(Handler) as address:
        hub.address = address
        yield hub


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.served, self.path.split("?")[0]
        hub.seen.append((self.command, path, self.headers["Range"], self.headers["Authorization"]))
        if hub.fault and hub.at in path:
            if hub.fault in FAULTS:
                status, headers = FAULTS[hub.fault]
                return self._answer(b'{"error": "no"}', status, headers)
            if hub.fault == "slow":
                time.sleep(SLOW)
        found = hub.files(path)
        if found is None:
            return self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        name, files, asked = found
        return self._repository(name, files, asked)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        found = self.served.files(self.path.split("?")[0])
        files = found[1] if found else {}
        try:
            paths = json.loads(body).get("paths", [])
        except ValueError:
            paths = []
        self._answer(json.dumps([_entry(path, files[path]) for path in paths if path in files]).encode())

    def _repository(self, name: str, files: dict[str, bytes], asked: str) -> None:
        for revision in ("main", REVISION):
            file = asked.removeprefix(f"/resolve/{revision}/")
            if file in files:
                return self._file(files[file])
            folder = asked.removeprefix(f"/tree/{revision}").strip("/")
            if asked.startswith(f"/tree/{revision}"):
                inside = [path for path in files if path.startswith(folder)]
                if inside:
                    return self._json([_entry(path, files[path]) for path in inside])
        if asked in ("", "/revision/main", f"/revision/{REVISION}"):
            siblings = [{"rfilename": path} for path in files]
            return self._json({"id": name, "sha": REVISION, "siblings": siblings, "private": False, "tags": []})
        return self._answer(b"{}", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})

    def _file(self, content: bytes) -> None:
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": REVISION,
            "Accept-Ranges": "bytes",
        }
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.served.fault == "half" and self.served.at in self.path and self.command == "GET" and not start
        self._answer(content[start:], 206 if start else 200, headers, cut)

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode())

    def _answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True
