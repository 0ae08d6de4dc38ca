"""Studies with looks: what is trained on, what stays decided, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from harness.common import processor
from harness.common.errors import UsageError
from harness.jobs import study as study_run
from harness.jobs.runner import run
from harness.model.catalog import find_model
from harness.options.settings import Settings
from harness.study.claims import judge
from harness.study.spec import REFERENCE, load_study
from harness.study.tables import collect
from harness.study.trainings import gather, keep
from tests.fixtures.trained import BENCHES, answer, place, write


def test_a_study_with_looks_trains_on_only_what_open_claims_need(tmp_path, monkeypatch):
    """a against b is settled at the first look; d against e never is, and neither is f's burst."""
    place(tmp_path, monkeypatch)
    arms = [{"name": n, "train": t} for n, t in (
        ("a", "pmod"), ("b", "mod"), ("d", "pmod:beta=0.4"), ("e", "pmod:beta=0.3"), ("f", "gamma"))
    ]  # fmt: skip
    claims = [
        {"claim": "a beats b", "kind": "higher", "better": "a", "worse": "b"},
        {"claim": "d beats e", "kind": "higher", "better": "d", "worse": "e"},
        {"claim": "f bursts", "kind": "overflow", "better": "f"},
    ]
    path = write(tmp_path, arms=arms, claims=claims, looks=[4, 6, 8])
    study = load_study(path)
    assert study.seeds == (1, 2, 3, 4, 5, 6, 7, 8)
    spared = {(arm, seed) for arm in "ab" for seed in range(5, 9)}
    answer(study, {REFERENCE: 0.9, "a": 0.95, "b": 0.2, "d": 0.6, "e": 0.6, "f": 0.5}, spared)
    asked = []
    real = study_run._compute
    monkeypatch.setattr(
        study_run, "_compute", lambda jobs, show: asked.extend(jobs) or real(jobs, show)
    )
    out = tmp_path / "run"
    settings = Settings(study=str(path), bench=BENCHES, limit=50, out=str(out), quiet=True)
    assert run(study_run.StudyJob(settings, ["--suite", str(path)])) == 0
    assert len(asked) == 6 * 8 - len(spared) and all(job.done for job in asked)
    claims = pd.read_csv(out / "study_claims.csv").set_index("claim")
    design = study.design
    assert claims.loc["a beats b", ["seeds", "look", "looks"]].tolist() == [4, 1, 3]
    assert claims.loc["a beats b", "verdict"] == "reproduced"
    assert claims.loc["d beats e", ["seeds", "look", "looks"]].tolist() == [8, 3, 3]
    assert claims["level"].dropna().tolist() == pytest.approx([design.levels[0], design.levels[2]])
    assert claims["alpha_spent"].dropna().tolist() == pytest.approx([design.spent[0], 0.05])
    assert claims.loc["f bursts", ["verdict", "look"]].tolist() == ["not reproduced", 3]
    table = pd.read_csv(out / "study.csv").set_index(["arm", "bench"]).xs("average", level=1)
    assert table["seeds"].to_dict() == {REFERENCE: 8, "a": 4, "b": 4, "d": 8, "e": 8, "f": 8}
    assert set(table["status"]) == {"done"}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "look 1 of 3; α 0.0056" in report and "look 3 of 3; α 0.0500" in report
    assert "up to 8 seeds" in report and "Notice" not in report and "of 8 seeds" not in report
    assert "Looks" in report and "repeated confidence intervals" in report


CLAIM = {"claim": "the other way round", "kind": "higher"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"looks": [2, 3]}, r"begun with looks at \[3\] seeds and .* now says \[2, 3\]"),
        ({"seeds": [4, 5, 6]}, r"begun with seeds \[1, 2, 3\] and .* now says \[4, 5, 6\]"),
        ({"margin": 2.0}, r"begun with margin 1.0 and .* now says 2.0"),
        ({"claims": [{**CLAIM, "better": "b", "worse": "a"}]}, "other arms, claims or training"),
        ({"settings": {"batch": 4}}, "other arms, claims or training"),
    ],
)
def test_another_design_is_no_resumption(tmp_path, monkeypatch, changes, said):
    place(tmp_path, monkeypatch)
    path, out = write(tmp_path), tmp_path / "run"
    answer(load_study(path), {REFERENCE: 0.9, "a": 0.7, "b": 0.5})
    settings = Settings(study=str(path), bench=BENCHES, limit=50, out=str(out), quiet=True)
    assert run(study_run.StudyJob(settings, [])) == 0
    content = json.loads(path.read_text())
    content["study"] |= changes
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=said):
        run(study_run.StudyJob(settings, []))


def test_arms_are_examined_on_the_model_that_they_start_from(tmp_path, monkeypatch):
    place(tmp_path, monkeypatch)
    for model, more in (("tiny-qwen", {}), ("tiny-llava", {"settings": {"modules": "pmod-first"}})):
        path = write(tmp_path, **more)
        settings = Settings(study=str(path), model=model, bench=BENCHES, limit=50, quiet=True)
        with pytest.raises(UsageError, match="expected the model that they start from"):
            run(study_run.StudyJob(replace(settings, out=str(tmp_path / "run")), []))


