"""Problems of a reasoning-gym task, split by a hash of what identifies each.

The problems of a split are those of the gym's endless sequence that belong to it, in their order;
they are made by `bapo.tasks.gym_rows`, in a process of its own.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bapo.errors import DataError, SettingError
from bapo.tasks.splits import Split
from bapo.types import Prompt

PREFIX: Final = "gym:"
_PATIENCE: Final = 500
_FRUITLESS: Final = 20_000
_FEWEST, _MOST = 64, 4096
_SHARE: Final = 3


@dataclass(frozen=True, slots=True)
class GymProblem:
    """A problem as a task shows it.

    Attributes:
        identity: What makes it this problem and no other.
        prompt: How it is asked.
        solution: A gold completion, for a cold start; may be empty.
    """

    identity: str
    prompt: Prompt
    solution: str = ""


ReadRow = Callable[[Mapping[str, Any]], GymProblem | None]
"""Makes a problem of a row of `gym_rows`; None leaves the row out."""


class GymProblems:
    """The problems of a gym task by split; see the module docstring.

    Args:
        dataset: The gym's name of the task.
        options: The gym's own options for it.
        seed: Of the sequence.
        cold_start: Whether the task has a cold start; without one, its problems are for training.
        read: Makes a problem of a row.

    Raises:
        SettingError: reasoning-gym is not installed, there is no such task, or an option is wrong.
    """

    def __init__(
        self,
        dataset: str,
        options: Mapping[str, Any],
        seed: int,
        read: ReadRow,
        *,
        cold_start: bool,
    ) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise SettingError(
                f"The task '{dataset}' needs reasoning-gym, which is not installed; install "
                "bapo[gym]."
            )
        self._request = {"dataset": dataset, "options": dict(options), "seed": seed}
        self._cold_start = cold_start
        self._read = read
        self._rows = 0
        self._since_new = 0
        self._all: dict[Split, list[GymProblem]] = {split: [] for split in Split}
        self._different: dict[Split, dict[str, GymProblem]] = {split: {} for split in Split}
        self._more(_FEWEST)

    def different(self, split: Split, count: int) -> Sequence[GymProblem]:
        """The first `count` different problems of a split, or all there are.

        The search is over after `_PATIENCE` problems in a row that came before.
        """
        found = self._different[split]
        while len(found) < count and self._since_new < _PATIENCE:
            missing = _SHARE * (count - len(found))
            # More than are missing where most come twice, as each request starts a process.
            self._more(max(missing, 4 * self._since_new))
        return list(found.values())[:count]

    def nth(self, split: Split, index: int) -> GymProblem:
        """Problem `index` of a split, counted with those that came before.

        Raises:
            DataError: The split has hardly any.
        """
        problems = self._all[split]
        while len(problems) <= index:
            before = len(problems)
            self._more(max(256, self._rows))
            if len(problems) == before and self._rows >= _FRUITLESS:
                raise DataError(
                    f"Only {before} of {self._rows} problems of the gym task "
                    f"'{self._request['dataset']}' can be used; widen the task's settings."
                )
        return problems[index]

    def _more(self, count: int) -> None:
        for row in self._ask(min(max(count, _FEWEST), _MOST)):
            self._rows += 1
            problem = self._read(row)
            if problem is None:
                self._since_new += 1
                continue
            split = Split.of(problem.identity)
            if split is Split.WARMSTART and not self._cold_start:
                split = Split.TRAINING
            self._all[split].append(problem)
            known = self._different[split]
            if problem.identity in known:
                self._since_new += 1
            elif self._since_new < _PATIENCE:
                self._since_new = 0
                known[problem.identity] = problem

    def _ask(self, count: int) -> list[dict[str, Any]]:
        """The next `count` rows of the gym's sequence, from a process of its own."""
        request = {**self._request, "start": self._rows, "stop": self._rows + count}
        package = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bapo.tasks.gym_rows"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": package},
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise DataError(
                f"The problems of the gym task '{request['dataset']}' could not be made: "
                f"{last[:300].rstrip('.')}."
            )
        answer = json.loads(done.stdout)
        if "failed" in answer:
            raise (DataError if answer["data"] else SettingError)(answer["failed"])
        return answer["rows"]


def hashed(text: str) -> str:
    """A short name that follows from a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
