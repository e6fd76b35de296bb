"""Tasks are found by name, and what a recipe gets wrong is said in one sentence."""

import dataclasses
from pathlib import Path

import pytest

from bapo.config import RewardSettings, TaskSettings
from bapo.config.reference import section_table
from bapo.errors import SettingError
from bapo.tasks import TASKS, build_task, build_worked_task, verifier_name
from bapo.tasks.countdown import CountdownSettings
from bapo.tasks.dataset import DatasetSettings
from bapo.tasks.grid_path import GridPathSettings
from bapo.tasks.gym import GymSettings
from bapo.tasks.known_sets import KnownSetSettings
from bapo.tasks.mathematics import MathematicsSettings
from bapo.tasks.prompts import PromptShape
from bapo.tasks.rush_hour import RushHourSettings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tasks.md"


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(f'{{"prompt": "{n} + 1", "answer": {n + 1}}}\n' for n in range(60)))
    return path


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("countdown", {"CD-3", "CD-4"}),
        ("countdown-3", {"CD-3"}),
        ("countdown-4", {"CD-4"}),
        ("countdown-34", {"CD-3", "CD-4"}),
    ],
)
def test_a_countdown_name_gives_its_counts_of_numbers(name, levels):
    task = build_task(TaskSettings(name, {"train_size": 40}))
    assert {prompt.level for prompt in task.training_prompts()} == levels


def test_countdown_and_countdown_34_are_the_same_task():
    short, long = (
        build_task(TaskSettings(n, {"train_size": 9})) for n in ("countdown", "countdown-34")
    )
    assert short.name == long.name == "CD-34"
    assert list(short.training_prompts()) == list(long.training_prompts())


def test_an_option_wins_over_a_named_variant():
    assert build_task(TaskSettings("countdown-3", {"numbers": [5]})).name == "CD-5"


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(
        SettingError, match=r"^Unknown task 'countdwn-3': did you mean 'countdown-3'\?$"
    ):
        build_task(TaskSettings("countdwn-3"))


def test_an_unknown_setting_of_a_task_names_the_nearest():
    with pytest.raises(SettingError, match=r"'task.larges': did you mean 'largest'\?"):
        build_task(TaskSettings("countdown", {"larges": 5}))


def test_a_setting_out_of_range_is_named_with_its_range():
    with pytest.raises(SettingError, match=r"'task.largest' is 1, but must be 2 to 100"):
        build_task(TaskSettings("countdown", {"largest": 1}))


def test_the_recipes_verifier_wins_over_the_tasks_own(data_file):
    countdown = build_task(TaskSettings("countdown"))
    data = build_task(TaskSettings("dataset", {"path": str(data_file)}))
    own = "bapo.reward.verifiers.countdown:verify"
    assert verifier_name(RewardSettings(), countdown) == own
    assert verifier_name(RewardSettings(verifier="mine.py:f"), countdown) == "mine.py:f"
    assert verifier_name(RewardSettings(verifier="mine.py:f"), data) == "mine.py:f"


def test_a_data_set_without_a_verifier_is_refused(data_file):
    data = build_task(TaskSettings("dataset", {"path": str(data_file)}))
    with pytest.raises(SettingError, match=r"^'reward.verifier' is missing, and the task 'sums'"):
        verifier_name(RewardSettings(), data)


def test_a_cold_start_needs_worked_examples(data_file):
    assert build_worked_task(TaskSettings("countdown")).worked_example(0)[0].endswith("\n")
    with pytest.raises(SettingError, match="'dataset' has no worked examples"):
        build_worked_task(TaskSettings("dataset", {"path": str(data_file)}))


@pytest.mark.parametrize(
    "kind",
    [
        *(CountdownSettings, DatasetSettings, KnownSetSettings, MathematicsSettings),
        *(GridPathSettings, GymSettings, RushHourSettings),
    ],
)
def test_the_page_has_every_setting_of_every_task(kind):
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = section_table(kind, "task").splitlines()[2:]
    assert len(rows) == len(dataclasses.fields(kind))
    assert [row for row in rows if row not in lines] == []


def test_the_page_has_every_task():
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in TASKS if f"| `{name}` |" not in page] == []


def test_what_shapes_a_prompt_is_declared_as_a_setting():
    declared = {field.name: field.default for field in dataclasses.fields(DatasetSettings)}
    shape = {field.name: field.default for field in dataclasses.fields(PromptShape)}
    assert {name: declared[name] for name in shape} == shape
