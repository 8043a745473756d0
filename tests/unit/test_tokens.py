"""Special tokens on three kinds of tokenizer: words, bytes, and SentencePiece's way of marking where words begin."""

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ufo_tune.core import answers, tokens
from ufo_tune.core.answers import Alternatives, Box, Literal, OneOf, Slots
from ufo_tune.core.codec import Codec
from ufo_tune.core.grammar import DONE, Compiler
from ufo_tune.errors import ModelError
from ufo_tune.models import tiny

CODEC = Codec(num_bins=20, slot_side=2)
CORPUS = ["the red circle is left of 12 squares, a <b> 3 , 4", "background red,box 1,20,300 s> <M what?"] * 4


def _learned(pre, decoder):
    core = Tokenizer(BPE(unk_token=None))
    core.pre_tokenizer, core.decoder = pre, decoder
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def _tokenizer(kind):
    if kind == "words":
        return tiny.tokenizer(["a", "b", "red", "circle", "background", "the", "is"], 30)
    if kind == "bytes":
        return _learned(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    return _learned(pre_tokenizers.Metaspace(), decoders.Metaspace())


@pytest.fixture(params=["words", "bytes", "metaspace"])
def tokenizer(request):
    return _tokenizer(request.param)


def test_each_token_is_one_id_wherever_it_stands(tokenizer):
    before = len(tokenizer)
    new = tokens.add_tokens(tokenizer, CODEC)
    assert new == list(range(before, before + len(CODEC.special_tokens)))
    for number, token in zip(new, CODEC.special_tokens, strict=True):
        assert tokens.token_id(tokenizer, token) == number
        for text in (token, f"the {token} is", f"red{token}circle", f"{token}{token}", f"12{token},{token}3"):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids.count(number) == text.count(token), text
    everything = "".join(CODEC.special_tokens)
    assert tokenizer(everything, add_special_tokens=False)["input_ids"] == new


def test_tokens_are_added_once(tokenizer):
    first = tokens.add_tokens(tokenizer, CODEC)
    size = len(tokenizer)
    assert len(first) == len(CODEC.special_tokens)
    assert tokens.add_tokens(tokenizer, CODEC) == [] and len(tokenizer) == size


def test_only_what_the_base_does_not_own_is_added(tokenizer):
    tokenizer.add_tokens([CODEC.box_open])
    owned = tokens.token_id(tokenizer, CODEC.box_open)
    new = tokens.add_tokens(tokenizer, CODEC)
    assert len(new) == len(CODEC.special_tokens) - 1 and owned not in new
    assert tokens.token_id(tokenizer, CODEC.box_open) == owned


def test_tokens_survive_decoding_without_special_tokens(tokenizer):
    tokens.add_tokens(tokenizer, CODEC)
    ids = tokens.answer_ids(tokenizer, answers.box((1, 2, 3, 20), CODEC), CODEC)
    text = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
    assert answers.tidy(text, CODEC) == "<box>1,2,3,20</box>"


def test_an_unknown_token_is_refused():
    with pytest.raises(ModelError, match="'<MASK>' is unknown; run `ufo-tune prepare`"):
        tokens.token_id(_tokenizer("words"), "<MASK>")
    with pytest.raises(ModelError, match="'<MASK>' is unknown; run `ufo-tune prepare`"):
        tokens.token_id(_tokenizer("bytes"), "<MASK>")


def test_a_token_that_others_swallow_is_refused():
    """A plain vocabulary entry is an id of its own when alone, but is cut up inside a sentence."""
    tokenizer = _tokenizer("words")
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str().replace('"red"', '"x,y"'))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    assert wrapped.convert_tokens_to_ids("x,y") not in (None, wrapped.unk_token_id)
    with pytest.raises(ModelError, match="'x,y' is not one token inside a sentence"):
        tokens.token_id(wrapped, "x,y")


def _language(automaton, start):
    found, stack = set(), [((), int(start))]
    while stack:
        ids, at = stack.pop()
        if at == DONE:
            found.add(ids)
            continue
        for column in automaton.allowed[at].nonzero()[:, 0]:
            token = automaton.columns[column : column + 1]
            stack.append(((*ids, int(token)), int(automaton.advance(torch.tensor([at]), token))))
    return found


