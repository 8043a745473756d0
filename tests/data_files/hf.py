"""A dataset of Hugging Face, saved to disk."""

from __future__ import annotations

from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from tests.data_files import Call, picture


def table(folder: Path) -> Dataset:
    """Two images, objects and a question each."""
    features = Features(
        {
            "image": Image(),
            "image_id": Value("int64"),
            "objects": {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=["cup", "plate"]))},
            "question": Value("string"),
            "answer": Value("string"),
        }
    )
    columns = {
        "image": [str(picture(folder / "source" / f"{n}.png", n)) for n in (0, 1)],
        "image_id": [7, 9],
        "objects": [{"bbox": [[5, 6, 15, 18], [30, 10, 50, 30]], "category": [0, 1]}, {"bbox": [], "category": []}],
        "question": ["What is it?", "How many?"],
        "answer": ["A cup.", "None"],
    }
    return Dataset.from_dict(columns, features=features)


def make(folder: Path) -> Call:
    """``saved/train``."""
    DatasetDict({"train": table(folder)}).save_to_disk(str(folder / "saved"))
    return str(folder / "saved"), "train", {}
