"""The judge behind an endpoint: asked once, kept, never stood in for."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bench import judge as module
from harness.bench.guard import JudgeWanted, Scoring, Unreachable
from harness.bench.judge import KEY, Judge, JudgeStopped
from harness.bench.outcome import read_answers
from harness.command.cli import main
from tests.judge_tools import Endpoint, endpoint

SECRET = "sk-not-to-be-seen"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0))
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint(lambda prompt: f"about {prompt}") as found:
        yield found


def payload(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "whatever", "messages": [{"role": "user", "content": text}], **more}


def line_of(judge: Judge, asked: dict[str, Any]) -> str:
    with pytest.raises(JudgeStopped) as caught:
        judge.ask(asked)
    return str(caught.value)


def test_what_it_said_is_kept_and_not_asked_again(server: Endpoint, tmp_path: Path) -> None:
    judge = Judge(server.url, "asked-name", tmp_path)
    first = judge.ask(payload("a", temperature=0.0))
    assert first["choices"][0]["message"]["content"] == "about a"
    assert first["model"] == "stand-in-1" and server.asked[0]["model"] == "asked-name"
    judge.begin()
    assert judge.ask(payload("a", temperature=0.0)) == first
    again = Judge(server.url, "asked-name", tmp_path)
    assert again.ask(payload("a", temperature=0.0)) == first and len(server.asked) == 1
    again.ask(payload("a", temperature=0.5))  # another question to a model that draws
    assert len(server.asked) == 2 and again.new == 1
    said = again.said("0.0-abc", "0.7.3")
    assert "stand-in-1 (asked for asked-name) at 127.0.0.1" in said
    assert "task 0.0-abc" in said and "0.7.3" in said and again.temperature == "0, 0.5"
    again.fresh()
    again.ask(payload("a"))
    assert again.temperature == "the endpoint's own" and len(server.asked) == 3
    Judge(server.url, "other-name", tmp_path).ask(payload("a", temperature=0.0))
    assert len(server.asked) == 4 and len([*tmp_path.iterdir()]) == 2


SEPARATED = "0.5\u2028yes\x85\x0c\x1cno \ud83d"  # ends of lines to Python, and half a character


def test_words_with_ends_of_lines_and_half_characters(tmp_path: Path) -> None:
    with endpoint(lambda text: SEPARATED) as server:
        for _ in range(3):
            judge = Judge(server.url, "m", tmp_path)
            for text in ("a", "b"):
                assert judge.ask(payload(text))["choices"][0]["message"]["content"] == SEPARATED
        assert len(server.asked) == 2
    line = json.dumps(
        {"task": "t", "doc_id": "0", "prompt": "p", "prediction": "a\u2028b\x85\x0cc"},
        ensure_ascii=False,
    )
    assert read_answers(f"{line}\n", "file")["t", "0"]["prediction"] == "a\u2028b\x85\x0cc"


def test_openai_itself_can_be_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host is one that scoring must not look up by itself."""
    looked_up: list[str] = []

    def nobody(host: Any, *_: Any, **__: Any) -> Any:
        looked_up.append(str(host))
        raise socket.gaierror("no such host here")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    judge = Judge("https://api.openai.com/v1", "m", tmp_path)
    scoring = Scoring(judge.ask)
    with scoring.guarded():
        with pytest.raises(JudgeStopped, match=r"api\.openai\.com cannot be reached"):
            by_requests("https://api.openai.com/v1/chat/completions")
        assert "api.openai.com" in looked_up
        with pytest.raises(Unreachable):  # not the judge's request
            socket.getaddrinfo("api.openai.com", 443)


def test_a_file_that_was_cut_off_goes_on(server: Endpoint, tmp_path: Path) -> None:
    judge = Judge(server.url, "m", tmp_path)
    for text in ("a", "b"):
        judge.ask(payload(text))
    judge.path.write_bytes(judge.path.read_bytes()[:-7])
    judge = Judge(server.url, "m", tmp_path)
    for text in ("a", "b"):
        judge.ask(payload(text))
    assert [one["messages"][0]["content"] for one in server.asked] == ["a", "b", "b"]
    assert len([json.loads(line) for line in judge.path.read_text().splitlines()]) == 2


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    judge = Judge(server.url, "m", tmp_path)
    judge.ask(payload("a"))
    assert server.keys == [f"Bearer {SECRET}"]
    server.fails = 401
    line = line_of(judge, payload("b"))
    assert "401" in line and KEY in line and SECRET not in line
    monkeypatch.delenv(KEY)
    judge = Judge(server.url, "m", tmp_path)
    assert f"set {KEY}" in line_of(judge, payload("b")) and server.keys[-1] == ""
    assert SECRET not in judge.path.read_text()


