"""Ablation studies: what is computed once, intervals over seeds and documents, verdicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import methods
from harness.common.errors import UsageError
from harness.jobs import study as study_run
from harness.jobs.runner import run
from harness.minimodel.recipe import Recipe
from harness.model import catalog
from harness.model.catalog import find_model
from harness.options.settings import Settings
from harness.study.spec import REFERENCE, load_study
from harness.study.trainings import Exam, gather, unique
from tests.fakes import without_report
from tests.fixtures.bad_input import edit
from tests.fixtures.trained import BENCHES, GOOD, answer, place, write

SUITES = Path(__file__).parents[1] / "suites"
STUDIES = sorted(p for p in SUITES.glob("*.yaml") if "\nstudy:" in p.read_text(encoding="utf-8"))
NOTHING = {"data": "", "scenes": "x", "start": "y", "files": {}, "model": "tiny-llava"}

# The papers' averages, typed in from their tables (p-MoD 3, 4, 6, 7; gamma-MoD's ablations).
PAPERS = {
    "ablate-pmod-components": [60.4, 61.4, 63.4, 65.3],
    "ablate-pmod-schedule": [59.2, 60.3, 64.3, 64.8, 65.3],
    "ablate-pmod-norm": [None, None, 62.9, 62.4, None, 65.3],
    "ablate-pmod-beta": [63.4, 63.9, 65.3],
    "ablate-gamma-placement": [37.1, 47.8, 37.8, 58.3],
    "ablate-gamma-mask": [57.2, 58.3, 57.0],
    "ablate-gamma-share": [57.6, 53.9],
    "ablate-gamma-ratio": [58.3, 58.3, 57.6, 55.3],
    "ablate-gamma-components": [37.1, 57.2, 57.6, 58.3],
    "ablate-llavolta-stages": [None] * 7,
    "pmod-figure3": [None] * 7,
}


def exam(benches=("gqa", "textvqa"), limit=10):
    return Exam(benches, limit, 8, ("a",) * len(benches))


# --- the shipped studies ------------------------------------------------------------------------
def test_every_wanted_study_ships():
    assert {p.stem for p in STUDIES} == set(PAPERS)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_shipped_study_is_complete(path):
    study = load_study(path)
    assert [arm.paper for arm in study.arms] == PAPERS[path.stem]
    assert study.looks == (3, 5, 8)  # declared, not chosen on the way
    dense = 58.5 if "gamma" in path.stem else 65.7 if path.stem == "ablate-pmod-beta" else None
    assert study.everyone[0].paper == dense
    places = gather(study, exam=exam(), **NOTHING)
    assert len(places) == len(study.everyone) * len(study.seeds)
    steps = {job.recipe.max_steps * job.recipe.batch for job, _ in places.values()}
    assert len(steps) == 1  # every arm trains as long


@pytest.mark.parametrize("name", ["ablate-pmod-components", "ablate-pmod-schedule"])
def test_arms_that_claim_equal_cost_keep_equally_many_tokens(name):
    for arm in load_study(SUITES / f"{name}.yaml").arms:
        ratios = methods.parse(arm.train).ratios(12)
        assert sum(ratios) / 12 == pytest.approx(0.5375, abs=1e-3), arm.name


def test_figure_3_lowers_three_layers_at_a_time_at_the_same_cost():
    study = load_study(SUITES / "pmod-figure3.yaml")
    usual = methods.parse(study.arms[0].train).ratios(12)
    kept = {}
    for arm in study.arms[1:]:
        ratios = methods.parse(arm.test).ratios(12)
        lowered = [i for i, (a, b) in enumerate(zip(ratios, usual, strict=True)) if a < b - 1e-3]
        assert len(lowered) == 3
        kept.setdefault(round(sum(ratios), 6), set()).add(tuple(lowered))
    assert [len(groups) for groups in kept.values()] == [3, 3]


def test_equal_trainings_are_one_job_and_every_change_another():
    first = gather(load_study(SUITES / "ablate-pmod-components.yaml"), exam=exam(), **NOTHING)
    second = gather(load_study(SUITES / "ablate-pmod-schedule.yaml"), exam=exam(), **NOTHING)
    shared = {j.folder for j, _ in first.values()} & {j.folder for j, _ in second.values()}
    assert len(shared) == 3 * 8  # dense, constant and cosine, eight seeds
    figure = gather(load_study(SUITES / "pmod-figure3.yaml"), exam=exam(), **NOTHING)
    trained = unique(figure.values())
    assert len(trained) == 2 * 8
    assert sorted(len(job.tests) for job in trained) == [1] * 8 + [7] * 8
    other = gather(
        load_study(SUITES / "pmod-figure3.yaml"), exam=exam(), **{**NOTHING, "start": "z"}
    )
    assert not {j.folder for j, _ in figure.values()} & {j.folder for j, _ in other.values()}


# --- a file that is wrong -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": []}, "no list of arms"),
        ({"armz": 1}, "unknown key 'armz'.*arms"),
        ({"arms": [{"name": "a"}]}, "arm lacks 'train'"),
        ({"arms": GOOD["arms"] + [{"name": "a", "train": "mod"}]}, "'a' stands twice"),
        ({"claims": [{**GOOD["claims"][0], "worse": "c"}]}, "unknown arm 'c'"),
        ({"claims": [{**GOOD["claims"][0], "kind": "bigger"}]}, "unknown kind of claim 'bigger'"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": 5}, "study: seeds: 5: .*tuple"),
        ({"looks": [5, 3]}, "no rising numbers of seeds from 2 on"),
        ({"looks": [1, 3]}, r"looks: \[1, 3\] are no rising"),
        ({"looks": [3, 5, 8], "seeds": [1, 2, 3]}, "last look is at 8 seeds and the study has 3"),
        ({"looks": 8}, "study: looks: 8: .*tuple"),
        ({"seeds": ["one"]}, "seeds.0: 'one': .*integer"),
        ({"settings": [1]}, "settings: .*dictionary"),
        ({"margin": "wide"}, "margin: 'wide': .*number"),
        ({"notes": "one text"}, "notes: 'one text': .*tuple"),
        ({"arms": [{"name": "a", "train": ["pmod"]}]}, "arm: train: .*string"),
        ({"arms": [3]}, "arm: '3' is not a mapping"),
        ({"paper_dense": "nan"}, "nan is not a finite number"),
    ],
)
def test_a_bad_study_is_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said) as error:
        load_study(write(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_recipe_key_that_is_none_is_refused(tmp_path):
    study = load_study(write(tmp_path, settings={"module_lr": 1.0}))
    with pytest.raises(UsageError, match="unknown key 'module_lr'"):
        gather(study, exam=exam(), **NOTHING)


@pytest.mark.parametrize(
    "arm", [{"train": "pmod:betta=1"}, {"train": "pmod", "stages": ["mod", "pmod:betta=1"]}]
)
def test_a_bad_method_of_an_arm_is_refused(tmp_path, arm):
    study = load_study(write(tmp_path, arms=[{"name": "a", **arm}], claims=[
        {"claim": "x", "kind": "overflow", "better": "a"}]))  # fmt: skip
    with pytest.raises(UsageError, match="unknown parameter 'betta'"):
        gather(study, exam=exam(), **NOTHING)


# --- from results to files ----------------------------------------------------------------------
@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A study whose results are all there: a scores 0.7, b 0.5, dense 0.9; seed 2 of c bursts."""
    place(tmp_path, monkeypatch)
    arms = [*GOOD["arms"], {"name": "c", "train": "pmod:norm=none"}]
    claims = [*GOOD["claims"], {"claim": "c bursts", "kind": "overflow", "better": "c"}]
    path = write(tmp_path, arms=arms, claims=claims)
    answer(load_study(path), {REFERENCE: 0.9, "a": 0.7, "b": 0.5, "c": 0.5})
    return path, tmp_path / "run"


