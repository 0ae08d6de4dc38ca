"""Runs on benches that a judge or a server scores: whole without a score, judged later."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.bench import judge as judging
from harness.bench.guard import Scoring
from harness.bench.scores import Metric
from harness.command.cli import main
from harness.jobs.derive import run_derive
from harness.store.pack import pack
from reports import build
from tests.fakes import FakeRun, derived, without_counters, without_report
from tests.fakes import run as fake_run
from tests.fixtures.judged import _images, write_docvqa_test, write_hallusion, write_mmvet
from tests.judge_tools import Endpoint, endpoint

ANSWERS = ("-1<AND>-5", "red", "a dog")
BENCHES = "mmvet,hallusion_bench_image,docvqa_test"


def grade(prompt: str) -> str:
    """A score that depends on the question; hallusion's prompt asks for a word."""
    if "intelligent teacher" in prompt:
        return "correct" if "truth 0" in prompt else "incorrect"
    return f"{(len(prompt) % 3) / 2:.1f}"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "WAITS", (0.0,))
    for name in ("OPENAI_API_KEY", "AZURE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run without a judge: dense on all three, and a documents' folder beside it."""
    folder = tmp_path_factory.mktemp("judged")
    write_mmvet(folder / "data", ANSWERS)
    write_hallusion(folder / "data", ["1", "0"])
    write_docvqa_test(folder / "data", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder / "cache"))
        words = ["--methods", "dense", "--bench", BENCHES, "--data", str(folder / "data")]
        words += ["--limit", "2", "--device", "cpu", "--quiet", "--out", str(folder / "run")]
        without_counters(patch)
        assert main(words) == 0
        yield folder / "run"


