"""Rows of JSON files one at a time: the same rows as ``json`` gives, whatever the window cuts, and where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ufo_tune.datasets import _json_rows as json_rows
from ufo_tune.errors import DataError

VALUE: dict[str, Any] = {
    "info": {"text": 'a "b" ]}, \\ \u00e9\u4e2d\U0001f600', "n": [1, [2, {}], -1.5e3, True, None]},
    "number": 1234567890,
    "a": [{"id": n, "name": "\u00e9" * (n % 7), "list": list(range(n % 11)), "in": {"k": "]"}} for n in range(200)],
    "empty": [],
    "b": [{"id": -n, "text": "x" * n} for n in range(60)],
}


def _write(path: Path, value: Any, **options: Any) -> Path:
    path.write_text(json.dumps(value, **options), encoding="utf-8")
    return path


@pytest.mark.parametrize("window", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_rows_are_those_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, ascii_only: bool, indent: int | None
) -> None:
    monkeypatch.setattr(json_rows, "_WINDOW", window)
    path = _write(tmp_path / "a.json", VALUE, ensure_ascii=ascii_only, indent=indent)
    found = list(json_rows.rows(path, "b", "a", "empty"))
    assert [(name, row) for name, _, _, row in found] == [(name, row) for name in ("a", "b") for row in VALUE[name]]
    data = path.read_bytes()
    assert all(json.loads(data[begin:end]) == row for _, begin, end, row in found)


def test_a_file_that_is_a_list(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.json", VALUE["a"])
    assert [(name, row) for name, _, _, row in json_rows.rows(path)] == [("", row) for row in VALUE["a"]]
    assert list(json_rows.rows(_write(tmp_path / "b.json", []))) == []


def test_a_mark_before_the_text_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": "é"}, {"a": 2}]', encoding="utf-8-sig")
    found = list(json_rows.rows(path))
    assert [row for *_, row in found] == [{"a": "é"}, {"a": 2}]
    places = json_rows.Places(path)
    for number, (_, begin, end, _) in enumerate(found):
        places.add(number, begin, end)
    assert list(places.read(np.arange(2))) == [[{"a": "é"}], [{"a": 2}]]


def test_groups(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.json", VALUE["a"])
    places = json_rows.Places(path)
    for _, begin, end, row in json_rows.rows(path):
        places.add(row["id"] % 3, begin, end)
    assert places.groups().tolist() == [n % 3 for n in range(200)]
    found = list(places.read(np.array([2, 7, 0])))
    assert found == [VALUE["a"][2::3], [], VALUE["a"][0::3]]
    assert list(json_rows.Places(path).read(np.array([1]))) == [[]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty .got 0 bytes"),
        (b'{"a": [{"id": 1}, {"id": 2]}', r"got, at byte 26: Expecting ',' delimiter"),
        (b'{"a": [{"id": 1}', r"got, at byte 16: the end where , should be"),
        (b'{"a": [{"id": 1} {"id": 2}]}', r"got, at byte 17: \{ where , should be"),
        (b'{"a": [{"id": 1}]} x', r"got, at byte 19: x where the end should be"),
        (b'{"b": [{"id": 1}]}', r"has no list 'a' .got b.; is this the right file"),
        (b'[{"id": 1}]', r"got, at byte 0: \[ where \{ should be"),
        (b'{"a": [1]}', r"a holds no objects .got 1"),
        (b'{"a": [{"id": "\xff"}]}', r"got, at byte 7: 'utf-8' codec can't decode"),
        (b'{"a": ' + b"[" * 100_000, r"got, at byte 7: lists in lists without end"),
        (b"PK\x03\x04", r"got, at byte 0: P where \{ should be"),
    ],
)
def test_faults_name_the_byte(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        list(json_rows.rows(path, "a"))


def test_text_that_is_no_json_does_not_draw_the_file_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "_WINDOW", 16)
    monkeypatch.setattr(json_rows, "_LONGEST", 64)
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [{"id": "' + b"x" * 4096 + b'"}]}')
    with pytest.raises(DataError, match="Unterminated string"):
        list(json_rows.rows(path, "a"))