def test_answers_are_spelled_as_the_grammar_spells_them(tokenizer):
    """Every text of a grammar, tokenised for training, is exactly the language of the automaton for decoding."""
    tokens.add_tokens(tokenizer, CODEC)
    small = Codec.from_dict({**CODEC.to_dict(), "num_bins": 2})
    labels = ("red", "red circle")
    numbers = [f"{a},{b},{c},{d}" for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
    texts = [f"{label},<box>{n}</box>" for label in labels for n in numbers]
    texts += [*(f"{label}," + "<MASK>" * 4 for label in labels), "background"]
    grammar = (
        Alternatives(
            (
                (OneOf(labels), Literal(","), Box()),
                (OneOf(labels), Literal(","), Slots(4)),
                (Literal("background"),),
            )
        ),
    )
    end = tokenizer.eos_token_id
    compiler = Compiler(
        lambda piece: tokenizer(piece, add_special_tokens=False)["input_ids"],
        small,
        end,
        [tokens.token_id(tokenizer, "<MASK>")],
    )
    automaton = compiler.automaton([grammar])
    trained = {(*tokens.answer_ids(tokenizer, text, small), end) for text in texts}
    assert len(trained) == len(texts) == 165
    assert _language(automaton, automaton.starts[0]) == trained


def test_answer_ids_do_not_run_across_pieces(tokenizer):
    """A number has the same ids in every box, whatever stands beside it."""
    tokens.add_tokens(tokenizer, CODEC)
    alone = {n: tokenizer(str(n), add_special_tokens=False)["input_ids"] for n in (1, 12, 20)}
    comma = tokenizer(",", add_special_tokens=False)["input_ids"]
    opened, closed = (tokens.token_id(tokenizer, t) for t in (CODEC.box_open, CODEC.box_close))
    expected = [opened, *alone[12], *comma, *alone[1], *comma, *alone[20], *comma, *alone[12], closed]
    assert tokens.answer_ids(tokenizer, "<box>12,1,20,12</box>", CODEC) == expected


@pytest.mark.parametrize("text", ["It is <MASK><MASK><MASK><MASK>.", "", "a red circle, left of the box"])
def test_every_answer_reads_back(tokenizer, text):
    tokens.add_tokens(tokenizer, CODEC)
    known = text if tokenizer.unk_token is None else re.sub("It|left|of|box", "red", text)
    ids = tokens.answer_ids(tokenizer, known, CODEC)
    assert tokenizer.unk_token_id not in ids or tokenizer.unk_token is None
    assert answers.tidy(tokenizer.decode(ids), CODEC).replace(" ", "") == known.replace(" ", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_rows_start_as_the_mean_of_the_old(dtype):
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = weight.clone()
    tokens.initialise_rows(weight, [5, 2])
    mean = sum(before[i].double() for i in (0, 1, 3, 4, 6)) / 5
    for row in (5, 2):
        torch.testing.assert_close(weight[row], mean.to(dtype), rtol=0, atol=1e-6 if dtype == torch.float32 else 8e-3)
    assert torch.equal(weight[[0, 1, 3, 4, 6]], before[[0, 1, 3, 4, 6]])
    tokens.initialise_rows(weight, [])
    assert torch.equal(weight[[0, 1, 3, 4, 6]], before[[0, 1, 3, 4, 6]])


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize(
    ("sentence", "covered"),
    [
        ("the red circle", "the red circle"),
        ("what is left of the red circle ?", "the red circle"),
        ("is it the red circle, or the red square?", "the red circle"),
        ('the "red circle" is', '"red circle"'),  # a token may hold the mark as well
    ],
)
def test_a_phrase_is_found_inside_a_sentence(kind, sentence, covered):
    """Tokens of words differ between the start of a text and its middle."""
    tokenizer, phrase = _tokenizer(kind), covered.strip('"')
    ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    found = [ids[i] for i in tokens.spelling(tokenizer, ids, phrase)]
    assert tokenizer.decode(found).strip() in (phrase, covered, covered[:-1], covered[1:])
    assert len(tokens.spelling(tokenizer, ids, "green")) == 0


def test_a_phrase_is_no_part_of_other_words():
    tokenizer = _tokenizer("bytes")
    ids = tokenizer("bathe red circles, the red circle", add_special_tokens=False)["input_ids"]
    found = tokens.spelling(tokenizer, ids, "the red circle")
    assert tokenizer.decode(ids[: found.start]).strip() == "bathe red circles,"
    assert tokenizer.decode([ids[i] for i in found]).strip() == "the red circle"
