"""Caption scores against hand-worked cases, and against pycocoevalcap's own scorers and tokeniser where it is there.

To run those: ``pip install --target DIR --no-deps pycocoevalcap``, then pytest with DIR on PYTHONPATH; its tokeniser
also needs Java. ``METEOR_nltk`` needs the extra ``meteor`` and NLTK's WordNet data.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics import captions
from ufo_tune.metrics._ptb_words import words

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", "")) / "refcoco_minigpt4"
Pair = tuple[str, tuple[str, ...]]


def _values(*pairs: Pair) -> dict[str, float]:
    metric = captions.Metric()
    for number, (said, references) in enumerate(pairs):
        metric.update(_sample(*references, number=number), Prediction(text=said))
    return metric.compute()


def _sample(*references: str, number: int = 0) -> Sample:
    targets = Targets(text=references[0] if references else "", references=references)
    return Sample(None, (0, 0), "caption", targets=targets, source=f"made/test#{number}")


# ---- words: the right column is what Stanford's PTBTokenizer and COCO's list of punctuation leave ----


SENTENCES = [
    (
        "A man's dog can't jump (over) the fence; it's 3:30 p.m.",
        "a man 's dog ca n't jump -lrb- over -rrb- the fence it 's 3:30 p.m.",
    ),
    ("She'd've gone, you're here. Shouldn't I?", "she 'd 've gone you 're here should n't i"),
    ("it\u2019s \u201cblack&white\u201d \u2013 or AT&T\u2014", "it 's black & white or at&t"),
    ("a 2-year-old in a t-shirt", "a 2-year-old in a t-shirt"),
    ("men's/women's room, blue/green", "men 's / women 's room blue/green"),
    ("cannot gonna gotta wanna gimme", "can not gon na got ta wan na gim me"),
    ("$1.50, 5,000 people, 50% and #1 of 1/2", "$ 1.50 5,000 people 50 % and # 1 of 1/2"),
    ("10:30am at six o'clock, ma'am", "10:30 am at six o'clock ma'am"),
    ("O'Brien's rock 'n' roll of the '80s", "o'brien 's rock 'n' roll of the '80s"),
    ("cats' toys in the 1980's", "cats toys in the 1980 's"),
    ("Mr. Smith on Main St. and 5th Ave.", "mr. smith on main st. and 5th ave."),
    ("the U.S. Open in L.A.", "the u.s. open in l.a."),
    ("no parking. I said no.", "no parking i said no"),
    ("the no. 5 bus", "the no. 5 bus"),
    ("in lane D.", "in lane d."),
    ("wow!!! what?! wait.... no -- yes - no...", "wow !!! what ?! wait no yes no"),
    ("[a] {b} \"c\" 'd' `e`", "-lsb- a -rsb- -lcb- b -rcb- c 'd e"),
    ("a cat.A dog", "a cat.a dog"),
    ("x>y a=b c*d e_f", "x > y a = b c * d e_f"),
    ("a caf\u00e9 sign of \u65e5\u672c", "a caf\u00e9 sign of \u65e5\u672c"),
    ("\n  two\tspaces ", "two spaces"),
    (" . , ", ""),
]


@pytest.mark.parametrize(("text", "wanted"), SENTENCES)
def test_words_are_those_of_the_java_tokeniser(text, wanted):
    assert " ".join(words(text)) == wanted


def _coco_words(texts: list[str]) -> list[str]:
    if not shutil.which("java"):
        pytest.skip("there is no java for pycocoevalcap's tokeniser")
    tokenizer = pytest.importorskip(
        "pycocoevalcap.tokenizer.ptbtokenizer", reason="pycocoevalcap is not installed"
    ).PTBTokenizer()
    found = tokenizer.tokenize({i: [{"caption": " ".join(text.split())}] for i, text in enumerate(texts)})
    return [found[i][0] for i in range(len(texts))]


def test_the_java_tokeniser_says_so():
    assert _coco_words([text for text, _ in SENTENCES]) == [wanted for _, wanted in SENTENCES]


@pytest.mark.skipif(not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no refcoco_minigpt4")
def test_words_equal_pycocoevalcap_on_real_phrases():
    rows = (row for path in sorted(REAL.rglob("*.json")) for row in json.loads(path.read_text()))
    texts = sorted({" ".join(str(row["sents"]).split()) for row in rows if isinstance(row, dict) and "sents" in row})
    assert len(texts) > 20000
    wrong = [(t, w) for t, w in zip(texts, _coco_words(texts), strict=True) if words(t) != tuple(w.split())]
    assert not wrong


# ---- BLEU ----


def test_bleu_counts_a_word_as_often_as_one_reference_has_it():
    """The example of Papineni et al. 2002, section 2.1: 2 of 7 words; 7 words are as many as the second reference."""
    values = _values(("the " * 7, ("The cat is on the mat.", "There is a cat on the mat.")))
    assert values["BLEU-1"] == pytest.approx(2 / 7)
    assert values["BLEU-2"] == 0


def test_bleu_is_the_geometric_mean_of_precisions():
    values = _values(("one red cat sat", ("one red cat slept",)))  # 3/4, 2/3, 1/2, 0/1
    wanted = [3 / 4, (3 / 4 * 2 / 3) ** (1 / 2), (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3), 0]
    assert [values[f"BLEU-{n}"] for n in range(1, 5)] == pytest.approx(wanted)


def test_bleu_short_captions_pay():
    assert _values(("one cat", ("one cat sat here",)))["BLEU-2"] == pytest.approx(math.exp(1 - 4 / 2))


def test_bleu_takes_the_closest_reference_and_the_shorter_of_two():
    said = "one red cat sat"
    long, short = "one red cat sat on it all day", "one red cat"
    assert _values((said, (long, short)))["BLEU-4"] == pytest.approx(1)  # closest: 3 words
    five, three = "one red cat sat down", "big old dog"
    assert _values((said, (five, three)))["BLEU-1"] == pytest.approx(1)  # 5 and 3 are as close


def test_bleu_is_of_the_set_not_a_mean():
    """3 of 4 and 0 of 2 words are 3 of 6, not (3/4 + 0) / 2."""
    pairs = ("one red cat sat", ("one red cat slept",)), ("big dogs", ("small birds",))
    assert _values(*pairs)["BLEU-1"] == pytest.approx(3 / 6)


# ---- ROUGE-L ----


@pytest.mark.parametrize(
    ("said", "references", "wanted"),
    [
        ("police kill the gunman", ("police killed the gunman",), 3 / 4),  # Lin 2004, section 3.1
        ("the gunman kill police", ("police killed the gunman",), 2 / 4),
        ("one cat", ("one cat sat here",), 2.44 * 1 * 0.5 / (0.5 + 1.44 * 1)),
        # precision 2/2 of the first, recall 1/1 of the second
        ("one cat", ("one cat sat here", "cat"), 1.0),
        ("", ("one cat",), 0.0),
        ("dog", ("one cat",), 0.0),
    ],
)
def test_rouge_by_hand(said, references, wanted):
    assert _values((said, references))["ROUGE-L"] == pytest.approx(wanted)


# ---- CIDEr ----


def test_cider_by_hand():
    """Two images without a common word: all weights are log 2, which cancels; no 3-grams, so 2 of 4 orders."""
    assert _values(("red cat", ("red cat",)), ("blue dog", ("blue dog",)))["CIDEr"] == pytest.approx(5)
    assert _values(("blue dog", ("red cat",)), ("red cat", ("blue dog",)))["CIDEr"] == 0
    first = (2 / math.sqrt(2 * 3) + 1 / math.sqrt(1 * 2)) / 4 * math.exp(-(1**2) / 72) * 10
    longer = _values(("red cat", ("red cat sat",)), ("blue dog", ("blue dog",)))
    assert longer["CIDEr"] == pytest.approx((first + 5) / 2)


def test_cider_repeating_a_word_does_not_pay():
    """Weights 3 and 1: clipped 1 * 1 / (3 * 1); three words have two 2-grams, one has none."""
    values = _values(("red red red", ("red",)), ("blue dog", ("blue dog",)))
    assert values["CIDEr"] == pytest.approx((1 / 3 / 4 * math.exp(-(2**2) / 72) * 10 + 5) / 2)


def test_cider_words_of_every_image_weigh_nothing():
    """'a' is in both; its idf is log(2/2). The 2-grams 'a cat' and 'a dog' weigh log 2."""
    values = _values(("a cat", ("a cat",)), ("a bird", ("a dog",)))
    assert values["CIDEr"] == pytest.approx((5 + 0) / 2)


def test_cider_is_the_mean_over_references():
    values = _values(("red cat", ("red cat", "old bird")), ("blue dog", ("blue dog",)))
    assert values["CIDEr"] == pytest.approx((2.5 + 5) / 2)


def test_cider_of_one_image_is_nothing():
    assert _values(("red cat", ("red cat",)))["CIDEr"] == 0


# ---- the rest ----


def test_text_stands_in_for_references():
    metric = captions.Metric()
    sample = Sample(None, (0, 0), "caption", targets=Targets(text="One red cat sat."), source="made#0")
    metric.update(sample, Prediction(text="one red cat sat"))
    assert metric.compute()["BLEU-4"] == pytest.approx(1)


def test_empty_captions_and_references():
    values = _values(("", ("one cat",)), ("!", ("two dogs", "...")))
    assert [values[k] for k in ("ROUGE-L", "BLEU-1", "CIDEr")] == [0, 0, 0]
    with pytest.raises(EvalError, match=r"made/test#0: captions needs a reference with words"):
        captions.Metric().score(_sample("..."), Prediction(text="one"))


def _random_pairs(count: int) -> list[Pair]:
    """Captions that share much with their references: words of the references, some changed, dropped, added."""
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(60)]
    chance = 1 / np.arange(1, 61)
    chance /= chance.sum()
    pairs = []
    for _ in range(count):
        base = rng.choice(vocabulary, rng.integers(5, 14), p=chance)

        def near(base: np.ndarray = base) -> str:
            kept = base[rng.random(len(base)) < 0.85]
            changed = np.where(rng.random(len(kept)) < 0.15, rng.choice(vocabulary, len(kept), p=chance), kept)
            return " ".join([*changed, *rng.choice(vocabulary, rng.integers(0, 3), p=chance)])

        pairs.append((near(), tuple(near() or "w0" for _ in range(rng.integers(1, 6)))))
    return [*pairs, ("", ("w1 w2 w3",))]


def test_equal_to_pycocoevalcap():
    reason = "pycocoevalcap is not installed"
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason=reason).Bleu(4)
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge", reason=reason).Rouge()
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason=reason).Cider()
    pairs = _random_pairs(300)
    truth = {i: list(references) for i, (_, references) in enumerate(pairs)}
    said = {i: [text] for i, (text, _) in enumerate(pairs)}
    wanted = dict(zip([f"BLEU-{n}" for n in range(1, 5)], bleu.compute_score(truth, said, verbose=0)[0], strict=True))
    wanted |= {"ROUGE-L": rouge.compute_score(truth, said)[0], "CIDEr": cider.compute_score(truth, said)[0]}
    values = _values(*pairs)
    assert 0.1 < wanted["BLEU-4"] < 0.9 and wanted["CIDEr"] > 0.5
    assert {k: values[k] for k in wanted} == pytest.approx(wanted, rel=1e-9)


def test_meteor_asks_for_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ConfigError, match=r"metrics/captions.meteor: needs NLTK .*pip install 'ufo-tune\[meteor\]'"):
        captions.Metric(meteor=True)


def test_meteor_asks_for_its_data(monkeypatch, tmp_path):
    nltk = pytest.importorskip("nltk", reason="nltk (extra meteor) is not installed")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk.corpus, "wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, None))
    with pytest.raises(ConfigError, match="metrics/captions.meteor: needs WordNet"):
        captions.Metric(meteor=True)


def test_meteor_by_hand():
    """Four matches in one chunk: penalty 0.5 * (1/4)^3. Two of three words in one chunk: P = R = 2/3."""
    pytest.importorskip("nltk", reason="nltk (extra meteor) is not installed")
    try:
        metric = captions.Metric(meteor=True)
    except ConfigError as error:
        pytest.skip(str(error))
    for number, (said, references) in enumerate(
        [
            ("one red cat sat", ("zzz", "one red cat sat")),
            ("one red cats", ("xxx red cat",)),  # the stem counts
            ("yyy", ("one red cat",)),
        ]
    ):
        metric.update(_sample(*references, number=number), Prediction(text=said))
    wanted = [1 - 0.5 * (1 / 4) ** 3, 2 / 3 * (1 - 0.5 * (1 / 2) ** 3), 0]
    assert metric.compute()["METEOR_nltk"] == pytest.approx(sum(wanted) / 3)
