"""The gold solution of a Countdown problem in the other form that the verifier reads."""

from bapo.tasks.countdown import Problem


def gold_expression(problem: Problem) -> str:
    """The gold solution as one expression, fully parenthesised."""
    pool = [(number, str(number)) for number in problem.numbers]
    for left, operation, right, result in problem.steps:
        texts: list[str] = []
        for operand in (left, right):
            place = next(i for i, (value, _) in enumerate(pool) if value == operand)
            texts.append(pool.pop(place)[1])
        pool.append((result, f"({texts[0]}{operation}{texts[1]})"))
    return pool[-1][1]