def test_a_finished_study_writes_its_tables_without_training(finished, monkeypatch):
    path, out = finished
    settings = Settings(study=str(path), bench=BENCHES, limit=50, out=str(out), quiet=True)
    assert run(study_run.StudyJob(settings, ["--suite", str(path)])) == 0
    table = pd.read_csv(out / "study.csv").set_index(["arm", "bench"])
    scores = pd.read_csv(out / "study_scores.csv")
    by_bench = scores[scores["arm"] == "a"].groupby("bench")["score"].mean()
    assert table.loc[("a", "average"), "mean"] == pytest.approx(by_bench.mean())
    assert table.loc[("a", "gqa"), "mean"] == pytest.approx(by_bench["gqa"])
    assert table.loc[("c", "average"), "status"] == "partial"
    assert "seed 2: overflow: loss is nan at step 7" in table.loc[("c", "average"), "error"]
    claims = pd.read_csv(out / "study_claims.csv").set_index("claim")
    assert claims.loc["a beats b", "verdict"] == "reproduced"
    assert claims.loc["c bursts", "verdict"] == "inconclusive"  # one of three runs
    assert claims.loc["c bursts", "reason"] == "1 of 3 runs overflowed"
    away = scores.groupby(["arm", "bench"])["score"].mean()
    expected = (away["a"] - away["b"]).mean()
    assert claims.loc["a beats b", "difference"] == pytest.approx(expected)
    runs = pd.read_csv(out / "study_runs.csv")
    assert len(runs) == 4 * 3
    before = (out / "study.csv").read_bytes()
    without_report(monkeypatch)
    assert run(study_run.StudyJob(settings, ["--suite", str(path)])) == 0
    assert (out / "study.csv").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_another_study_in_the_same_folder_is_refused(finished):
    path, out = finished
    common = {"study": str(path), "out": str(out), "quiet": True}
    settings = Settings(bench=BENCHES, limit=50, **common)
    assert run(study_run.StudyJob(settings, [])) == 0
    with pytest.raises(UsageError, match="choose another --out"):
        run(study_run.StudyJob(Settings(bench=("gqa",), limit=50, **common), []))


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_an_edited_start_model_is_another(finished, tmp_path, monkeypatch):
    path, out = finished
    settings = Settings(study=str(path), bench=BENCHES, limit=50, out=str(out), quiet=True)
    assert run(study_run.StudyJob(settings, [])) == 0
    before = gather(load_study(path), **study_run._how(settings, find_model("tiny-llava")))
    copy = shutil.copytree(SUITES.parent / "assets/tiny-llava", tmp_path / "copy")
    edit(copy / "generation_config.json", repetition_penalty=1.5)
    monkeypatch.setitem(catalog.MODELS, "tiny-llava", catalog.Entry(str(copy), "", mini=True))
    with pytest.raises(UsageError, match=r"generation_config\.json of tiny-llava changed"):
        run(study_run.StudyJob(settings, []))
    after = gather(load_study(path), **study_run._how(settings, find_model("tiny-llava")))
    folders = [{job.folder for job, _ in places.values()} for places in (before, after)]
    assert folders[0].isdisjoint(folders[1])