@pytest.mark.parametrize(
    ("fails", "said", "asked"),
    [
        (400, "400 this endpoint has a fault", 1),
        (503, "503 this endpoint has a fault", 3),
        (b"<html>a gateway", "no chat completion", 1),
        (b'{"choices": []}', "empty answer", 1),
        (b'{"choices": [{"message": {"content": null}}]}', "empty answer", 1),
        (b'{"choices": [{"message": {"content": " "}}]}', "empty answer", 1),
    ],
)
def test_no_answer_is_no_score(
    fails: int | bytes, said: str, asked: int, server: Endpoint, tmp_path: Path
) -> None:
    judge = Judge(server.url, "m", tmp_path)
    judge.ask(payload("a"))
    server.fails = fails
    assert said in line_of(judge, payload("b")) and len(server.asked) == 1 + asked
    server.fails = None
    judge.ask(payload("b"))  # nothing was kept of the failure, all of the rest
    judge.ask(payload("a"))
    assert len(server.asked) == 2 + asked


def test_busy_is_asked_again_and_silence_is_not_waited_for(
    server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.busy = 2
    judge = Judge(server.url, "m", tmp_path)
    judge.ask(payload("a"))
    assert len(server.asked) == 3
    monkeypatch.setattr(module, "SECONDS", 0.05)
    server.say = lambda prompt: __import__("time").sleep(0.3) or "late"
    assert "did not answer within 0.05 s" in line_of(judge, payload("b"))
    nobody = Judge("http://127.0.0.1:9/v1", "m", tmp_path)
    assert "cannot be reached" in line_of(nobody, payload("a"))


def test_another_model_behind_the_same_name(server: Endpoint, tmp_path: Path) -> None:
    judge = Judge(server.url, "m", tmp_path)
    judge.ask(payload("a"))
    server.model = "stand-in-2"
    line = line_of(judge, payload("b"))
    assert "stand-in-2" in line and "stand-in-1" in line and judge.path.name in line


def test_an_answer_that_the_task_cannot_read(server: Endpoint, tmp_path: Path) -> None:
    """Upstream's tasks ask three times and more, then guess or give 0."""
    judge = Judge(server.url, "m", tmp_path)
    for _ in range(2):
        judge.ask(payload("a"))
    assert "cannot read its answer 'about a'" in line_of(judge, payload("a"))
    judge.begin()
    for warm in (0, 0.5, 0.5, 1, 1, 1.5, 1.5):  # as mmvet does, whose next step gives 0
        judge.ask(payload("a", temperature=warm))
    assert "cannot read" in line_of(judge, payload("a", temperature=2))


# --- where upstream asks ------------------------------------------------------------------------
def by_requests(url: str) -> Any:
    import requests

    body = {"messages": [{"role": "user", "content": "hi"}]}
    return requests.post(url, json=body, timeout=5).json()["choices"][0]["message"]["content"]


def by_openai(url: str) -> Any:
    from openai import OpenAI

    client = OpenAI(api_key="k", base_url=url.removesuffix("/chat/completions"), max_retries=0)
    asked: Any = [{"role": "user", "content": "hi"}]
    return client.chat.completions.create(model="m", messages=asked).choices[0].message.content


def by_httpx(url: str) -> Any:
    import httpx

    body = {"messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(url, json=body).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("way", [by_requests, by_openai, by_httpx])
def test_every_way_of_upstream_ends_at_the_judge(
    way: Any, server: Endpoint, tmp_path: Path
) -> None:
    url = "https://api.openai.com/v1/chat/completions"
    nobody = Scoring()
    with nobody.guarded(), pytest.raises(JudgeWanted):
        way(url)
    assert nobody.wanted
    judge = Judge(server.url, "m", tmp_path)
    with Scoring(judge.ask).guarded():
        assert way(url) == "about hi"
        with pytest.raises(Unreachable, match="more than chat"):
            by_requests("https://api.example.com/v1/responses")
    assert len(server.asked) == 1


def test_upstream_never_sees_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with Scoring().guarded():
        assert os.environ[KEY] not in ("", SECRET)
    assert os.environ[KEY] == SECRET


def test_a_way_that_is_not_known_is_noticed() -> None:
    """Also where upstream catches everything on the way, and goes on with a score of its own."""
    import contextlib
    import urllib.request

    scoring = Scoring()
    with scoring.guarded(), contextlib.suppress(BaseException):
        urllib.request.urlopen("https://api.openai.com/v1/models", timeout=5)
    assert scoring.wanted


# --- the command line -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--judge", "RUN"], "--judge-url"),
        (["--judge", "RUN", "--judge-url", "http://h/v1"], "--judge-model"),
        (["--judge", "RUN", "--judge-url", "ftp://h", "--judge-model", "m"], "http://127.0.0.1"),
        (["--judge", "RUN", "--judge-url", "http://u:p@h/v1", "--judge-model", "m"], KEY),
        (["--judge", "RUN", "--judge-url", "http://h/v1?key=p", "--judge-model", "m"], KEY),
        (["--judge", "RUN", "--judge-url", "http://h/v1", "--judge-model", "m"], "RUN"),
        (["--derive", "RUN", "--judge-model", "m"], "--derive"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and "p@h" not in line and "key=p" not in line
