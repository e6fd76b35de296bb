"""How often the mathematics verifier and math-verify alone misjudge the golden table.

Run from the repository: `python -m benchmarks.golden_mathematics`. Model text is parsed here, so
this is for the golden table only, of which every row ends.
"""

import logging
from collections import Counter
from collections.abc import Callable

from math_verify import parse
from math_verify import verify as compare

from bapo.reward.verifiers.mathematics import golden_table, verify


def _ours(gold: str, completion: str) -> bool:
    return verify([completion], [gold]) == [True]


def _as_it_is(gold: str, completion: str) -> bool:
    return _compared(parse(gold, parsing_timeout=None), completion)


def _gold_in_dollars(gold: str, completion: str) -> bool:
    return _compared(parse(f"${gold}$", parsing_timeout=None), completion)


def _compared(gold: list[object], completion: str) -> bool:
    return compare(gold, parse(completion, parsing_timeout=None), timeout_seconds=None)


WAYS: dict[str, Callable[[str, str], bool]] = {
    "bapo.reward.verifiers.mathematics": _ours,
    "verify(parse(gold), parse(completion))": _as_it_is,
    "verify(parse(f'${gold}$'), parse(completion))": _gold_in_dollars,
}


def misjudged(judge: Callable[[str, str], bool]) -> Counter[str]:
    """How many rows a way of judging gets wrong: `right called wrong`, `wrong called right`."""
    found: Counter[str] = Counter()
    for _, gold, completion, right in golden_table():
        if judge(gold, completion) != right:
            found["right called wrong" if right else "wrong called right"] += 1
    return found


def main() -> None:
    """Counts and prints."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    table = golden_table()
    print(f"{len(table)} rows, {sum(row[3] for row in table)} of them right")
    for name, judge in WAYS.items():
        found = misjudged(judge)
        print(f"{name}: {found.total()} misjudged {dict(found)}")


if __name__ == "__main__":
    main()
