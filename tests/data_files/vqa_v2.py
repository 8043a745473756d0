"""VQA v2.0's questions and annotations (visualqa.org, "Download", input and annotation format)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, write_json

SAID = {
    262148000: (262148, "Where is he looking?", ["up", *["down"] * 6, "up", "ramp", "down"]),
    262148001: (262148, "What are the people doing?", ["spectating"] * 4 + ["watching"] * 6),
    393225000: (393225, "Is this a creamy soup?", ["no"] * 9 + ["yes"]),
}  # fmt: skip
"""Id -> image, question, ten answers."""


def questions() -> dict[str, Any]:
    """The file of questions, in another order than the annotations."""
    rows = [{"image_id": i, "question": q, "question_id": id} for id, (i, q, _) in reversed(SAID.items())]
    return {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "questions": rows}


def annotations() -> dict[str, Any]:
    """The file of answers."""
    rows = [
        {
            "question_type": "what", "multiple_choice_answer": max(set(said), key=said.count), "answer_type": "other",
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(said, 1)],
            "image_id": image, "question_id": id,
        }
        for id, (image, _, said) in SAID.items()
    ]  # fmt: skip
    return {"info": {}, "license": {}, "data_subtype": "val2014", "data_type": "mscoco", "annotations": rows}


def make(folder: Path) -> Call:
    """Both files of val2014 and its images."""
    for number, image in enumerate({image for image, _, _ in SAID.values()}):
        picture(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg", number)
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", questions())
    write_json(folder / "v2_mscoco_val2014_annotations.json", annotations())
    return str(folder), "val2014", {}
