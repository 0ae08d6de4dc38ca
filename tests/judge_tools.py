"""A stand-in for an OpenAI-compatible endpoint, on the loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Say = Callable[[str], str]  # a prompt -> what the judge says of it


@dataclass
class Endpoint:
    """What it was asked, and how it answers. ``fails``: a status, or bytes to send instead."""

    say: Say
    model: str = "stand-in-1"
    fails: int | bytes | None = None
    busy: int = 0  # requests that it sends away first
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, payload: dict[str, Any]) -> tuple[int, bytes]:
        self.asked.append(payload)
        if self.busy:
            self.busy -= 1
            return 429, b'{"error": {"message": "too many requests"}}'
        if isinstance(self.fails, int):
            return self.fails, b'{"error": {"message": "this endpoint has a fault"}}'
        if self.fails is not None:
            return 200, self.fails
        text = self.say(payload["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        return 200, json.dumps({"model": self.model, "choices": [choice]}).encode()


class Server(ThreadingHTTPServer):
    """Ends with the last answer: what a thread writes later would stand in another test's lines."""

    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked may have stopped waiting, as some tests have it."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def endpoint(say: Say) -> Iterator[Endpoint]:
    """An endpoint that is up meanwhile."""
    found = Endpoint(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            found.keys.append(self.headers.get("Authorization", ""))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = found.answer(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
