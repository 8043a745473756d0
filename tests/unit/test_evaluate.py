"""The evaluator with a made-up task, dataset and model: what is asked, what is written, what is resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from ufo_tune import cli, resources
from ufo_tune.config import Protocol
from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.engine import predictions, report
from ufo_tune.engine.answering import batched, grouped
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.predictions import cases
from ufo_tune.engine.suites import parse_suites
from ufo_tune.errors import ConfigError, DataError, EvalError
from ufo_tune.plugins import find

# sample i: IoU 1, of boxes 8x8 moved by (4, 4) 16/112, unreadable 0
IOUS = [0 if i % 5 == 4 else 1 / 7 if i % 3 == 1 else 1 for i in range(7)]


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The stub plug-ins on the path, and a function that builds their protocol."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "fixtures" / "plugins"))
    from made_eval.model import Model

    def protocol(position: str = "after", **changes: object) -> Protocol:
        template = tmp_path / "made.yaml"
        text = {"task": "made_eval.point", "questions": ["{phrase}?"], "eval_question": "{phrase}?"}
        template.write_text(yaml.safe_dump(text | {"image_position": position}))
        document = {
            "task": "made_eval.point",
            "template": str(template),
            "dataset": "made_eval.boxes",
            "splits": ["test"],
            "metric": "rec_accuracy",
            "decode": {"batch_size": 2},
            "reference": [{"model": "Someone 7B", "split": "test", "Acc@0.5": 0.9, "source": "a paper"}],
        }
        return Protocol.from_dict(document | changes)

    return Model, protocol


def test_values_and_mode(made):
    model, protocol = made[0](), made[1]()
    model.train()
    values = evaluate(model, protocol, progress=False)["test"]
    assert values["mean_IoU"] == pytest.approx(sum(IOUS) / 7)
    assert values["Acc@0.5"] == pytest.approx(5 / 7)
    assert (values["n"], values["invalid"]) == (7, 1)
    assert [len(b) for b in model.batches] == [2, 2, 2, 1]
    assert not any(model.modes) and model.training  # evaluated in eval mode, handed back as it was


def test_limit_and_splits(made):
    results = evaluate(made[0](), made[1](splits=["val", "test"]), limit=3, progress=False)
    assert list(results) == ["val", "test"]
    assert results["val"]["n"] == results["test"]["n"] == 3


def test_packing_joins_samples_of_one_image(made):
    model = made[0]()
    values = evaluate(model, made[1]("before", pack=2), progress=False)["test"]
    assert [[len(row) for row in batch] for batch in model.batches] == [[2, 2], [2, 1]]
    assert values["mean_IoU"] == pytest.approx(sum(IOUS) / 7)


def test_packing_needs_the_image_first(made):
    with pytest.raises(ConfigError, match="pack needs a template with image_position: before"):
        evaluate(made[0](), made[1](pack=2), progress=False)


def test_options_are_checked_and_reach_decode(made):
    values = evaluate(made[0](), made[1](task_options={"shift": 100.0}), progress=False)["test"]
    assert values["mean_IoU"] == 0.0
    with pytest.raises(ConfigError, match=r"shfit.*did you mean 'shift'"):
        evaluate(made[0](), made[1](task_options={"shfit": 1.0}), progress=False)
    with pytest.raises(ConfigError, match="metrics/rec_accuracy.threshold: no such option"):
        evaluate(made[0](), made[1](metric_options={"threshold": 1.0}), progress=False)


def test_two_samples_with_one_source_are_refused(made):
    with pytest.raises(EvalError, match="made/test#0: 7 samples have this source"):
        evaluate(made[0](), made[1](options={"doubles": True}), progress=False)


def test_files(made, tmp_path):
    out = tmp_path / "out"
    results = evaluate(made[0](), made[1](), out=out, progress=False)
    document = json.loads((out / "metrics.json").read_text())
    assert document["splits"] == results
    assert document["protocol"]["reference"][0]["model"] == "Someone 7B"
    rows = [json.loads(line) for line in (out / "test" / "predictions.jsonl").read_text().splitlines()]
    assert [r["source"] for r in rows] == [f"made/test#{i}" for i in range(7)]
    assert rows[4]["answers"] == ["no idea"] and rows[4]["invalid"] == 1
    assert rows[0]["boxes"] == [[0, 0, 8, 8]]
    samples = find("datasets", "made_eval.boxes").load("", "test", task="made_eval.point")
    assert [case.answers for case in cases(samples, out / "test", [0, 4])] == [(), ("no idea",)]
    assert (rows[0]["said"], rows[0]["malformed"]) == (1, 0)
    assert document["codec"] == Codec().to_dict()
    assert not (out / "test" / "unfinished.json").exists()


def test_a_folder_that_cannot_be_one(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/below: lies below a file"):
        evaluate(made[0](), made[1](), out=tmp_path / "file" / "below", progress=False)


def test_resume_asks_only_what_is_missing(made, tmp_path):
    Model, protocol = made[0], made[1]()
    whole = evaluate(Model(), protocol, out=str(tmp_path / "whole"), progress=False)["test"]  # a str, too
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Model(die_after=2), protocol, out=out, progress=False)
    path = out / "test" / "predictions.jsonl"
    path.write_text(path.read_text() + '{"source": "made/te')  # killed in the middle of a line
    again = Model()
    values = evaluate(again, protocol, out=out, progress=False)["test"]
    assert [s for b in again.batches for row in b for s in row] == [f"made/test#{i}" for i in (4, 5, 6)]
    assert {k: v for k, v in values.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}
    for name in ("predictions.jsonl", "analysis.json"):
        assert (out / "test" / name).read_bytes() == (tmp_path / "whole" / "test" / name).read_bytes()


def test_killed_in_the_second_protocol_the_first_is_not_asked_again(made, tmp_path, monkeypatch):
    from ufo_tune.engine import evaluate as engine

    Model, protocol = made
    names = {"one": protocol(), "two": protocol(options={"count": 5})}
    monkeypatch.setattr(engine, "parse_suites", lambda _: names)
    models = [Model(die_after=6), Model(), Model()]
    monkeypatch.setattr(engine, "load", lambda _: SimpleNamespace(to=lambda _: models.pop(0)))
    first, second = models[:2]
    with pytest.raises(KeyboardInterrupt):
        engine.evaluate_checkpoint("x", "one,two", out=tmp_path, progress=False)
    assert len(first.batches) == 6  # four of the first protocol, two of the three of the second
    results = engine.evaluate_checkpoint("x", "one,two", out=tmp_path, progress=False)
    assert second.batches == [[["made/test#4"]]]
    assert results["one"]["test"]["n"] == 7 and results["two"]["test"]["n"] == 5
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["protocols"] == results and set(document["sanity"]) == {"one", "two"}
    html = (tmp_path / "report.html").read_text()
    assert "one, test: sanity" in html and "two, test: the worst" in html


def test_command_prints_values_and_sanity(made, tmp_path, monkeypatch, capsys):
    from ufo_tune.engine import evaluate as engine

    monkeypatch.setattr(engine, "parse_suites", lambda _: {"one": made[1]()})
    monkeypatch.setattr(engine, "load", lambda _: SimpleNamespace(to=lambda _: made[0]()))
    command = ["eval", "run", "--suite", "one", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "one test  Acc@0.5 0.7143  mean_IoU 0.7347  n 7  invalid 1" in out
    assert "one test  WARNING  unreadable answers: 14.3% (1 of 7)" in out
    assert "one test  ok       boxes without area: 0.0% (0 of 6)" in out
    assert f"weights: {predictions.fingerprint(made[0]())}" in out and "report.html" in out
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "metrics.json").read_text())


def test_a_model_that_always_says_the_same_is_told_so(made, tmp_path):
    Model, protocol = made

    class Stuck(Model):
        def answer(self, sample):
            return "40,0,41,1"  # no box is there

    for model, suspicious in ((Model(), ["unreadable answers"]), (Stuck(), ["commonest answer", "constant answer"])):
        evaluate(model, protocol(options={"count": 30}), out=tmp_path / "x", progress=False)
        lines = json.loads((tmp_path / "x" / "metrics.json").read_text())["sanity"]["test"]
        assert [line["name"] for line in lines if line["warning"]] == suspicious
        html = report.write_evaluation(tmp_path, "x", {"x": tmp_path / "x"}).read_text()
        assert html.count("WARNING") == len(suspicious)


def test_unfinished_predictions_of_other_weights_or_protocol_never_mix(made, tmp_path):
    Model, protocol = made
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Model(die_after=1), protocol(), out=out, progress=False)
    other = Model()
    with torch.no_grad():
        other.weight[1] += 1e-3
    with pytest.raises(EvalError, match=r"unfinished predictions of another run \(got another weights\)"):
        evaluate(other, protocol(), out=out, progress=False)
    with pytest.raises(EvalError, match=r"got another protocol"):
        evaluate(Model(), protocol(task_options={"shift": 1.0}), out=out, progress=False)
    evaluate(Model(), protocol(splits=["val", "test"], description="more"), out=out, progress=False)


def test_a_finished_evaluation_is_done_again(made, tmp_path):
    Model, protocol = made
    for model, limit in ((Model(), 0), (Model(), 3)):
        evaluate(model, protocol(), limit=limit, out=tmp_path, progress=False)
        assert sum(map(len, model.batches)) == (limit or 7)
    assert len((tmp_path / "test" / "predictions.jsonl").read_text().splitlines()) == 3


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"source": "a"}\n{"source"\n{"source": "b"}\n')
    with pytest.raises(EvalError, match=r'predictions.jsonl:2: is no prediction \(got {"source"\)'):
        predictions.Stored(tmp_path)


def test_a_row_cut_inside_a_character_is_left_out(tmp_path):
    path = tmp_path / "predictions.jsonl"
    whole = b'{"source": "a"}\n'
    path.write_bytes(whole + '{"source": "b", "text": "\u201c'.encode()[:-1])
    assert dict(predictions.Stored(tmp_path)) == {"a": {"source": "a"}}


def test_join_may_be_done_twice_and_keeps_the_order_of_the_dataset(tmp_path):
    line = '{{"source": "{}"}}\n'.format
    part = tmp_path / "predictions.1.jsonl"
    for _ in range(2):  # the second time a killed join left the part behind
        if not (tmp_path / "predictions.jsonl").exists():
            (tmp_path / "predictions.jsonl").write_text(line("c") + line("a"))
        part.write_text(line("b") + line("a"))
        predictions.join(tmp_path, ["a", "b", "c"])
        assert (tmp_path / "predictions.jsonl").read_text() == line("a") + line("b") + line("c")
        assert [p.name for p in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_rows_round_trip_through_json():
    bitmaps = np.random.default_rng(0).random((2, 9, 11)) < 0.5
    prediction = Prediction(
        boxes=torch.rand(2, 4),
        masks=masks.encode_many(bitmaps),
        scores=torch.rand(2),
        labels=torch.tensor([3, 0]),
        label_map=np.arange(99, dtype=np.int16).reshape(9, 11),
        depth=np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11),
        text="two “things”",
        invalid=2,
    )
    sample = Sample(np.zeros((9, 11, 3), np.uint8), (9, 11), "any", source="x#1")
    back = predictions.from_row(json.loads(json.dumps(predictions.to_row(sample, prediction, ["?"]))))
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(back, name), getattr(prediction, name))
    assert np.array_equal(masks.decode_many(back.masks), bitmaps)
    assert np.array_equal(back.label_map, prediction.label_map) and np.array_equal(back.depth, prediction.depth)
    assert (back.text, back.invalid) == (prediction.text, 2)
    empty = predictions.from_row(json.loads(json.dumps(predictions.to_row(sample, Prediction()))))
    assert empty.boxes.shape == (0, 4) and empty.masks is None


def test_fingerprint_sees_one_changed_value_of_a_small_model():
    model = torch.nn.Linear(4, 4)
    before = predictions.fingerprint(model)
    assert predictions.fingerprint(model) == before
    with torch.no_grad():
        model.bias[2] += 1
    assert predictions.fingerprint(model) != before


def test_suites(tmp_path):
    document = {"task": "rec", "dataset": "d", "splits": ["val", "testA"], "metric": "rec_accuracy"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(document))
    assert parse_suites(f"{file}:testA")["mine"].splits == ("testA",)
    assert parse_suites([str(file)])["mine"].splits == ("val", "testA")
    assert parse_suites(f"{file}:testA, {file}:val,")["mine"].splits == ("testA", "val")
    with pytest.raises(ConfigError, match=r"no such split \(got 'testa'\); did you mean 'testA'"):
        parse_suites(f"{file}:testa")
    with pytest.raises(ConfigError, match="names no protocol"):
        parse_suites(" , ")


def test_report_shows_ours_and_references_and_escapes(made, tmp_path):
    out = tmp_path / "out"
    evaluate(made[0](), made[1](description="<script>alert(1)</script>"), out=out / "made", progress=False)
    html = report.write_evaluation(out, "runs/x & y", {"made": out / "made"}).read_text()
    assert 'src="made/test/pictures/best_00.jpg"' in html and "thing 0" in html and "(mean_IoU 1.00)" in html
    drawn = sorted(p.name for p in (out / "made" / "test" / "pictures").glob("*.jpg"))
    assert drawn == [
        f"{kind}_{i:02d}.jpg" for kind, n in (("best", 3), ("unreadable", 1), ("worst", 3)) for i in range(n)
    ]
    captions = json.loads((out / "made" / "test" / "pictures" / "captions.json").read_text())
    assert [c.partition(":")[0] for c in captions.values()] == [f"\u201cthing {i}\u201d" for i in (0, 2, 3, 1, 6, 5, 4)]
    assert "made, test: sanity" in html and "by size and length" in html and "mean_IoU of all samples" in html
    assert "Someone 7B" in html and "a paper" in html and "0.900" in html and "0.714" in html
    assert "<script>" not in html and "runs/x &amp; y" in html


def test_scores_of_an_earlier_call_stay_beside_new_ones(made, tmp_path, monkeypatch):
    """One split, then another, then another protocol: all are there; another limit starts over."""
    from ufo_tune.engine import evaluate as engine

    Model, protocol = made
    monkeypatch.setattr(engine, "load", lambda _: SimpleNamespace(to=lambda _: Model()))

    def scored(name: str, limit: int = 0, **changes: object) -> dict[str, list[str]]:
        monkeypatch.setattr(engine, "parse_suites", lambda _: {name: protocol(**changes)})
        engine.evaluate_checkpoint("x", name, limit=limit, out=tmp_path / "out", progress=False)
        document = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert set(document["sanity"]) == set(document["protocols"])
        return {k: list(v) for k, v in document["protocols"].items()}

    assert scored("one") == {"one": ["test"]}
    scored("one", splits=["val"])
    own = json.loads((tmp_path / "out" / "one" / "metrics.json").read_text())
    assert list(own["splits"]) == own["protocol"]["splits"] == list(own["sanity"]) == ["test", "val"]
    assert scored("two", options={"count": 5}) == {"one": ["test", "val"], "two": ["test"]}
    html = (tmp_path / "out" / "report.html").read_text()
    assert all(f"{shown}: sanity" in html for shown in ("one, test", "one, val", "two, test"))
    assert scored("two", limit=3, options={"count": 5}) == {"two": ["test"]}


def test_what_the_last_protocol_lacks_is_told_before_the_first_is_asked(made, tmp_path, monkeypatch):
    from ufo_tune.engine import evaluate as engine

    Model, protocol = made
    lacking = protocol(dataset="jsonl", task="res", template="", root=str(tmp_path / "none"), metric="seg_iou")
    monkeypatch.setattr(engine, "parse_suites", lambda _: {"one": protocol(), "two": lacking})
    model = Model()
    monkeypatch.setattr(engine, "load", lambda _: SimpleNamespace(to=lambda _: model))
    with pytest.raises(DataError, match="none"):
        engine.evaluate_checkpoint("x", "one,two", out=tmp_path, progress=False)
    assert model.batches == []


def test_protocols_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(resources.locate("eval", "scenes_rec"), tmp_path / folder / "mine.yaml")
    with pytest.raises(ConfigError, match=r"two protocols are called mine \(got .*a/mine.yaml and .*b/mine.yaml\)"):
        parse_suites(f"{tmp_path}/a/mine.yaml:test,{tmp_path}/b/mine.yaml:val")


def test_scores_of_a_published_model_lie_beside_no_folder_of_its_name(made, tmp_path, monkeypatch, capsys):
    from ufo_tune.engine import evaluate as engine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "parse_suites", lambda _: {"one": made[1]()})
    monkeypatch.setattr(engine, "load", lambda _: SimpleNamespace(to=lambda _: made[0]()))
    assert cli.main(["eval", "org/name", "--suite", "one"]) == 0
    assert (tmp_path / "eval_name" / "report.html").is_file() and not (tmp_path / "org").exists()


def test_samples_of_one_image_share_rows_by_hand():
    """Up to ``pack`` of one image in the order of the samples; an image without a name stands alone."""
    samples = [SimpleNamespace(image_id=name) for name in ("a", "b", "a", "", "", "a")]
    assert grouped(samples) == [(i,) for i in range(6)] and grouped(samples, limit=2) == [(0,), (1,)]
    assert grouped(samples, pack=2) == [(0, 2), (5,), (1,), (3,), (4,)]
    assert grouped(samples, limit=3, pack=9) == [(0, 2), (1,)] and len(grouped(samples, limit=99)) == 6

    class Named(list):
        image_ids = ("a", "a", "b")

    assert grouped(Named([None] * 3), pack=2) == [(0, 1), (2,)], "no sample is opened where the dataset knows"
    assert batched([(0, 2), (5,), (1,)], 2) == [[(0, 2), (5,)], [(1,)]]
