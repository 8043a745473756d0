"""GQA's file of questions: an object whose keys are ids (cs.stanford.edu/people/dorarad/gqa, "Download")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, write_json

ASKED = {
    "201307251": ("n161313", "Is it overcast?", "no"),
    "201640614": ("n336443", "Who is wearing the dress?", "woman"),
    "202225914": ("n336443", "Which color is the dress?", "light blue"),
}


def questions() -> dict[str, Any]:
    """The file."""
    return {
        id: {
            "imageId": image, "question": question, "answer": answer, "fullAnswer": f"It is {answer}.",
            "isBalanced": True, "groups": {"global": None, "local": ""}, "entailed": [], "equivalent": [id],
            "types": {"structural": "query", "semantic": "attr", "detailed": ""}, "semantic": [], "semanticStr": "",
            "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
        }
        for id, (image, question, answer) in ASKED.items()
    }  # fmt: skip


def make(folder: Path) -> Call:
    """The file of testdev and ``images/``."""
    for number, image in enumerate({image for image, _, _ in ASKED.values()}):
        picture(folder / "images" / f"{image}.jpg", number)
    write_json(folder / "testdev_balanced_questions.json", questions())
    return str(folder), "testdev_balanced", {}
