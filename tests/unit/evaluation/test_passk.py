import pytest
from hypothesis import given
from hypothesis import strategies as st

from bapo.evaluation import pass_at_k


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (4, 0, 4, 0.0),
        (4, 1, 4, 1.0),
        (4, 4, 1, 1.0),
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 3 of 6 pairs hold the right one
        (4, 2, 2, 5 / 6),  # 1 of 6 pairs misses both
        (8, 2, 4, 11 / 14),  # C(6, 4) / C(8, 4) = 15 / 70 miss both
        (5, 3, 3, 1.0),  # three of five without a right one do not exist
        (1, 1, 1, 1.0),
        (200, 1, 100, 1 / 2),
    ],
)
def test_literal_values(samples, correct, k, expected):
    assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 2), (4, -1, 2)])
def test_what_cannot_be_estimated_is_refused(samples, correct, k):
    with pytest.raises(ValueError, match=f"pass@{k} cannot be estimated from {correct} of"):
        pass_at_k(samples, correct, k)


@given(st.integers(1, 40), st.data())
def test_it_lies_between_pass_at_1_and_1_and_grows_with_k(samples, data):
    correct = data.draw(st.integers(0, samples))
    values = [pass_at_k(samples, correct, k) for k in range(1, samples + 1)]
    assert values[0] == pytest.approx(correct / samples)
    assert values == sorted(values)
    assert values[-1] == (1.0 if correct else 0.0)
