"""Two evaluations compared: the bootstrap against scipy's, what is refused, what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.unit.test_report import read
from ufo_tune import cli
from ufo_tune.config import Protocol
from ufo_tune.engine.compare import Difference, compare, pairs
from ufo_tune.engine.compare_report import rows, write_comparison
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.predictions import Stored
from ufo_tune.errors import EvalError

COUNT = 40


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """A function that evaluates the stub model, spoilt or not, on 40 samples of 20 pictures."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "fixtures" / "plugins"))
    monkeypatch.chdir(tmp_path)
    from made_eval.model import Model

    class Better(Model):
        """Off by 4 pixels where i % 4 == 1, and never unreadable."""

        def answer(self, sample) -> str:
            number = int(sample.text.split()[1])
            return ",".join(str(v + (4 if number % 4 == 1 else 0)) for v in sample.targets.boxes[0].tolist())

    def scored(name: str, better: bool = False, limit: int = 0, **changes: object) -> Path:
        Path("made.yaml").write_text("task: made_eval.point\nquestions: ['{phrase}?']\neval_question: '{phrase}?'\n")
        document = {
            "task": "made_eval.point",
            "template": "made.yaml",
            "dataset": "made_eval.boxes",
            "options": {"count": COUNT},
            "splits": ["test"],
            "metric": "rec_accuracy",
        }
        out = tmp_path / name
        evaluate((Better if better else Model)(), Protocol.from_dict(document | changes), limit=limit, out=out)
        return out

    return scored


def ious(folder: Path) -> np.ndarray:
    """Of 8 x 8 boxes moved along the diagonal, by hand from what was written: [COUNT]."""
    found = []
    for i in range(COUNT):
        (box, *_) = [*Stored(folder / "test")[f"made/test#{i}"]["boxes"], None]
        shared = 0 if box is None else max(0.0, 8 - abs(box[0] - i)) ** 2
        found.append(shared / (128 - shared))
    return np.array(found)


def by_name(found: list[Difference]) -> dict[str, Difference]:
    return {d.value: d for d in found}


def test_interval_is_that_of_scipy(scored):
    a, b = scored("a"), scored("b", better=True)
    found = by_name(compare(a, b, resamples=1000, progress=False))
    assert list(found) == ["Acc@0.5", "mean_IoU"]
    ours, theirs = ious(a), ious(b)
    for name, values in (("mean_IoU", (ours, theirs)), ("Acc@0.5", (ours >= 0.5, theirs >= 0.5))):
        d = found[name]
        per_picture = [v.astype(float).reshape(-1, 2).mean(1) for v in values]  # two samples each
        assert (d.a, d.b) == pytest.approx([v.mean() for v in per_picture])
        assert d.difference == pytest.approx(d.b - d.a)
        want = stats.bootstrap(
            per_picture,
            lambda x, y, axis: (y - x).mean(axis=axis),
            paired=True,
            method="percentile",
            n_resamples=20000,
            rng=np.random.default_rng(7),
        )
        interval = want.confidence_interval
        assert (d.low, d.high) == pytest.approx((interval.low, interval.high), abs=0.025)
        assert d.not_above == pytest.approx((want.bootstrap_distribution <= 0).mean(), abs=0.03)
        assert (d.n, d.pictures, d.resamples) == (COUNT, COUNT // 2, 1000)
        assert d.clear == (interval.low > 0)


def test_seed_and_direction(scored):
    a, b = scored("a"), scored("b", better=True)
    once, again = (compare(a, b, resamples=60, progress=False) for _ in range(2))
    assert once == again
    assert once != compare(a, b, resamples=60, seed=1, progress=False)
    back = by_name(compare(b, a, resamples=60, progress=False))["mean_IoU"]
    forth = by_name(once)["mean_IoU"]
    assert (back.difference, back.low, back.high) == pytest.approx((-forth.difference, -forth.high, -forth.low))


def test_equal_answers_differ_by_nothing(scored):
    a = scored("a")
    shutil.copytree(a, a.parent / "b")
    for d in compare(a, a.parent / "b", resamples=50, progress=False):
        assert (d.difference, d.low, d.high, d.not_above, d.clear) == (0, 0, 0, 1, False)


def test_average_precision_is_computed_anew(scored, tmp_path):
    """AP is no mean over samples: every resample goes through COCO's evaluation, which the whole is checked against."""
    options = {"metric": "coco_ap", "options": {"count": COUNT}, "metric_options": {"class_agnostic": True}}
    a, b = scored("a", **options), scored("b", better=True, **options)
    found = by_name(compare(a, b, resamples=50, progress=False))
    assert found["AP50"].n == COUNT and found["AP50"].low < found["AP50"].difference < found["AP50"].high
    assert "APl" not in found  # there is no large object, which is no difference of 0
    assert found["AP50"].b == pytest.approx(_ap(ious(b)), abs=0.01)
    assert found["AP50"].a == pytest.approx(_ap(ious(a)), abs=0.01)


def _ap(overlaps: np.ndarray) -> float:
    """101-point AP at IoU 0.5 of one box a picture by its definition; scores are equal, so the order is by source."""
    order = sorted(range(COUNT), key=lambda i: f"made/test#{i}")
    said = [i for i in order if overlaps[i] > 0 or i % 5 != 4]
    right = np.cumsum([overlaps[i] >= 0.5 for i in said])
    precision = right / np.arange(1, len(said) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = right / COUNT
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[k] if k < len(precision) else 0.0 for k in at]))


