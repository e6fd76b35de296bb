"""Which checks there are, in three lengths."""

from enum import StrEnum

from bapo.selftest import damage, exactness, resuming, verification
from bapo.selftest.results import Check


class Form(StrEnum):
    """How much is tried."""

    QUICK = "quick"
    DEFAULT = "default"
    LONG = "long"


def checks(form: Form) -> list[Check]:
    """The checks of a form, in the order of the table; `long` has all of `default`.

    Args:
        form: `quick` takes less than a minute on two cores, `default` two or three, `long` six.
    """
    if form is Form.QUICK:
        return [
            *exactness.exactness_checks(),
            *resuming.short_checks(),
            *damage.damage_checks(),
            *damage.disk_checks()[:2],
            *verification.misdeed_checks(verification.QUICK_DEEDS),
        ]
    long = form is Form.LONG
    return [
        *exactness.exactness_checks(),
        *resuming.short_checks(),
        *resuming.step_checks(),
        *(
            check
            for algorithm in (resuming.ALGORITHMS if long else resuming.ALGORITHMS[:1])
            for check in resuming.point_checks(algorithm, times=2 if long else 1)
        ),
        *(
            check
            for algorithm in resuming.ALGORITHMS
            for check in resuming.random_checks(algorithm, seeds=4 if long else 1)
        ),
        *resuming.leaving_checks(),
        *damage.damage_checks(),
        *damage.disk_checks(),
        *verification.misdeed_checks(),
        *verification.endurance_checks(),
    ]
