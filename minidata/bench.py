"""Writes the mini benchmarks: parquet in upstream's schema plus scene, template and boxes."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from minidata import BENCHES, HD_BENCHES, build, hd, sources, tasks
from minidata.identity import LADDER
from minidata.rows import digest, without_pictures
from minidata.scene import Question

if TYPE_CHECKING:
    import pyarrow as pa

FAMILY = {
    "gqa": "objects",
    "scienceqa": "objects",
    "pope": "objects",
    "textvqa": "text",
    "chartqa": "chart",
    "docvqa": "doc",
}
HD_DOCUMENTS = 500
PER_SCENE, HD_PER_SCENE = 2, 3
QUALITY = 88
"""JPEG quality of the stored pictures."""

Row = dict[str, Any]


def write(out: Path, seed: int, cache: Path) -> None:
    """Write every benchmark under `out`, the task files, and `manifest.json` with the hashes."""
    pack = sources.load(cache)
    manifest: dict[str, Any] = {"version": tasks.VERSION, "seed": seed, "files": {}}
    pictures: dict[str, Row] = {}  # shared ones by scene
    for bench in HD_BENCHES + BENCHES:
        count = HD_DOCUMENTS if bench in HD_BENCHES else LADDER[-1]
        rows = documents(bench, seed, count, pack)
        table = _table(rows)
        path = tasks.data_file(bench, out)
        shared = bench in tasks.SHARED
        _save(without_pictures(table) if shared else table, path)
        pictures |= {r["scene_id"]: r["image"] for r in rows if shared}
        manifest["files"][bench] = {
            "path": path.relative_to(out).as_posix(),
            "documents": len(rows),
            "scenes": len({r["scene_id"] for r in rows}),
            **_pinned(path),
            "first": {str(n): digest(table, n) for n in LADDER if n <= len(rows)},
        }
        print(bench, manifest["files"][bench], flush=True)
    path = out / tasks.PICTURES
    _save(_table([{"scene_id": scene, "image": image} for scene, image in pictures.items()]), path)
    manifest["pictures"] = {
        "path": tasks.PICTURES.as_posix(),
        "scenes": len(pictures),
        **_pinned(path),
    }
    tasks.write(out / "tasks")
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def documents(bench: str, seed: int, count: int, pack: sources.Pack) -> list[Row]:
    """`count` test rows of a benchmark; question forms and answers kept as even as possible.

    Benchmarks of one picture family walk the same scenes, so vision features can be shared.
    """
    upstream = tasks.upstream(bench)
    rows: list[Row] = []
    used: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    seen: set[str] = set()
    index = 0
    most = HD_PER_SCENE if bench in HD_BENCHES else PER_SCENE
    while len(rows) < count:
        page = hd.page_of(index) if bench in HD_BENCHES else None
        scene = build.make(seed, index, True, pack, FAMILY[upstream], page=page)
        index += 1
        if scene.identifier in seen:
            continue
        seen.add(scene.identifier)
        picture = _jpeg(scene.image)
        boxes = json.dumps([b.as_json() for b in scene.boxes], separators=(",", ":"))
        asked = [q for q in scene.questions if q.bench == upstream]
        for _ in range(min(most, len(asked), count - len(rows))):
            question = min(asked, key=lambda q: (used[q.template], answers[q.template][q.answer]))
            # a second question of the same form about one picture would be nearly the first
            asked = [q for q in asked if q.template != question.template]
            used[question.template] += 1
            answers[question.template][question.answer] += 1
            row = _upstream(upstream, question, len(rows), scene)
            row |= {
                "image": {"bytes": picture, "path": f"{scene.identifier}.jpg"},
                "scene_id": scene.identifier,
                "template": question.template,
                "boxes": boxes,
                "evidence": question.evidence,
            }
            rows.append(row)
            if not asked:
                break
    return rows


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def _upstream(bench: str, q: Question, number: int, shown: build.Scene) -> Row:
    """The columns of the upstream dataset (hub names lmms-lab/GQA, textvqa, ScienceQA, ...)."""
    scene = shown.identifier
    if bench == "gqa":
        return {
            "id": str(number),
            "imageId": scene,
            "question": q.question,
            "answer": q.answer,
            "fullAnswer": q.answer,
            "isBalanced": True,
        }
    if bench == "textvqa":
        return {
            "image_id": scene,
            "question_id": number,
            "question": q.question,
            "question_tokens": q.question.lower().rstrip("?").split(),
            "image_width": shown.image.width,
            "image_height": shown.image.height,
            "image_classes": [],
            "answers": [q.answer] * 10,
            "answer": q.answer,
            "set_name": "val",
            "ocr_tokens": [],
        }
    if bench == "scienceqa":
        return {
            "question": q.question,
            "choices": q.choices,
            "answer": ord(q.answer) - ord("A"),
            "hint": "",
            "task": "closed choice",
            "grade": "",
            "subject": "natural science",
            "topic": "",
            "category": "",
            "skill": "",
            "lecture": "",
            "solution": "",
        }
    if bench == "pope":
        return {
            "id": str(number),
            "question_id": str(number),
            "question": q.question,
            "answer": q.answer,
            "image_source": scene,
            "category": "random",
        }
    if bench == "chartqa":
        kind = "augmented_test" if q.template == "value" else "human_test"
        return {"type": kind, "question": q.question, "answer": q.answer}
    return {
        "questionId": str(number),
        "question": q.question,
        "question_types": [q.template],
        "docId": number,
        "ucsf_document_id": scene,
        "ucsf_document_page_no": "1",
        "answers": [q.answer],
        "data_split": "val",
    }


def _pinned(path: Path) -> Row:
    return {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _table(rows: list[Row]) -> pa.Table:
    """`rows` with the types that the `datasets` library reads off the schema."""
    import pyarrow as pa
    from datasets import Features, List, Value
    from datasets import Image as ImageColumn

    def column(key: str, value: Any) -> Any:
        if key == "image":
            return ImageColumn()
        if isinstance(value, list):
            return List(Value("int64" if key == "evidence" else "string"))
        return Value({bool: "bool", int: "int64"}.get(type(value), "string"))

    features = Features({key: column(key, value) for key, value in rows[0].items()})
    return pa.Table.from_pylist(rows, schema=features.arrow_schema)


def _save(table: pa.Table, path: Path) -> None:
    """One row group, dictionary encoded, so that rows sharing a picture store it once."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=15,
        use_dictionary=True,
        dictionary_pagesize_limit=1 << 28,
        row_group_size=len(table),
    )
