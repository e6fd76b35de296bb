"""What a check finds becomes a row of the table, whatever it meets."""

import pytest

from bapo.selftest import Check, Form, Outcome, carry_out, checks
from bapo.selftest.killing import POINTS
from bapo.selftest.results import NotHeldError, NotPossibleError, require
from bapo.selftest.resuming import POINTS as SWEPT


def carried_out(function):
    result = carry_out(Check("area", "name", "tried", function), None)
    assert result.seconds >= 0
    return result.outcome, result.detail


def raising(error):
    def function(bench):
        raise error

    return function


def test_what_holds_says_what_it_found():
    assert carried_out(lambda bench: "405 tokens") == (Outcome.HELD, "405 tokens")


def test_what_does_not_hold_failed():
    found = carried_out(lambda bench: require(1 > 2, "one is not more than two") or "")
    assert found == (Outcome.FAILED, "one is not more than two")
    assert carried_out(raising(NotHeldError("no"))) == (Outcome.FAILED, "no")


def test_what_cannot_be_tried_is_neither_held_nor_failed():
    found = carried_out(raising(NotPossibleError("no /proc")))
    assert found == (Outcome.NOT_POSSIBLE, "no /proc")


@pytest.mark.parametrize(
    "error", [KeyError("x"), OSError(28, "full"), RuntimeError("x"), ValueError()]
)
def test_whatever_goes_wrong_in_a_check_failed(error):
    outcome, detail = carried_out(raising(error))
    assert outcome is Outcome.FAILED
    assert detail.startswith(f"{type(error).__name__}: ")


def test_an_interruption_is_no_result():
    with pytest.raises(KeyboardInterrupt):
        carried_out(raising(KeyboardInterrupt()))


def test_every_point_but_the_one_that_hangs_is_swept():
    assert set(SWEPT) == set(POINTS) - {"stuck", "after-step"}


@pytest.mark.parametrize("form", Form)
def test_rows_can_be_told_apart_and_areas_stand_together(form):
    rows = checks(form)
    assert len({(row.area, row.name) for row in rows}) == len(rows)
    areas = [row.area for row in rows]
    assert areas == sorted(areas, key=areas.index)


def test_a_longer_form_tries_all_that_a_shorter_one_does():
    names = {form: {(row.area, row.name) for row in checks(form)} for form in Form}
    assert names[Form.QUICK] < names[Form.DEFAULT] < names[Form.LONG]
