"""What is trained in lessons and tests has its margin measured by `make margins`; here nothing is trained."""

import ast

import pytest
from margins import CHAPTERS, HOLDS, MARGINS, NOT_LEARNING, TESTS, cells_of, claim, source_of


def lessons(path):
    return [source for source in cells_of(path) if not source.startswith("#| export")]


def called(source):
    "Names of the functions and methods that a source calls."
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}


def trains(path):
    "Does a lesson or test take gradients, itself or through a function of the book that trains?"
    if "import torch" not in "\n".join(cells_of(path)):
        return False
    names = set().union(*map(called, lessons(path)))
    trainers = {name for name in names if name.startswith("train_")} - {"train_tokenizer"}
    return bool(trainers | names & {"fit", "pretrain", "backward", "teach"})


def test_all_that_trains_is_measured_or_claims_nothing():
    measured = {source_of(margin.place) for margin in MARGINS}
    claiming_nothing = {source_of(place) for place in NOT_LEARNING}
    assert not measured & claiming_nothing
    assert measured | claiming_nothing == {path for path in [*CHAPTERS, *TESTS] if trains(path)}


@pytest.mark.parametrize("margin", MARGINS, ids=[f"{m.place}: {m.measured}" for m in MARGINS])
def test_an_assert_claims_what_is_measured_and_more_than_blind_gives(margin):
    _, sign, threshold = claim(margin)
    assert not HOLDS[sign](margin.blind, threshold)
