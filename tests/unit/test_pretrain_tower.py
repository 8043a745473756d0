"""Where the tower's pre-training puts its questions: a field's answer hangs on the image token that shows it."""

import torch

from scripts import pretrain_tower
from scripts.pretrain_tower import BOARD, WORDS, Reader, answers
from ufo_tune.datasets import scenes

SHARE, WIDTH = 2, 6
SIDE = BOARD // SHARE  # image tokens


def reader():
    torch.manual_seed(0)
    ids = {"there": [0, 1], "colour": [2, 3, 4]}
    return Reader(torch.randn(5, WIDTH), ids, SHARE)


def test_there_is_asked_once_for_each_field_of_a_token():
    made = reader()
    features = torch.zeros(1, SIDE * SIDE, WIDTH)
    row, column = 3, 7
    features[0, row * SIDE + column] = torch.randn(WIDTH)
    moved = (made(features)["there"] - made(torch.zeros_like(features))["there"]).abs().sum(-1)
    touched = moved.view(BOARD, BOARD).nonzero().tolist()
    expected = [[SHARE * row + y, SHARE * column + x] for y in range(SHARE) for x in range(SHARE)]
    assert touched == expected
    assert len({round(float(v), 4) for v in moved[moved > 0]}) == SHARE**2, "each field has a turn of its own"


def test_attributes_are_those_of_the_feature_itself():
    made = reader()
    feature = torch.randn(WIDTH)
    scores = made(feature.expand(1, SIDE * SIDE, WIDTH))["colour"]
    expected = made.embeddings[2:5] @ feature / WIDTH**0.5
    torch.testing.assert_close(scores, expected.expand(1, BOARD * BOARD, 3), atol=1e-5, rtol=1e-5)


def test_answers_are_what_the_middle_pixel_of_a_field_shows():
    drawn = scenes.scene(0, "val", 3, pretrain_tower.SIDE)
    found = answers([drawn])
    for field in range(0, BOARD * BOARD, 7):
        y, x = (int((v + 0.5) * pretrain_tower.SIDE / BOARD) for v in divmod(field, BOARD))
        owner = int(drawn.owner[y, x])
        assert WORDS["there"][found["there"][0, field]] == ("object" if owner >= 0 else "nothing")
        if owner < 0:
            assert found["shape"][0, field] == -100
            continue
        thing = drawn.things[owner]
        told = {q: WORDS[q][found[q][0, field]] for q in ("colour", "shape", "texture", "size")}
        assert told == {q: getattr(thing, q) for q in told}