def test_a_flag_that_a_study_has_no_use_for_is_refused(capsys):
    from harness.command.cli import main

    assert main(["--suite", "ablate-pmod-beta", "--methods", "pmod"]) == 2
    assert "--methods has no meaning with a study" in capsys.readouterr().err


def test_a_study_is_listed_and_needs_benches(tmp_path):
    listing = subprocess.run(
        [sys.executable, "run_suite.py", "--list", "suites"],
        capture_output=True, text=True, check=True, cwd=SUITES.parent,
    ).stdout  # fmt: skip
    assert "ablate-pmod-components" in listing
    path = write(tmp_path)
    with pytest.raises(UsageError, match="needs bench"):
        run(study_run.StudyJob(Settings(study=str(path)), []))


# --- the scenes that a study trains on ----------------------------------------------------------
def test_scenes_that_were_drawn_otherwise_are_refused(tmp_path):
    place = study_run._how(Settings(study="", bench=BENCHES), find_model("tiny-llava"))
    drawn = {"n": 60000, "seed": 1, "rounds": 4, "hd": 0.0}
    assert place["scenes"] == "minidata train --n 60000 --seed 1 --rounds 4"
    (tmp_path / "images.npy").touch()
    for other in ({"rounds": 1}, {"hd": 0.1}, {"n": 100}):
        (tmp_path / "drawn.json").write_text(json.dumps({**drawn, **other}))
        with pytest.raises(UsageError, match="holds scenes drawn with"):
            study_run._draw(tmp_path)
    (tmp_path / "drawn.json").write_text(json.dumps(drawn))
    study_run._draw(tmp_path)


def drawn_now(folder, **drawn):
    about = {"n": 60000, "seed": 1, "hd": 0.0, **drawn}
    (folder / "drawn.json").write_text(json.dumps(about))


@pytest.mark.parametrize("left", [["images.npy"], ["images.npy", "drawing.lock"], []])
def test_scenes_whose_drawing_was_interrupted_are_drawn_again(tmp_path, monkeypatch, left):
    monkeypatch.setattr("harness.train.__main__.render", drawn_now)
    for name in left:
        (tmp_path / name).touch()
    study_run._draw(tmp_path)
    assert json.loads((tmp_path / "drawn.json").read_text())["rounds"] == 4


def test_whole_scenes_of_others_are_never_drawn_over(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.train.__main__.render", None)
    np.save(tmp_path / "images.npy", np.zeros((2, 4, 4, 3), dtype=np.uint8))
    (tmp_path / "scenes.jsonl").write_text("{}\n{}\n")
    with pytest.raises(UsageError, match="holds scenes drawn with unknown settings"):
        study_run._draw(tmp_path)
    (tmp_path / "drawing.lock").touch()  # ours, stopped before the note
    monkeypatch.setattr("harness.train.__main__.render", drawn_now)
    study_run._draw(tmp_path)
    assert (tmp_path / "drawn.json").exists()


def test_a_study_trains_on_the_questions_of_the_shipped_methods():
    study = load_study(SUITES / "ablate-pmod-beta.yaml")
    job, _ = gather(study, exam=exam(), **NOTHING)["β = 0.5", 1]
    shipped = Recipe.load(SUITES.parent / "recipes/tiny/pmod.yaml")
    for name in ("families", "forms", "short"):
        assert getattr(job.recipe, name) == getattr(shipped, name) != getattr(Recipe("tune"), name)


def test_studies_spell_one_method_one_way_so_that_its_trainings_are_shared():
    spelled: dict[str, set[str]] = {}
    for study in map(load_study, STUDIES):
        for spec in {s for arm in study.everyone for s in (arm.train, *arm.stages)}:
            spelled.setdefault(methods.parse(spec).spec, set()).add(spec)
    assert [names for names in spelled.values() if len(names) > 1] == []
