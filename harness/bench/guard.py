"""Whom lmms-eval's scoring may ask: a judge that was given, or nobody.

Upstream's scoring reaches language models in several ways (its own judge server, the ``openai``
package, plain ``requests``) and turns whatever goes wrong on the way into a score: 0, or a random
guess. Here all of these ways end at one place. Prompts and parsing stay upstream's; a request that
nobody answers ends the scoring instead of becoming a number.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from inspect import iscoroutinefunction
from threading import local
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import requests

Ask = Callable[[dict[str, Any]], Mapping[str, Any]]  # a chat completion's payload -> its answer

CHAT = re.compile(r"/chat/completions/*$")
OTHER = re.compile(r"(/v1/(responses|completions|messages)|:generateContent)/*$")
HOSTS = re.compile(
    r"^judge\.invalid$|^api\.openai\.com$|\.openai\.azure\.com$|^api\.anthropic\.com$"
    r"|^generativelanguage\.googleapis\.com$|^bedrock-runtime\."
)
CLIENTS = ("httpx", "httpx2")  # what the openai package goes through, by its version
JSON = {"Content-Type": "application/json"}
# Upstream reads these when a task's file is imported. No real key ever gets there: whoever asks
# the judge holds it.
INSTEAD = {
    "OPENAI_API_KEY": "held-elsewhere",
    "OPENAI_API_URL": "https://judge.invalid/v1/chat/completions",
    "API_TYPE": "openai",
}
BUILT_IN = "lmms_eval.api"  # where aggregations that ask nobody live


class JudgeWanted(BaseException):
    """Scoring asks a language model and none was given.

    No `Exception`: upstream catches those, and goes on with a score of its own.
    """


class Unreachable(BaseException):
    """Scoring asks a language model in a way that cannot be passed on to the judge."""


class Scoring:
    """One bench's scoring. ``ask`` answers for the judge; None: nobody does.

    ``begin`` is called before each document's results and each aggregation, which may ask alike.
    """

    def __init__(self, ask: Ask | None = None, begin: Callable[[], None] | None = None) -> None:
        self._ask, self._begin = ask, begin or (lambda: None)
        self.wanted = False  # whether a judge was asked for in vain
        self._over = False  # what the documents are scored by is missing: nothing to gather
        self._asking = local()  # of each thread: whether it is the judge's own request

    def of(self, task: Any) -> None:
        """Take over the steps of a lmms-eval task object that make its scores."""
        task.process_results = self._results(task.process_results)
        task.aggregation = self._aggregations(task.aggregation)

    def _results(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._over:
                return {}
            self._begin()
            try:
                return step(*args, **kwargs)
            except JudgeWanted:
                self._over = True
                return {}

        return called

    def _aggregations(self, known: Callable[[], Mapping[str, Any]]) -> Callable[[], Any]:
        @functools.wraps(known)
        def called() -> dict[str, Any]:
            return {name: self._aggregation(step) for name, step in known().items()}

        return called

    def _aggregation(self, step: Any) -> Any:
        if str(getattr(step, "__module__", "")).startswith(BUILT_IN):
            return step

        @functools.wraps(step)
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._over:
                return None
            self._begin()
            try:
                return step(*args, **kwargs)
            except JudgeWanted:
                return None

        return called

    # --- the ways to a language model -------------------------------------------------------------
    @contextmanager
    def guarded(self) -> Iterator[None]:
        """While it lasts, every request to a language model of this process comes here."""
        with ExitStack() as held:
            held.enter_context(mock.patch.dict(os.environ, INSTEAD))
            held.enter_context(mock.patch.object(socket, "getaddrinfo", self._looked_up()))
            held.enter_context(mock.patch.object(requests.Session, "send", self._sent()))
            for name in filter(find_spec, CLIENTS):
                module = import_module(name)
                for client in (module.Client, module.AsyncClient):
                    send = self._passed(module, client.send)
                    held.enter_context(mock.patch.object(client, "send", send))
            yield

    def _sent(self) -> Callable[..., Any]:
        """`requests.Session.send`, with the judge's answers."""
        send = requests.Session.send

        def sent(session: Any, request: Any, **kwargs: Any) -> Any:
            found = self._answer(request.url, lambda: request.body)
            if found is None:
                return send(session, request, **kwargs)
            response = requests.Response()
            response.status_code, response.url = 200, request.url
            response.headers.update(JSON)
            response._content, response.request = found, request
            return response

        return sent

    def _passed(self, module: Any, send: Callable[..., Any]) -> Callable[..., Any]:
        """`send` of a client of httpx, with the judge's answers."""

        def reply(request: Any) -> Any:
            found = self._answer(str(request.url), lambda: request.content)
            if found is None:
                return None
            return module.Response(200, content=found, headers=JSON, request=request)

        def sent(client: Any, request: Any, **kwargs: Any) -> Any:
            return reply(request) or send(client, request, **kwargs)

        async def sent_later(client: Any, request: Any, **kwargs: Any) -> Any:
            return reply(request) or await send(client, request, **kwargs)

        return sent_later if iscoroutinefunction(send) else sent

    def _looked_up(self) -> Callable[..., Any]:
        """`socket.getaddrinfo`: where a library that is not known here would go out."""
        look_up = socket.getaddrinfo

        def looked_up(host: Any, *args: Any, **kwargs: Any) -> Any:
            if HOSTS.search(str(host)) and not getattr(self._asking, "now", False):
                self._refuse_without()
                raise Unreachable(f"its scoring asks {host} in a way that no judge can answer")
            return look_up(host, *args, **kwargs)

        return looked_up

    def _refuse_without(self) -> None:
        if self._ask is None:
            self.wanted = True
            raise JudgeWanted

    def _answer(self, url: str, body: Callable[[], Any]) -> bytes | None:
        """The answer to a request, as JSON; None for one that is for no language model."""
        path = urlsplit(url).path
        if not CHAT.search(path) and not OTHER.search(path):
            return None
        self._refuse_without()
        if self._ask is None or not CHAT.search(path):
            raise Unreachable(f"its scoring asks {urlsplit(url).hostname} for more than chat")
        self._asking.now = True  # the judge may be one of HOSTS
        try:
            return json.dumps(self._ask(json.loads(body()))).encode()
        finally:
            self._asking.now = False
