from bapo.evaluation import Evaluation, PromptResult, UnsolvedReport, unsolved_report


def evaluation(**correct):
    """Right answers of eight for each prompt; a pair gives the valid ones too."""
    pairs = {
        name: value if isinstance(value, tuple) else (value, 8) for name, value in correct.items()
    }
    results = tuple(PromptResult(name, "", right, valid) for name, (right, valid) in pairs.items())
    return Evaluation("training", 8, results, ())


def test_only_what_the_base_always_failed_is_counted():
    """a, b and c are unsolved; training solves a and b, asking the base again would have solved b.
    d was solved before, e was never verified: what becomes of them says nothing."""
    base = evaluation(a=0, b=0, c=0, d=1, e=(0, 0))
    again = evaluation(a=0, b=2, c=0, d=0, e=5)
    trained = evaluation(a=1, b=8, c=0, d=8, e=8)
    assert unsolved_report(base, again, trained) == UnsolvedReport(3, 2, 1)


def test_a_base_that_solves_everything_leaves_nothing_to_solve():
    base = evaluation(a=1, b=8)
    assert unsolved_report(base, base, base) == UnsolvedReport(0, 0, 0)


def test_a_policy_that_answers_as_the_base_did_when_asked_again_solves_as_many():
    """A run asks the trained policy with the control's random numbers, so this is lr = 0."""
    base, again = evaluation(a=0, b=3, c=0), evaluation(a=2, b=1, c=0)
    assert unsolved_report(base, again, again) == UnsolvedReport(2, 1, 1)


def test_a_prompt_takes_part_only_if_all_its_answers_were_verified_each_time():
    """a was never fully verified in the base, b not when asked again, c not in the end; d was."""
    base = evaluation(a=(0, 7), b=0, c=0, d=0)
    again = evaluation(a=0, b=(1, 7), c=1, d=1)
    trained = evaluation(a=8, b=8, c=(7, 7), d=8)
    assert unsolved_report(base, again, trained) == UnsolvedReport(1, 1, 1)
