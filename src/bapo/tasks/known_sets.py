r"""Mathematics sets that users know, by name: a table of where each is and what its columns mean.

A row becomes a chat prompt, the problem with `INSTRUCTION` behind it, and one column for the
verifier: `answer`, the gold answer, taken out of its solution where it stands in one. All else in a
row is left behind, so that what is kept with every group stays small.

Columns and splits are those that public loaders read: gsm8k and hendrycks-math as in
volcengine/verl (examples/data_preprocess/gsm8k.py, math_dataset.py); deepscaler and aime24 as in
rLLM's registration scripts and the card of HuggingFaceH4/aime_2024; math500 as in copies of its
card; aime25 as in Jellyfish042/rwkv_mmlu (prepare_aime2025.py); minerva as in
yuki-younai/verl-alignment (eval_math_minerva-math.py); amc23 and olympiadbench as in several
loaders that agree. None of the sets was downloaded for this table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from bapo.config import nearest_name, parse_task_options, setting
from bapo.errors import SettingError
from bapo.tasks.mathematics import INSTRUCTION, VERIFIER
from bapo.tasks.prompts import PromptBuilder, PromptShape
from bapo.tasks.rows import DEFAULT_SHARE, divide
from bapo.tasks.screening import RowReport
from bapo.tasks.sources import BadRow, Row, Source, excerpt, open_source
from bapo.types import Prompt


@dataclass(frozen=True, slots=True)
class KnownSet:
    r"""One set.

    Attributes:
        hub: Its name on the Hub.
        problem: The column with the problem.
        gold: The column with the gold answer.
        marked: What must stand in that column before the answer: `####`, `\boxed`, or nothing where
            the column holds the answer alone.
        level: A column with a difficulty or a subject; empty where there is none.
        subset: The Hub configuration.
        training: The split to train on; empty where the set is for evaluation alone.
        evaluation: The held-out split; empty where a share of the training rows is held out.
        images: The column with the pictures; empty where there are none.
    """

    hub: str
    problem: str
    gold: str
    marked: str = ""
    level: str = ""
    subset: str = ""
    training: str = ""
    evaluation: str = ""
    images: str = ""


KNOWN_SETS: Final[Mapping[str, KnownSet]] = {
    "gsm8k": KnownSet(
        *("openai/gsm8k", "question", "answer", "####"),
        subset="main",
        training="train",
        evaluation="test",
    ),
    "hendrycks-math": KnownSet(
        *("DigitalLearningGmbH/MATH-lighteval", "problem", "solution", "\\boxed", "level"),
        training="train",
        evaluation="test",
    ),
    "math500": KnownSet(
        "HuggingFaceH4/MATH-500", "problem", "answer", level="level", evaluation="test"
    ),
    "deepscaler": KnownSet(
        "agentica-org/DeepScaleR-Preview-Dataset", "problem", "answer", training="train"
    ),
    "aime24": KnownSet("HuggingFaceH4/aime_2024", "problem", "answer", evaluation="train"),
    "aime25": KnownSet("math-ai/aime25", "problem", "answer", evaluation="test"),
    "amc23": KnownSet("math-ai/amc23", "question", "answer", evaluation="test"),
    "minerva": KnownSet("math-ai/minervamath", "question", "answer", evaluation="test"),
    "olympiadbench": KnownSet(
        "math-ai/olympiadbench", "question", "final_answer", level="subfield", evaluation="test"
    ),
    "geometry3k": KnownSet(
        *("hiyouga/geometry3k", "problem", "answer"),
        training="train",
        evaluation="test",
        images="images",
    ),
}


@dataclass(frozen=True, slots=True)
class KnownSetSettings:
    """Where the rows are, and how problems are put."""

    path: str = setting(
        "", "a copy of the set: a .jsonl or .parquet file, a folder or a Hub name; empty: the Hub"
    )
    revision: str = setting("", "Hub commit or tag; empty means the newest")
    evaluation_path: str = setting("", "a file with the held-out rows, of the set or of `held_out`")
    held_out: str = setting("", "name of another set to be measured on, such as math500")
    evaluation_share: float = setting(
        DEFAULT_SHARE,
        "share of the rows held out, by a hash of the prompt, where there are no held-out rows",
        above=0,
        high=0.9,
    )
    instruction: str = setting(INSTRUCTION, "put after each problem, on a line of its own")
    system_prompt: str = setting("", "put before each problem as a system message")


class KnownSetTask:
    """A known set as a task; see the module docstring. Everything is read and checked at once.

    Args:
        name: The set's name in `KNOWN_SETS`.
        settings: Where the rows are, and how problems are put.
        max_bad_share: Rows of each source that may be unusable, in [0, 1].

    Raises:
        SettingError: The settings do not fit together.
        DataError: A source cannot be read, or holds too many rows that cannot be used.
    """

    verifier: str = VERIFIER

    def __init__(self, name: str, settings: KnownSetSettings, max_bad_share: float = 0.0) -> None:
        self.name = name
        self._trains = bool(KNOWN_SETS[name].training)
        source, held_out = _sources(name, settings)
        instruction = settings.instruction.translate(str.maketrans({"{": "{{", "}": "}}"}))
        shape = PromptShape(
            template="{problem}" + ("\n" + instruction if instruction else ""),
            level_column="level",
            system_prompt=settings.system_prompt,
            chat=True,
            image_column=KNOWN_SETS[name].images,
        )
        divided = divide(
            source,
            held_out,
            PromptBuilder(shape),
            share=settings.evaluation_share,
            max_bad_share=max_bad_share,
        )
        self.reports: Sequence[RowReport] = divided.reports
        self._training = tuple(map(_with_answer_alone, divided.training))
        self._evaluation = tuple(map(_with_answer_alone, divided.evaluation))

    def training_prompts(self) -> Sequence[Prompt]:
        """All prompts to train on, in the order of the rows.

        Raises:
            SettingError: The set is for evaluation alone.
        """
        if not self._trains:
            raise SettingError(
                f"The set '{self.name}' is for evaluation alone; train on another one, such as "
                f"deepscaler, with task.held_out={self.name}."
            )
        return self._training

    def evaluation_prompts(self, count: int) -> Sequence[Prompt]:
        """The first `count` held-out prompts in the order of a hash, fewer if there are fewer."""
        return self._evaluation[:count]


def _with_answer_alone(prompt: Prompt) -> Prompt:
    return replace(prompt, columns={"answer": prompt.columns["answer"]})


def _sources(name: str, settings: KnownSetSettings) -> tuple[Source | None, Source | None]:
    """The rows to train on and the held-out ones, each in the columns that are meant."""
    known = KNOWN_SETS[name]
    other = settings.held_out
    if other and other not in KNOWN_SETS:
        nearest = nearest_name(other, [*KNOWN_SETS])
        raise SettingError(f"Unknown set '{other}' in 'task.held_out': {nearest}")
    is_file = settings.path.endswith((".jsonl", ".parquet"))
    if not known.training:
        if other or settings.evaluation_path:
            raise SettingError(
                f"The set '{name}' is for evaluation alone, so that 'task.held_out' and "
                "'task.evaluation_path' have no place; name its rows in 'task.path'."
            )
        return None, _opened(known, settings.path, known.evaluation, settings.revision)
    source = _opened(known, settings.path, known.training, settings.revision)
    if other:
        measured = KNOWN_SETS[other]
        split = measured.evaluation or measured.training
        return source, _opened(measured, settings.evaluation_path, split, "")
    if settings.evaluation_path:
        return source, _opened(known, settings.evaluation_path, known.evaluation, "")
    if known.evaluation and not is_file:
        return source, _opened(known, settings.path, known.evaluation, settings.revision)
    return source, None


def _opened(known: KnownSet, path: str, split: str, revision: str) -> Source:
    """The rows of a set as `problem`, `answer` and `level`."""
    if path.endswith((".jsonl", ".parquet")):
        source = open_source(path, image_column=known.images)
    else:
        subset = known.subset if path in ("", known.hub) else ""
        source = open_source(
            path or known.hub,
            split=split,
            subset=subset,
            revision=revision,
            image_column=known.images,
        )

    def rows() -> Iterator[Row | BadRow]:
        for row in source.rows():
            yield row if isinstance(row, BadRow) else _meant(known, row)

    return Source(source.name, source.unit, rows)


def _meant(known: KnownSet, row: Row) -> Row | BadRow:
    """A row in the columns that are meant, or why it cannot be used."""
    values = row.values
    for column in (known.problem, known.gold):
        if values.get(column) in (None, "", []):
            there = ", ".join(repr(name) for name in values) or "none"
            reason = (
                f"its {column!r} is empty; fill it or remove the row"
                if column in values
                else f"it has no column {column!r}, as {known.hub} has, only {there}; rename it"
            )
            return BadRow(row.line, reason, excerpt(repr(values)))
    gold = values[known.gold]
    if isinstance(gold, list):  # one problem with several answers
        gold = ", ".join(str(one) for one in cast("list[Any]", gold))
    place = str(gold).rfind(known.marked)
    if place < 0:
        reason = f"its {known.gold!r} has no {known.marked!r} before the answer; add it"
        return BadRow(row.line, reason, excerpt(repr(values)))
    if known.marked:
        gold = str(gold)[place:].removeprefix("####").strip()
    level = values.get(known.level) if known.level else None
    meant = {"problem": values[known.problem], "answer": gold, "level": str(level or "")}
    if known.images:
        meant[known.images] = values.get(known.images)
    return Row(row.line, meant)


def build_known_set(
    name: str, options: Mapping[str, Any], max_bad_share: float = 0.0
) -> KnownSetTask:
    """The task from a recipe's options; by default every row must be usable."""
    return KnownSetTask(name, parse_task_options(KnownSetSettings, options), max_bad_share)
