"""What counts as a verdict, value by value."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from bapo.reward.outcomes import outcome_of
from bapo.types import Verdict, VerdictStatus

ACCEPTED = [
    ([True], (True, 1.0)),
    ([False], (False, 0.0)),
    ((1.0,), (None, 1.0)),
    ([0], (None, 0.0)),
    ([-2.5], (None, -2.5)),
    ([Fraction(1, 4)], (None, 0.25)),
    (np.array([0.5]), (None, 0.5)),
    (np.array([True]), (True, 1.0)),
    ([np.float32(0.5)], (None, 0.5)),
    ([np.bool_(False)], (False, 0.0)),
    ([np.int64(3)], (None, 3.0)),
    (torch.tensor([0.25]), (None, 0.25)),
    ([torch.tensor(0.25)], (None, 0.25)),
    ([{"correct": True}], (True, 1.0)),
    ([{"correct": False, "score": 0.5}], (False, 0.5)),
    ([{"correct": np.True_, "score": np.float32(2)}], (True, 2.0)),
    ([Verdict(True, 0.5, milliseconds=9.0)], (True, 0.5)),
]


@pytest.mark.parametrize(("returned", "expected"), ACCEPTED)
def test_a_verdict_is_taken(returned, expected):
    outcome = outcome_of(returned)

    assert outcome == ("ok", *expected, "", False)
    assert type(outcome.score) is float


REFUSED = [
    (None, "returned None where a list"),
    (1.0, "returned 1.0 where a list"),
    ("1", "returned '1' of type str where a list"),
    ({"correct": True}, "returned a value of type dict where a list"),
    ((score for score in [1.0]), "returned a value of type generator where a list"),
    (np.array(1.0), "where a list"),
    ([], "returned 0 results"),
    ([1.0, 1.0], "returned 2 results"),
    ([None], "returned None for this completion"),
    ([math.nan], "returned nan, which"),
    ([-math.inf], "returned -inf, which"),
    ([np.float32("nan")], "not a finite number"),
    ([10**400], "returned a value of type int, which"),
    (["x" * 1000], "returned a value of type str, which"),
    ([1j], "not a finite number"),
    ([Decimal("1")], "not a finite number"),
    ([[1.0]], "returned a value of type list, which"),
    ([np.array([1.0, 0.0])], "not a finite number"),
    ([{"score": 1.0}], "'correct' is None, not a bool"),
    ([{"correct": 1, "score": 1.0}], "'correct' is 1 of type int, not a bool"),
    ([{"correct": True, "score": None}], "'score' is None, which"),
    ([{"correct": True, "score": math.nan}], "'score' is nan, which"),
    ([{"correct": True, "reward": 1.0}], "an unknown field 'reward'"),
    ([{"correct": True, "status": "fine"}], "an unknown status 'fine'"),
    ([Verdict(True, math.inf)], "'score' is inf, which"),
]


@pytest.mark.parametrize(("returned", "detail"), REFUSED)
def test_anything_else_is_invalid_and_says_what_it_was(returned, detail):
    outcome = outcome_of(returned)

    assert (outcome.status, outcome.correct, outcome.score) == ("invalid", False, 0.0)
    assert detail in outcome.detail
    assert len(outcome.detail) <= 500


def test_a_verifier_may_say_itself_that_it_could_not_tell():
    timeout = outcome_of([Verdict(True, 1.0, VerdictStatus.TIMEOUT)])
    error = outcome_of([{"correct": False, "status": "error", "detail": "judge is down"}])

    assert timeout == ("timeout", False, 0.0, "The verifier itself said 'timeout'.", False)
    assert error == ("error", False, 0.0, "judge is down", False)
