"""An OpenAI-compatible server of one's own, to be filled with answers and faults."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Chat(BaseHTTPRequestHandler):
    """Lists no models; a subclass answers what is asked in `do_POST`."""

    def do_GET(self) -> None:
        self.answer(200, json.dumps({"object": "list", "data": []}).encode())

    def asked(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def answer(self, code: int, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def completion(text: str) -> bytes:
    """An answer that says something and ends."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    told = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(told).encode()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a local server with these answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that went away
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        gc.collect()  # clients of this test, whose open sockets pytest would blame on the whole run


@contextmanager
def running(handler: type[Chat]) -> Iterator[str]:
    """The address that an OpenAI client asks."""
    with serving(handler) as address:
        yield f"{address}/v1"
