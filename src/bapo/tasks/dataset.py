"""A user's own data as a task: rows become prompts, and a hash holds some of them out.

How rows are divided is told in `bapo.tasks.rows`.

The verifier is the recipe's `reward.verifier`; a data set has none of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bapo.config import parse_task_options, setting
from bapo.errors import SettingError
from bapo.tasks.prompts import PromptBuilder, PromptShape
from bapo.tasks.rows import DEFAULT_SHARE, divide
from bapo.tasks.sources import Source, open_source
from bapo.types import Prompt


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """Where the rows are and how they become prompts."""

    path: str = setting("", "a .jsonl or .parquet file, a folder of data files, or a Hub name")
    split: str = setting("", "Hub split to train on; empty means train")
    subset: str = setting("", "Hub configuration, such as main for openai/gsm8k")
    revision: str = setting("", "Hub commit or tag; empty means the newest")
    evaluation_path: str = setting("", "held-out rows, named as in `path`")
    evaluation_split: str = setting(
        "", "Hub split of the held-out rows, of `evaluation_path` or else `path`; empty means train"
    )
    evaluation_share: float | None = setting(
        None,
        "share of the rows held out, by a hash of the prompt, where no held-out rows are named; "
        "empty means 0.1",
        above=0,
        high=0.9,
    )
    prompt_column: str = setting(
        "prompt", "column with a text or a list of {role, content}; not read with a `template`"
    )
    template: str = setting(
        "", "text of the prompt, with {column} for a row's value and {{ }} for braces"
    )
    id_column: str = setting(
        "", "column with a name for each row; empty means a hash of its content"
    )
    level_column: str = setting("", "column with a difficulty label, for reports")
    system_prompt: str = setting(
        "", "put before chat prompts that have no system message of their own"
    )
    chat: bool = setting(
        False, "wrap a text in a user message, so that the model's chat template is applied"
    )
    image_column: str = setting(
        "",
        "column with a picture or a list of them: paths, or bytes as the datasets library stores "
        "them; <image> in the prompt says where each belongs",
    )


class Dataset:
    """The data set task; see the module docstring. Everything is read and checked at once.

    Args:
        settings: Where the rows are and how they become prompts.
        max_bad_share: Rows of each source that may be unusable, in [0, 1].

    Raises:
        SettingError: The settings do not fit together.
        DataError: A file cannot be read, or holds too many rows that cannot be used.
    """

    verifier: str = ""

    def __init__(self, settings: DatasetSettings, max_bad_share: float = 0.0) -> None:
        _check_together(settings)
        self._settings = settings
        builder = PromptBuilder(
            PromptShape(
                prompt_column=settings.prompt_column,
                template=settings.template,
                id_column=settings.id_column,
                level_column=settings.level_column,
                system_prompt=settings.system_prompt,
                chat=settings.chat,
                image_column=settings.image_column,
            )
        )
        source = open_source(
            settings.path,
            split=settings.split,
            subset=settings.subset,
            revision=settings.revision,
            image_column=settings.image_column,
        )
        divided = divide(
            source,
            _held_out_source(settings),
            builder,
            share=settings.evaluation_share or DEFAULT_SHARE,
            max_bad_share=max_bad_share,
        )
        self.reports = divided.reports
        self._training = divided.training
        self._evaluation = divided.evaluation

    @property
    def name(self) -> str:
        """The file's name without its ending, or the Hub name."""
        path = Path(self._settings.path)
        return path.stem if path.suffix in (".jsonl", ".parquet") else self._settings.path

    def training_prompts(self) -> Sequence[Prompt]:
        """All prompts to train on, in the order of the rows."""
        return self._training

    def evaluation_prompts(self, count: int) -> Sequence[Prompt]:
        """The first `count` held-out prompts in the order of a hash, fewer if there are fewer."""
        return self._evaluation[:count]


def _held_out_source(settings: DatasetSettings) -> Source | None:
    """Where held-out rows are named, or None where a share of the rows is held out."""
    if not settings.evaluation_path and not settings.evaluation_split:
        return None
    same = settings.evaluation_path in ("", settings.path)
    return open_source(
        settings.evaluation_path or settings.path,
        split=settings.evaluation_split,
        subset=settings.subset if same else "",
        revision=settings.revision if same else "",
        image_column=settings.image_column,
    )


def _check_together(settings: DatasetSettings) -> None:
    """Raises a `SettingError` where settings that are each in range do not fit together."""
    if not settings.path:
        raise SettingError(
            "'task.path' is missing: name a .jsonl or .parquet file, or a Hub data set."
        )
    named = settings.evaluation_path or settings.evaluation_split
    if named and settings.evaluation_share is not None:
        raise SettingError(
            f"'task.evaluation_share' is {settings.evaluation_share:g}, but held-out rows are "
            f"named too ('{named}'); leave one of the two out."
        )
    if not settings.prompt_column and not settings.template:
        raise SettingError("'task.prompt_column' is empty; name a column or give 'task.template'.")


def build_dataset(options: Mapping[str, Any], max_bad_share: float = 0.0) -> Dataset:
    """The task from a recipe's options; by default every row must be usable."""
    return Dataset(parse_task_options(DatasetSettings, options), max_bad_share)
