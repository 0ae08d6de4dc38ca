"""A language model behind an OpenAI-compatible endpoint, as a judge that is asked everything once.

What it said is kept, a line an answer, and never asked for again. Only what it said counts: an
endpoint that fails, answers nothing or something else than an answer ends the scoring with a line;
no score stands in. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.common.errors import HarnessError, StoreError, one_line
from harness.store.csvfile import cannot_write

KEY = "OPENAI_API_KEY"  # the environment variable that holds the endpoint's key
PATH = "/chat/completions"
SECONDS = 120.0  # until an answer counts as not given
WAITS = (1.0, 4.0, 15.0)  # seconds before the same is asked again: busy, or out of reach
LONGEST_WAIT = 60.0  # what an endpoint may ask for
BUSY = (408, 409, 429, 500, 502, 503, 504)
ALIKE, ASKED = 2, 7  # requests in a row that upstream makes of one question and still reads


class JudgeError(HarnessError):
    """The judge gave no answer, or none that can be read."""


class NoJudge(JudgeError):
    """The endpoint answers nobody: asking on is of no use."""


class JudgeStopped(BaseException):
    """Carries a JudgeError past upstream's own handling of errors, which makes scores of them."""

    def __init__(self, error: JudgeError) -> None:
        super().__init__(str(error))
        self.error = error