def test_what_cannot_be_compared_is_refused(scored, tmp_path):
    a = scored("a")
    with pytest.raises(EvalError, match="nowhere: is no finished evaluation"):
        compare(a, tmp_path / "nowhere")
    with pytest.raises(EvalError, match=r"another metric \(got rec_accuracy and coco_ap\)"):
        compare(a, scored("b", metric="coco_ap", metric_options={"class_agnostic": True}))
    with pytest.raises(EvalError, match=r"another options \(got .'count': 40. and .'count': 30.\)"):
        compare(a, scored("c", options={"count": 30}))
    with pytest.raises(EvalError, match=r"not the same samples \(got 40 and 10, made/test#10 in one of them"):
        compare(a, scored("d", limit=10))
    with pytest.raises(EvalError, match="nothing in common"):
        compare(a, scored("e", splits=["val"]))
    (a / "test" / "unfinished.json").write_text("{}")
    with pytest.raises(EvalError, match="is not finished"):
        compare(a, a)
    whole = (a / "metrics.json").read_bytes()
    for damaged, says in (
        (whole[: len(whole) // 2], "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[]", "is no scores of ours"),
        (b'{"protocol": 3}', "is no scores of ours"),
    ):
        (a / "metrics.json").write_bytes(damaged)
        with pytest.raises(EvalError, match=rf"metrics.json: {says} \(got.*ufo-tune eval"):
            compare(a, a)


def test_other_decoding_and_limit_may_be_compared(scored):
    a, b = scored("a", limit=8), scored("b", limit=8, decode={"batch_size": 3})
    assert {d.n for d in compare(a, b, resamples=50, progress=False)} == {8}


def test_folders_of_several_protocols(scored, tmp_path):
    for side in ("left", "right"):
        for name in ("x", "y"):
            scored(f"{side}/{name}", better=side == "right", limit=6)
        document = {"checkpoint": side, "protocols": {"x": {}, "y": {}}}
        (tmp_path / side / "metrics.json").write_text(json.dumps(document))
    found = pairs(tmp_path / "left", tmp_path / "right")
    assert [(p.name, p.split) for p in found] == [("x", "test"), ("y", "test")]
    assert len(pairs(tmp_path / "left" / "x", tmp_path / "right" / "y")) == 1  # names do not matter for one


def test_page(scored, tmp_path):
    a, b = scored("a"), scored("b", better=True)
    found = compare(a, b, resamples=50, progress=False)
    page = write_comparison(found, a, b, tmp_path / "out")
    said = "".join(read(page.read_text("utf-8")).text)
    assert "B - A" in said and "95 % interval" in said and "score of B far above A" in said
    assert all((tmp_path / "out" / "pictures").joinpath(p.name).stat().st_size for p in tmp_path.glob("out/pictures/*"))
    # Six of those that were unreadable before and are right now: IoU 0 to 1, where a moved box gains 6/7.
    ups = sorted(int(p.stem.rpartition("_")[2]) for p in tmp_path.glob("out/pictures/*_up_*"))
    assert len(ups) == 6 and all(i % 5 == 4 and i % 4 != 1 for i in ups)
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [d["value"] for d in written["differences"]] == ["Acc@0.5", "mean_IoU"]
    assert {row[""] for row in rows(found)} <= {"clear", "may be luck", "equal"}


def test_command(scored, capsys, tmp_path):
    a, b = map(str, (scored("a"), scored("b", better=True)))
    assert cli.main(["eval", "--compare", a, b, "--resamples", "50", "--json"]) == 0
    (first, second) = json.loads(capsys.readouterr().out)
    assert first["value"] == "Acc@0.5" and first["low"] <= first["difference"] <= first["high"] and "clear" in first
    assert cli.main(["eval", "--compare", a, b, "--resamples", "50", "--out", str(tmp_path / "o")]) == 0
    out = capsys.readouterr().out
    assert f"B - A {second['difference']:+.4f}  95 % [" in out and "50 resamples; n 40" in out
    assert (tmp_path / "o" / "compare.html").is_file()
    for arguments, says in (
        (["eval"], "needs a checkpoint and --suite NAME, or --compare A B"),
        (["eval", "ckpt"], "needs a checkpoint and --suite NAME, or --compare A B"),
        (["eval", "ckpt", "--compare", a, b], "--compare takes two evaluated folders"),
        (["eval", "--compare", a, b, "--resamples", "-1"], "--resamples must not be negative"),
    ):
        assert cli.main(arguments) == 2
        assert says in capsys.readouterr().err