@pytest.fixture
def run(answered: Path, tmp_path: Path) -> Path:
    shutil.copytree(answered, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint(grade) as found:
        yield found


def judge(run: Path, server: Endpoint, model: str = "some-judge") -> int:
    words = ["--judge", str(run), "--judge-url", server.url, "--judge-model", model, "--quiet"]
    return main(words)


def accuracy(run: Path) -> pd.DataFrame:
    frame = pd.read_csv(run / "accuracy.csv")
    return frame[frame["headline"] == 1].set_index("bench")


def files(run: Path, bench: str) -> dict[str, str]:
    cells = pd.read_csv(run / "cells.csv").set_index("bench")
    folder = run / "submissions" / cells.loc[bench, "cell_id"]
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_without_a_judge_everything_is_there_but_the_score(answered: Path) -> None:
    assert set(pd.read_csv(answered / "cells.csv")["status"]) == {"done"}
    found = accuracy(answered)
    assert found["value"].isna().all() and found["n"].eq(2).all()
    assert list(found["not_scored"][:2]) == ["needs a judge"] * 2
    for path in (answered / "samples").glob("*[0-9a-f].csv"):
        samples = pd.read_csv(path)
        assert samples["score"].isna().all() and samples["prediction"].notna().all()
    rows = [json.loads(line) for line in files(answered, "mmvet")["answers.jsonl"].splitlines()]
    assert [row["document"]["answer"] for row in rows] == list(ANSWERS[:2])
    assert [row["doc_id"] for row in rows] == ["0", "1"] and "image" not in rows[0]["document"]
    report = (answered / "report.md").read_text()
    assert "not scored" in report and "needs a judge" in report and "answers.jsonl" in report


def test_a_test_split_s_file_is_upstream_s_own(answered: Path) -> None:
    (name, content), *others = files(answered, "docvqa_test").items()
    assert name == "docvqa_test_for_submission.json" and not others
    cell = pd.read_csv(answered / "cells.csv").set_index("bench").loc["docvqa_test"]
    said = pd.read_csv(answered / "samples" / f"{cell['cell_id']}.csv", keep_default_na=False)
    expected = [{"questionId": 57344 + i, "answer": said["prediction"][i]} for i in range(2)]
    assert json.loads(content) == expected
    assert "incomplete: 2 of 3 documents" in accuracy(answered).loc["docvqa_test", "not_scored"]
    assert "incomplete: 2 of 3 documents" in cell["notes"]


def test_judged_later_by_upstream_s_own_code(
    run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores against upstream's prompt, parsing and means, carried out by hand."""
    with Scoring().guarded():  # the module wants a key when it is imported
        from lmms_eval.tasks.mmvet.utils import MM_VET_PROMPT
    before = {p.name: p.read_bytes() for p in (run / "records").iterdir()}
    assert judge(run, server) == 0
    rows = [json.loads(line) for line in files(run, "mmvet")["answers.jsonl"].splitlines()]
    truths = [truth.replace("<AND>", " <AND> ") for truth in ANSWERS]
    prompts = [
        f"{MM_VET_PROMPT}\n{row['document']['question']} | {truth} | {row['prediction']} |"
        for row, truth in zip(rows, truths, strict=False)
    ]
    asked = [one["messages"][0]["content"] for one in server.asked]
    assert asked[:2] == prompts and len(asked) == 4
    found = accuracy(run)
    assert found.loc["mmvet", "value"] == pytest.approx(
        50 * sum(float(grade(prompt)) for prompt in prompts)
    )
    assert found.loc["hallusion_bench_image", "value"] == 50
    cells = pd.read_csv(run / "cells.csv").set_index("bench")
    cell = cells.loc["hallusion_bench_image", "cell_id"]
    assert list(pd.read_csv(run / "samples" / f"{cell}.csv")["score"]) == [100, 0]
    who = found.loc["mmvet", "judge"]
    assert who.startswith("stand-in-1 (asked for some-judge) at 127.0.0.1:")
    assert "lmms-eval 0." in who and found.loc["mmvet", "judge_temperature"] in (0, "0")
    assert "stand-in-1" in (run / "report.md").read_text()
    without_report(monkeypatch)
    assert {p.name: p.read_bytes() for p in (run / "records").iterdir()} == before
    assert judge(run, server) == 0 and len(server.asked) == 4  # nothing is asked twice
    # Tables and report come back from what is stored, scores and judge with them.
    kept = (run / "accuracy.csv").read_bytes()
    assert main(["--derive", str(run), "--quiet"]) == 0
    assert (run / "accuracy.csv").read_bytes() == kept
    assert len(server.asked) == 4


@pytest.mark.usefixtures("undrawn")
def test_what_a_judge_did_not_answer_is_not_scored(
    run: Path, server: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fails = 401
    assert judge(run, server) == 3
    line = capsys.readouterr().err
    assert "401" in line and "1 cell more not judged" in line and line.count("\n") == 1
    assert accuracy(run)["value"].isna().all() and accuracy(run)["judge"].isna().all()
    server.fails, left = None, 3
    answer = server.answer

    def gives_out(payload: dict[str, Any]) -> tuple[int, bytes]:
        server.fails = 500 if len(server.asked) > left else None
        return answer(payload)

    server.answer = gives_out  # type: ignore[method-assign]
    assert judge(run, server) == 3
    found = accuracy(run)["value"]
    assert found.notna()["mmvet"] and found.isna()["hallusion_bench_image"]
    server.answer, server.fails, asked = answer, None, len(server.asked)  # type: ignore[method-assign]
    assert judge(run, server) == 0 and len(server.asked) == asked + 1


@pytest.mark.usefixtures("undrawn")
def test_a_judge_that_cannot_be_read_gives_no_zero(
    run: Path, server: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say = lambda prompt: "5.0" if "Correctness" in prompt else "correct"
    assert judge(run, server) == 3
    assert "cannot read its answer '5.0'" in capsys.readouterr().err
    assert accuracy(run)["value"].isna()["mmvet"]


@pytest.mark.usefixtures("undrawn")
def test_scores_of_two_judges_never_stand_in_one_table(run: Path, server: Endpoint) -> None:
    assert judge(run, server) == 0
    first = accuracy(run)["judge"]["mmvet"]
    with endpoint(lambda prompt: "1.0" if "Correctness" in prompt else "") as other:
        other.model = "stand-in-9"
        assert judge(run, other) == 3  # it says nothing about the second bench
    found = accuracy(run)
    assert "stand-in-9" in found["judge"]["mmvet"] and found["value"]["mmvet"] == 100
    assert found["not_scored"]["hallusion_bench_image"] == "needs a judge"
    asked = len(server.asked)
    assert judge(run, server) == 0 and len(server.asked) == asked
    assert accuracy(run)["judge"]["mmvet"] == first


@pytest.mark.usefixtures("undrawn")
def test_other_documents_are_not_judged(
    run: Path, server: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mmvet(tmp_path / "other", ["blue", "red", "green"])
    write_hallusion(tmp_path / "other", ["0", "0"])
    words = ["--judge", str(run), "--judge-url", server.url, "--judge-model", "m", "--quiet"]
    assert main([*words, "--data", str(tmp_path / "other")]) == 3
    assert "its data are" in capsys.readouterr().err and not server.asked


@pytest.mark.usefixtures("undrawn")
def test_the_run_s_own_command_judges_at_once(
    run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of a run whose answers are there; the key of the environment stays out of its files."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    words = json.loads((run / "run.json").read_text())["argv"]
    words = [str(run) if word.endswith("/run") else word for word in words]
    assert main([*words, "--judge-url", server.url, "--judge-model", "some-judge"]) == 0
    assert accuracy(run)["value"].notna()[["mmvet", "hallusion_bench_image"]].all()
    assert server.keys == ["Bearer sk-not-to-be-seen"] * 4
    texts = [path for path in run.rglob("*") if path.is_file() and path.suffix != ".gz"]
    assert not any(b"sk-not-to-be-seen" in path.read_bytes() for path in texts)


# --- among benches with scores --------------------------------------------------------------------
class Waiting(FakeRun):
    """`pope` is answered and not scored, or scored by the judge of each method."""

    judges: dict[str, str] = {}  # noqa: RUF012

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        found = super().evaluate(session, method, bench, **options)
        if bench.name != "pope":
            return found
        first = found.headline
        if not self.judges:
            waits = Metric(
                first.task, first.metric, math.nan, True, {}, False, not_scored="needs a judge"
            )
            rows = tuple(replace(sample, score=None) for sample in found.samples)
            files = {"answers.jsonl": b"{}\n"}
            return replace(found, metrics=(waits,), samples=rows, files=files)
        return replace(found, metrics=(replace(first, judge=self.judges[method.name]),))


def test_a_bench_without_scores_stays_out_of_averages_and_pairs(tmp_path: Path) -> None:
    assert fake_run(tmp_path / "run", Waiting()) == 0
    run = tmp_path / "run"
    frame = pd.read_csv(run / "accuracy.csv").query("bench == 'pope'")
    assert len(frame) == 3 and frame["value"].isna().all() and frame["delta"].isna().all()
    assert (frame["not_scored"] == "needs a judge").all()
    assert set(pd.read_csv(run / "comparisons.csv")["bench"]) == {"gqa", "(average)"}
    assert (pd.read_csv(run / "averages.csv")["benches"] == 1).all()
    assert set(pd.read_csv(run / "cost.csv")["bench"]) == {"gqa", "pope"}
    report = build.build_report(run).parent / "report.md"
    assert "not scored" in report.read_text() and "nothing for" not in report.read_text()
    before = derived(run)
    assert run_derive(str(run), quiet=True) == 0 and derived(run) == before
    # Another run takes the answers with their files; a packed one keeps what was said of them.
    assert fake_run(tmp_path / "again", Waiting(), reuse=(str(run),)) == 0
    files = sorted(p.relative_to(run) for p in (run / "submissions").rglob("*.jsonl"))
    assert len(files) == 3 and all((tmp_path / "again" / file).is_file() for file in files)
    pack(run, tmp_path / "packed")
    assert run_derive(str(tmp_path / "packed"), quiet=True) == 0
    assert (tmp_path / "packed" / "accuracy.csv").read_bytes() == before["accuracy.csv"]


def test_rows_of_two_judges_are_not_held_against_each_other(tmp_path: Path) -> None:
    job = Waiting()
    job.judges = {"dense": "one", "fastv": "one", "random": "other"}
    assert fake_run(tmp_path / "run", job) == 0
    run = tmp_path / "run"
    frame = pd.read_csv(run / "accuracy.csv").query("bench == 'pope'").set_index("method")
    assert list(frame["judge"]) == ["one", "one", "other"] and frame["value"].notna().all()
    assert not math.isnan(frame["delta"]["fastv"]) and math.isnan(frame["delta"]["random"])
    pairs = pd.read_csv(run / "comparisons.csv").query("bench == 'pope'")
    assert [{*row} for row in pairs[["method_a", "method_b"]].to_numpy()] == [{"fastv", "dense"}]


OWN_TASK = """
task: mine_judged
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function mine.visual
doc_to_text: question
doc_to_target: answer
process_results: !function mine.results
generation_kwargs:
  max_new_tokens: 4
metric_list:
  - metric: grade
    aggregation: mean
    higher_is_better: true
"""
OWN_CODE = """
import io, os, requests
from PIL import Image

def visual(doc):
    return [Image.open(io.BytesIO(doc["image"]["bytes"])).convert("RGB")]

def results(doc, answers):
    asked = {"model": "m", "messages": [{"role": "user", "content": doc["answer"]}]}
    said = requests.post(os.environ["OPENAI_API_URL"], json=asked).json()
    return {"grade": float(said["choices"][0]["message"]["content"])}
"""


def test_own_tasks_are_judged_wherever_their_file_is(
    tmp_path: Path, server: Endpoint, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"image": _images(range(2)), "question": ["Which?", "What?"], "answer": ["a", "bb"]}
    folder = tmp_path / "task"
    folder.mkdir()
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    (folder / "mine.py").write_text(OWN_CODE)
    (folder / "mine.yaml").write_text(OWN_TASK.format(data=folder / "rows.parquet"))
    monkeypatch.chdir(tmp_path)
    words = ["--methods", "dense", "--bench", "task/mine.yaml", "--device", "cpu", "--quiet"]
    assert main([*words, "--out", "run"]) == 0
    assert accuracy(tmp_path / "run").loc["mine.yaml", "not_scored"] == "needs a judge"
    monkeypatch.chdir(folder.parent.parent)
    assert judge(tmp_path / "run", server) == 0
    value = sum(float(grade(answer)) for answer in rows["answer"]) / 2
    assert accuracy(tmp_path / "run").loc["mine.yaml", "value"] == pytest.approx(value)
    pack(tmp_path / "run", tmp_path / "packed")
    assert str(tmp_path) not in (tmp_path / "packed/run.json").read_text()