@pytest.mark.usefixtures("undrawn")
def test_a_study_goes_on_in_the_number_format_it_was_begun_with(tmp_path, monkeypatch):
    place(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx512_bf16"}))
    path, out = write(tmp_path), tmp_path / "run"
    answer(load_study(path), {REFERENCE: 0.9, "a": 0.7, "b": 0.5})
    settings = Settings(study=str(path), bench=BENCHES, limit=50, out=str(out), quiet=True)
    assert run(study_run.StudyJob(settings, [])) == 0
    assert json.loads((out / "run.json").read_text())["dtype"].startswith("bfloat16 (autocast)")
    before = {file.name: file.read_bytes() for file in out.glob("*.csv")}
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx2"}))
    with pytest.raises(UsageError, match=r"begun with bfloat16 .* here it would be float32"):
        run(study_run.StudyJob(settings, []))
    assert before == {file.name: file.read_bytes() for file in out.glob("*.csv")}
    # Elsewhere: trainings of its own, none of the first's results.
    answer(load_study(path), {REFERENCE: 0.9, "a": 0.5, "b": 0.7})
    other = replace(settings, out=str(tmp_path / "other"))
    assert run(study_run.StudyJob(other, [])) == 0
    one, two = (pd.read_csv(folder / "study.csv") for folder in (out, tmp_path / "other"))
    key = one["arm"].eq("a") & one["bench"].eq("average")
    assert one.loc[key, "mean"].item() > 60 > two.loc[key, "mean"].item()


@pytest.mark.usefixtures("undrawn")
def test_looks_declared_after_a_run_of_before_there_were_looks_are_refused(tmp_path, monkeypatch):
    place(tmp_path, monkeypatch)
    path, out = write(tmp_path), tmp_path / "run"
    answer(load_study(path), {REFERENCE: 0.9, "a": 0.7, "b": 0.5})
    settings = Settings(study=str(path), bench=BENCHES, limit=50, out=str(out), quiet=True)
    assert run(study_run.StudyJob(settings, [])) == 0
    about = json.loads((out / "run.json").read_text())
    for key in ("looks", "alpha_spent", "seeds"):
        del about["study"][key]
    (out / "run.json").write_text(json.dumps(about))
    content = json.loads(path.read_text())
    content["study"] |= {"looks": [3, 5, 8]}
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"with a fixed number of seeds and .* says \[3, 5, 8\]"):
        run(study_run.StudyJob(settings, []))
    path.write_text(json.dumps({"study": {**content["study"], "looks": []}}))
    assert run(study_run.StudyJob(settings, [])) == 0


def test_a_look_that_lacks_a_run_does_not_test_a_claim(tmp_path, monkeypatch):
    """It would be tested again when the run is there: a look more than was declared."""
    place(tmp_path, monkeypatch)
    study = load_study(write(tmp_path, looks=[4, 6, 8]))
    how = study_run._how(Settings(study="", bench=BENCHES, limit=50), find_model("tiny-llava"))
    level = {REFERENCE: 0.9, "a": 0.95, "b": 0.2}

    def judged(look):
        return judge(study, collect(study, gather(study, **how), {}), BENCHES, look)

    answer(study, level, {("a", 3)})
    first = judged(1)
    assert first.rows[0]["verdict"] == "inconclusive" and first.needed == {REFERENCE, "a", "b"}
    assert "only 3 of 4 seeds have both arms, so this look does not test" in first.rows[0]["reason"]
    assert first.rows[0].get("p_value") is None and first.rows[0]["difference"] > 50
    last = judged(3).rows[0]
    assert (last["verdict"], last["seeds"], last["look"]) == ("inconclusive", 7, 3)
    lost = gather(study, **how)["a", 3][0]
    keep(lost.outcome, {"overflow": "loss is nan"})  # as it would again: the last look goes without
    last = judged(3).rows[0]
    assert (last["verdict"], last["seeds"], last["look"]) == ("reproduced", 7, 3)
    lost.outcome.unlink()
    answer(study, level)
    resumed = judged(3).rows[0]
    assert (resumed["verdict"], resumed["seeds"], resumed["look"]) == ("reproduced", 4, 1)


def test_more_seeds_take_up_those_that_are_trained(tmp_path, monkeypatch):
    place(tmp_path, monkeypatch)
    few, more = (load_study(write(tmp_path, **c)) for c in ({}, {"looks": [3, 5]}))
    settings = Settings(study="", bench=BENCHES, limit=50)
    how = study_run._how(settings, find_model("tiny-llava"))
    folders = [{k: job.folder for k, (job, _) in gather(s, **how).items()} for s in (few, more)]
    assert folders[0].items() <= folders[1].items()
