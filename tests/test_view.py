"""`view RUN`: what is listed, found and refused, asked of the server as a browser asks it."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest

from harness.command.cli import main
from minidata.identity import EARLIER
from minidata.rows import read
from minidata.tasks import data_files
from reports.samples.index import Index
from reports.samples.server import Server, start
from tests.fixtures.runs import identity, write_run
from tests.fixtures.samples import EVIL, SIX, is_wrong, pack, write_samples

DOCUMENTS = 200


class Page:
    """A server of one run, and its answers."""

    def __init__(self, run: Path, folder: Path, wait: bool = True) -> None:
        self.server = Server(Index(run, folder), 0)
        self.port = self.server.server_port
        builder, _ = start(self.server.index, self.server)
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        if wait:
            builder.join(30)

    def get(self, path: str, host: str = "127.0.0.1", **asked: Any) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", f"{path}?{urlencode(asked)}", headers={"Host": host})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.headers["Content-Type"], content

    def json(self, path: str, **asked: Any) -> Any:
        status, _, content = self.get(path, **asked)
        assert status == 200, content
        return json.loads(content)

    def docs(self, **asked: Any) -> list[str]:
        """The documents of a list, all of its pages."""
        found: list[str] = []
        while True:
            page = self.json("/api/rows", start=len(found), count=77, **asked)
            found += [row["doc"] for row in page["rows"]]
            if len(found) >= page["total"]:
                return found

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    run = write_samples(tmp_path_factory.mktemp("run") / "made-up", documents=DOCUMENTS)
    opened = Page(run, tmp_path_factory.mktemp("index"))
    yield opened
    opened.close()


def expected(rule: Any) -> list[str]:
    return [str(d) for d in range(DOCUMENTS) if rule(d)]


def test_every_document_of_every_bench_is_listed_once_and_in_order(page: Page) -> None:
    said = page.json("/api/run")
    assert [b["documents"] for b in said["benches"]] == [DOCUMENTS] * 2
    assert [s["name"] for s in said["series"]][:3] == ["dense", "gamma", "pmod"]
    assert page.docs() == expected(lambda d: True) * 2
    assert page.docs(bench="pope") == expected(lambda d: True)


@pytest.mark.parametrize("place", [1, 3, 5])
def test_filters_agree_with_the_answers(page: Page, place: int) -> None:
    def docs(change: str, **more: Any) -> list[str]:
        return page.docs(bench="gqa", change=change, method=place, **more)

    fell = expected(lambda d: is_wrong(d, place) and not is_wrong(d, 0))
    assert fell and docs("lost") == fell == docs("changed")
    assert docs("won") == []  # dense is wrong only where all are
    assert docs("wrong") == expected(lambda d: is_wrong(d, place))
    assert docs("right") == expected(lambda d: not is_wrong(d, place))
    assert docs("lost", against=2) == expected(lambda d: is_wrong(d, place) and not is_wrong(d, 2))
    assert docs("won", against=2) == expected(lambda d: is_wrong(d, 2) and not is_wrong(d, place))
    other = expected(lambda d: d and (is_wrong(d, place) or is_wrong(d, 2)))
    assert docs("differ", against=2) == other


def test_any_method_means_all_but_the_controls(page: Page) -> None:
    assert page.docs(bench="gqa", change="failed") == ["99", "199"]
    methods = range(1, 5)  # random, the last, is a control
    fell = expected(lambda d: not is_wrong(d, 0) and any(is_wrong(d, m) for m in methods))
    assert page.docs(bench="gqa", change="lost") == fell


def test_evidence_lost_is_evidence_recall_of_the_same_answer(page: Page) -> None:
    everything = expected(lambda d: True)
    assert page.docs(bench="gqa", evidence="any", method=1) == []  # its boxes' tokens all stay
    assert page.docs(bench="gqa", evidence="half", method=5) == everything  # a quarter is kept
    assert page.docs(bench="gqa", evidence="all", method=5) == []
    both = page.docs(bench="gqa", evidence="half", change="wrong", method=5)
    assert both == expected(lambda d: is_wrong(d, 5))


def test_search_takes_words_phrases_and_signs_as_they_stand(page: Page) -> None:
    assert page.docs(bench="gqa", words='"WORD 17"') == expected(lambda d: str(d).startswith("17"))
    both = expected(lambda d: "43" in str(d) and any(is_wrong(d, m) for m in range(len(SIX))))
    assert both and page.docs(bench="gqa", words="answer 43") == both
    assert page.docs(words="100% '; DROP TABLE docs --") == []
    assert page.docs(bench="gqa", words="<script>") == ["0"]


def test_a_place_in_the_list_is_told_for_a_deep_link(page: Page) -> None:
    asked = {"bench": "gqa", "change": "failed", "at_bench": "gqa"}
    assert page.json("/api/rows", **asked, at_doc="199")["at"] == 1
    assert page.json("/api/rows", **asked, at_doc="5")["at"] is None


def test_a_document_has_every_answer_with_its_numbers_and_routing(page: Page) -> None:
    doc = page.json("/api/doc", bench="gqa", doc="0")
    assert doc["mini"] and doc["target"] == "word 0"
    assert [m["answer"] for m in doc["methods"]] == [EVIL] * len(SIX)
    fastv = doc["methods"][3]
    assert fastv["ok"] == 1 and fastv["n_image"] == 36 and fastv["prefill"] == 0.004
    assert fastv["kv_vision"] == pytest.approx((1 + 3 * 9 / 36) / 4)
    assert doc["methods"][5]["evidence"] == pytest.approx(0.25)
    shown = fastv["shown"]
    assert shown["methods"][0]["layers"] == 4 and len(shown["kinds"]) == 43
    assert shown["evidence"] == [[0.0, 0.0, 64.0, 32.0]]


def test_what_a_run_does_not_keep_is_said(page: Page) -> None:
    doc = page.json("/api/doc", bench="pope", doc="3")
    assert doc["question"] is None and doc["image"] is None
    assert "not kept in this run" in doc["no_image"]
    status, _, content = page.get("/api/image", bench="pope", doc="3")
    assert status == 404 and b"not kept" in content


def test_other_names_of_this_machine_and_other_paths_are_refused(page: Page) -> None:
    assert page.get("/", host="evil.example")[0] == 403
    assert page.get("/", host="127.0.0.1.evil.example")[0] == 403
    assert page.get("/", host="localhost:9")[0] == 200  # through a tunnel
    assert page.get("/../run.json")[0] == page.get("/api/doc/../../run.json")[0] == 404
    assert page.get("/api/doc", bench="../..", doc="run.json")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("POST", "/api/rows")
    assert connection.getresponse().status == 501


@pytest.mark.parametrize(
    "asked",
    [{"change": "lots"}, {"method": 77}, {"method": "x"}, {"bench": "gqo"}, {"evidence": "1"},
     {"start": "x"}],
)  # fmt: skip
def test_a_wish_that_is_not_known_is_one_line(page: Page, asked: dict[str, Any]) -> None:
    status, _, content = page.get("/api/rows", **asked)
    assert status == 400 and b"\n" not in content and content
    if "bench" in asked:
        assert b"gqa" in content


def test_the_page_carries_no_answer_and_no_foreign_script(page: Page) -> None:
    status, kind, content = page.get("/")
    assert status == 200 and kind.startswith("text/html") and b"http" not in content
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("GET", "/")
    policy = connection.getresponse().headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy


def test_a_damaged_run_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    run = write_samples(tmp_path / "run", SIX[:3], ("gqa",), 20)
    torn = run / "samples" / f"{identity('gamma', 'gqa')[0]}.csv"
    torn.write_text(torn.read_text()[:-9])
    (run / "records" / f"{identity('pmod', 'gqa')[0]}.gz").write_bytes(b"no records")
    (run / "samples" / f"{identity('pmod', 'gqa')[0]}.evidence.json").write_text('[{"doc_id": "0"')
    pack(run / "samples" / f"{identity('dense', 'gqa')[0]}.csv")
    opened = Page(run, tmp_path)
    try:
        notices = " ".join(opened.json("/api/run")["notices"])
        assert "1 row(s)" in notices and "records" in notices and "evidence" in notices
        last = opened.json("/api/doc", bench="gqa", doc="19")
        assert [m["series"] for m in last["methods"]] == [0, 2]
        assert last["methods"][1]["shown"] is None and last["methods"][1]["why"]
        assert last["methods"][1]["evidence"] is None
    finally:
        opened.close()


def test_documents_are_shown_while_the_rest_is_read(tmp_path: Path) -> None:
    run = write_samples(tmp_path / "run", SIX[:3], ("gqa",), 1500)
    opened = Page(run, tmp_path, wait=False)
    try:
        until = time.monotonic() + 30
        while opened.json("/api/rows")["total"] < 1500 and time.monotonic() < until:
            time.sleep(0.01)
        early = opened.json("/api/doc", bench="gqa", doc="1499")
        assert early["methods"] and all(m["shown"] for m in early["methods"])
        while not opened.json("/api/run")["records"] and time.monotonic() < until:
            time.sleep(0.01)
        late = opened.json("/api/doc", bench="gqa", doc="1499")
        assert late["whole"] and len(late["methods"]) == 3
        assert late["methods"][0]["shown"] == early["methods"][0]["shown"]
        assert opened.json("/api/run")["cells"] == [3, 3]
    finally:
        opened.close()


def test_right_and_wrong_are_said_only_where_scores_say_so(tmp_path: Path) -> None:
    """Grades beyond 1 and errors (the lower the better) are compared; neither is right or wrong."""
    run = write_samples(tmp_path / "run", SIX[:2], ("gqa", "pope"), 3)
    for bench, scores in (("gqa", ("3", "3")), ("pope", ("0.2", "0.4"))):
        for label, score in zip(SIX[:2], scores, strict=True):
            file = run / "samples" / f"{identity(label, bench)[0]}.csv"
            lines = [line.split(",", 2) for line in file.read_text().splitlines()[:4]]
            lines[2][1] = score
            lines[3][1] = ""
            file.write_text("".join(",".join(line) + "\n" for line in lines))
            if bench == "pope":
                metric = [{"headline": True, "higher_is_better": False}]
                file.with_suffix(".metrics.json").write_text(json.dumps(metric))
    opened = Page(run, tmp_path)
    try:
        for bench in ("gqa", "pope"):
            doc = opened.json("/api/doc", bench=bench, doc="1")
            assert [m["ok"] for m in doc["methods"]] == [None, None]
            assert opened.docs(bench=bench, change="wrong") == []
        assert "1" not in opened.docs(bench="gqa", change="changed")
        assert opened.docs(bench="pope", change="lost", method=1) == ["1"]
        for change in ("lost", "won", "changed"):  # no score is no change
            assert "2" not in opened.docs(bench="pope", change=change)
    finally:
        opened.close()


def test_questions_and_images_come_from_the_very_mini_data_that_was_read(tmp_path: Path) -> None:
    """The run's own words name the shipped file by its hash; another hash is another version."""
    from PIL import Image

    from harness.model.features import image_key
    from reports.samples.documents import source

    run = write_samples(tmp_path / "run", SIX[:2], ("gqa",), 5)
    known = source(run, "gqa", True, {_named("gqa")})
    first = read(data_files("gqa")).slice(0, 1).to_pylist()[0]
    assert known.question("0") == first["question"]
    assert known.question("2000") is known.question("x") is None
    with Image.open(io.BytesIO(first["image"]["bytes"])) as picture:
        content, kind = known.image("0", image_key(picture.convert("RGB")))
    assert kind == "image/jpeg" and content.startswith(b"\xff\xd8")
    assert "another version" in str(known.image("0", "0" * 32))  # not the picture of this name
    other = source(run, "gqa", True, {"testdev.parquet@000000000000"})
    assert other.question("0") is None and "another version" in str(other.image("0", "0" * 32))
    for earlier in EARLIER["gqa"]:  # which these begin with
        before = source(run, "gqa", True, {earlier.name})
        assert before.question("499") == known.question("499") is not None


