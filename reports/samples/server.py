"""The local server of the page: on the loopback, for reading only, of this one run."""

from __future__ import annotations

import errno
import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from harness.common.errors import one_line
from reports.errors import ReportError
from reports.samples.detail import detail
from reports.samples.index import Index
from reports.samples.query import PAGE, Lists, Wish

HOST = "127.0.0.1"
PORT = 8017
NAMES = ("127.0.0.1", "localhost")
"""What a browser may have called this machine: any other name is another page's trick."""
TEMPLATES = Path(__file__).parents[1] / "templates"
FILES = {
    "/": ("samples.html", "text/html"),
    "/report.css": ("report.css", "text/css"),
    "/samples.css": ("samples.css", "text/css"),
    "/overlay.js": ("overlay.js", "text/javascript"),
    "/samples.js": ("samples.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Reply = tuple[int, str, bytes]  # status, media type, content


class Server(ThreadingHTTPServer):
    """Serves an index; ``serve_forever`` and ``server_close`` are the library's."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, index: Index, port: int | None) -> None:
        """Port None: the usual one, or any where that is taken. Raises ReportError, one line."""
        self.index, self.lists = index, Lists(index)
        why = ""
        for number in (PORT, 0) if port is None else (port,):
            try:
                super().__init__((HOST, number), Handler)
                return
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise ReportError(f"port {number}: {error.strerror}") from None
                taken = error.errno == errno.EADDRINUSE
                why = "is in use" if taken else "may not be used by this account"
        raise ReportError(f"port {port} {why}: name another with --port, or 0 for any free one")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is nothing to report."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request. Paths are looked up in tables; none becomes the name of a file."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "modsuite", ""
    timeout = 60

    def do_GET(self) -> None:
        status, kind, content = self._reply()
        self.send_response(status)
        self.send_header(
            "Content-Type", kind if kind.startswith("image") else f"{kind}; charset=utf-8"
        )
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the address."""

    def _reply(self) -> Reply:
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name not in NAMES:
            return _words(403, "This page answers to 127.0.0.1 and localhost only.")
        address = urlsplit(self.path)
        if address.path in FILES:
            file, kind = FILES[address.path]
            return 200, kind, (TEMPLATES / file).read_bytes()
        answer = ANSWERS.get(address.path)
        if answer is None:
            return _words(404, "There is nothing under this address.")
        try:
            asked = dict(parse_qsl(address.query, keep_blank_values=True, max_num_fields=20))
            return answer(self.server, asked)
        except (ReportError, ValueError) as error:
            return _words(400, one_line(error))
        except Exception as error:  # said on the page: nobody looks at the terminal
            return _words(500, f"{one_line(error)} (a fault of this program)")


def _words(status: int, text: str) -> Reply:
    return status, "text/plain", text.encode()


def _json(value: Any) -> Reply:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return 200, "application/json", text.encode(errors="backslashreplace")


def _run(server: Server, asked: dict[str, str]) -> Reply:
    index = server.index
    progress = index.progress
    names = [
        {"name": s.short, "label": s.label, "control": s.is_control, "ref": index.reference(i)}
        for i, s in enumerate(index.series)
    ]
    benches = [
        {"name": b, "mini": b in index.mini, "documents": progress.documents.get(b)}
        for b in index.benches
    ]
    return _json({
        "name": index.run.resolve().name,
        "mini": index.summary.is_mini_model,
        "series": names,
        "benches": benches,
        "answers": progress.answers,
        "cells": [progress.cells, len(index.cells)],
        "whole": progress.benches,
        "records": progress.records,
        "notices": progress.notices,
    })  # fmt: skip


def _rows(server: Server, asked: dict[str, str]) -> Reply:
    wish = Wish.of(asked, server.index)
    start, count = (max(0, int(asked.get(n, d))) for n, d in (("start", "0"), ("count", str(PAGE))))
    at = (asked["at_bench"], asked["at_doc"]) if "at_doc" in asked else None
    return _json(server.lists.page(wish, start, count, at))


def _doc(server: Server, asked: dict[str, str]) -> Reply:
    bench, doc = asked.get("bench", ""), asked.get("doc", "")
    found = detail(server.index, bench, doc) if bench in server.index.benches else None
    if found is not None:
        return _json(found)
    more = "" if server.index.progress.answers else " (yet)"
    return _words(404, f"No document '{doc[:80]}' of '{bench[:80]}' in this run{more}.")


def _image(server: Server, asked: dict[str, str]) -> Reply:
    bench, doc = asked.get("bench", ""), asked.get("doc", "")
    if bench not in server.index.benches:
        return _words(404, "No such bench in this run.")
    found = server.index.image(bench, doc, int(asked.get("number", 0)))
    return _words(404, found) if isinstance(found, str) else (200, found[1], found[0])


ANSWERS: dict[str, Callable[[Server, dict[str, str]], Reply]] = {
    "/api/run": _run,
    "/api/rows": _rows,
    "/api/doc": _doc,
    "/api/image": _image,
}


def start(index: Index, server: Server) -> tuple[threading.Thread, str]:
    """Begin to build the index beside the server; the builder and the page's address."""
    builder = threading.Thread(target=index.build, daemon=True)
    builder.start()
    return builder, f"http://{HOST}:{server.server_port}/"