class Judge:
    """``url``: up to the version, like http://127.0.0.1:8000/v1. ``folder``: where answers stay.

    Made for one endpoint and one name of a model; what another said lies in another file.
    """

    def __init__(self, url: str, model: str, folder: Path) -> None:
        self.url, self.asked_for = url, model
        self._key = os.environ.get(KEY, "")  # now: scoring sees another one (`guard.INSTEAD`)
        self.name = ""  # of the model, as it names itself
        self.temperatures: set[float | None] = set()  # of the requests since `fresh`
        self.new = 0  # requests that were sent
        self._row: list[tuple[str, str]] = []  # requests since the last `begin`
        digest = hashlib.sha256(json.dumps([url, model]).encode()).hexdigest()[:12]
        self.path = folder / f"{digest}.jsonl"
        self._known = dict(self._read())

    @property
    def host(self) -> str:
        """Where it is asked."""
        return urlsplit(self.url).netloc

    def fresh(self) -> None:
        """What is asked from now on belongs to another cell."""
        self.temperatures = set()
        self.begin()

    def begin(self) -> None:
        """The next request is about something else than the last."""
        self._row = []

    def said(self, task_version: str, lmms_eval: str) -> str:
        """Who scores, by which questions. Scores under another text are not held against these."""
        asked = "" if self.name in ("", self.asked_for) else f" (asked for {self.asked_for})"
        name = self.name or self.asked_for
        return f"{name}{asked} at {self.host}, task {task_version}, lmms-eval {lmms_eval}"

    @property
    def temperature(self) -> str:
        """Of the requests since `fresh`: more than one where upstream repeated what it misread."""
        known = sorted(t for t in self.temperatures if t is not None)
        own = ["the endpoint's own"] if None in self.temperatures else []
        return ", ".join([*(f"{t:g}" for t in known), *own])

    def ask(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The answer to a chat completion's payload, whose model is replaced by this judge's.

        Raises JudgeStopped.
        """
        payload = {**payload, "model": self.asked_for}
        payload.pop("stream", None)
        key = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        words = json.dumps(payload.get("messages"), sort_keys=True)
        try:
            self._require_read(key, words)
            if key not in self._known:
                self._keep(key, self._answered(payload))
        except JudgeError as error:
            raise JudgeStopped(error) from None
        self.temperatures.add(payload.get("temperature"))
        model, texts = self._known[key]
        choices = [
            {
                "index": i,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
            for i, text in enumerate(texts)
        ]
        return {
            "id": key[:16],
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": choices,
        }

    def _require_read(self, key: str, words: str) -> None:
        """Upstream asks again what it cannot read, and then makes up a score: before that, stop."""
        self._row.append((key, words))
        same = [known for known, about in self._row[::-1] if about == words]
        alike = next((i for i, known in enumerate(same) if known != key), len(same))
        if alike > ALIKE or len(same) > ASKED:
            text = one_line(self._known[same[1]][1][0], 60)
            raise JudgeError(f"judge {self.asked_for}: the task cannot read its answer '{text}'")

    # --- the file -----------------------------------------------------------------------------
    def _read(self) -> Iterator[tuple[str, tuple[str, list[str]]]]:
        """What was said before. A line that was cut off is asked again."""
        try:
            with self.path.open(encoding="utf-8", newline="\n") as file:
                lines = list(file)  # not splitlines(): U+2028 and its like stand within answers
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path}: cannot be read ({one_line(error, 120)})") from None
        for line in lines:
            if not line.endswith("\n"):
                self._cut(line)
                return
            try:
                row = json.loads(line)
                self._pin(str(row["model"]))
                yield str(row["request"]), (str(row["model"]), [str(t) for t in row["answers"]])
            except (ValueError, KeyError, TypeError):
                raise StoreError(f"{self.path}: damaged; remove it to ask again") from None

    def _cut(self, line: str) -> None:
        with self.path.open("r+b") as file:
            file.truncate(self.path.stat().st_size - len(line.encode()))

    def _keep(self, key: str, answer: tuple[str, list[str]]) -> None:
        model, texts = answer
        line = json.dumps({"request": key, "model": model, "answers": texts})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise JudgeError(str(cannot_write(self.path, error))) from None
        self._known[key] = answer

    def _pin(self, model: str) -> None:
        """A bench is scored by one model: an alias may come to mean another one on the way."""
        if self.name and model != self.name:
            raise NoJudge(
                f"judge {self.asked_for} at {self.host} answers as {model} now, as {self.name} "
                f"before: remove {self.path.name} to score with the new one"
            )
        self.name = model

    # --- the endpoint -------------------------------------------------------------------------
    def _answered(self, payload: Mapping[str, Any]) -> tuple[str, list[str]]:
        import requests

        who = f"judge {self.asked_for} at {self.host}"
        key = self._key
        for wait in (*WAITS, None):
            asked = 0.0
            try:
                response = _post(self.url + PATH, payload, key)
            except requests.Timeout:
                why = f"{who} did not answer within {SECONDS:g} s"
            except requests.ConnectionError:
                why = f"{who} cannot be reached"
            except (requests.RequestException, ValueError) as error:  # a name that is none, a proxy
                raise NoJudge(f"{who} cannot be asked: {_without(key, one_line(error))}") from None
            else:
                self.new += 1
                if response.status_code == 200:
                    return self._texts(response, who)
                why = f"{who} refused: {_refusal(response, key)}"
                if response.status_code not in BUSY:
                    raise NoJudge(why)
                asked = _seconds(response.headers.get("Retry-After", ""))
            if wait is None:
                break
            time.sleep(max(wait, asked))
        raise NoJudge(why)

    def _texts(self, response: Any, who: str) -> tuple[str, list[str]]:
        """The model's name and what it said, once for each answer that was asked for."""
        try:
            body = response.json()
            texts = [choice["message"]["content"] for choice in body["choices"]]
            model = str(body.get("model") or self.asked_for)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise JudgeError(f"{who} sent something that is no chat completion") from None
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise JudgeError(f"{who} sent an empty answer")
        self._pin(model)
        return model, texts


def _post(url: str, payload: Mapping[str, Any], key: str) -> Any:
    """One request. A redirect is not followed: the key goes where it was meant to go."""
    import requests

    with requests.Session() as session:
        session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
        head = {"Authorization": f"Bearer {key}"} if key else {}
        request = session.prepare_request(requests.Request("POST", url, json=payload, headers=head))
        proxies = session.rebuild_proxies(request, None) if session.trust_env else {}
        adapter = session.get_adapter(url)
        return adapter.send(request, timeout=SECONDS, proxies=proxies)


def _refusal(response: Any, key: str) -> str:
    """What an endpoint says of itself; nothing where it may repeat the key."""
    code = response.status_code
    if code in (401, 403):
        return f"{code}, the key in {KEY} does not open it" if key else f"{code}, set {KEY}"
    try:
        said = response.json()["error"]
        said = said.get("message", "") if isinstance(said, dict) else said
    except (ValueError, KeyError, TypeError, AttributeError):
        said = response.reason or ""
    return _without(key, f"{code} {one_line(str(said), 160)}".strip())


def _without(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text


def _seconds(text: str) -> float:
    try:
        return min(max(float(text), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0