def _named(bench: str) -> str:
    from harness.bench.sources import Source

    paths = data_files(bench)
    return str(Source("parquet", "", tuple(map(str, paths)), paths[0].parent))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["view", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_what_cannot_be_shown_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no-such" in refused(capsys, str(tmp_path / "no-such"))
    assert "holds no run" in refused(capsys, str(tmp_path))
    assert "no samples" in refused(capsys, str(write_run(tmp_path / "old")))
    assert "RUN" in refused(capsys)
    run = str(write_samples(tmp_path / "run", SIX[:2], ("gqa",), 3))
    assert "0 to 65535" in refused(capsys, run, "--port", "99999")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused(capsys, run, "--port", str(port))


@pytest.mark.parametrize(
    "sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_it_quietly_without_torch_and_leaves_the_run_as_it_was(
    tmp_path: Path, sign: signal.Signals
) -> None:
    run = write_samples(tmp_path / "run", SIX[:2], ("gqa",), 3)
    before = sorted(p.relative_to(run) for p in run.rglob("*"))
    code = (
        "import sys; from harness.command.cli import main; code = main(); "
        "sys.exit(99 if 'torch' in sys.modules or 'matplotlib' in sys.modules else code)"
    )
    words = [sys.executable, "-c", code, "view", str(run), "--port", "0", "--no-browser"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background, a shell's children ignore Ctrl-C; this one must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(sign)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == before
