"""All tasks of reasoning-gym through the adapter: served as promised, or refused with a reason."""

import json
import subprocess
import sys

import pytest

from bapo.config import TaskSettings
from bapo.errors import SettingError
from bapo.reward.verifiers.gym import check_columns, decode, verify
from bapo.tasks import build_task
from bapo.tasks.gym import GymSettings
from bapo.tasks.gym_rows import REFUSED, option_types

pytestmark = pytest.mark.slow

WITHOUT_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
OWN = {"name", "options", "strict", "max_bad_share", *GymSettings.__dataclass_fields__} - {"seed"}


def all_names():
    factory = pytest.importorskip("reasoning_gym").factory
    return sorted(factory.DATASETS)


@pytest.mark.parametrize("name", all_names())
def test_every_gym_task_is_served_or_refused_with_a_reason(name):
    if name in REFUSED:
        with pytest.raises(SettingError, match=f"^The gym task '{name}' is not served: "):
            build_task(TaskSettings(f"gym:{name}"))
        return
    size = 8
    task = build_task(TaskSettings(f"gym:{name}", {"train_size": size}))
    prompts = [*task.training_prompts(), *task.evaluation_prompts(2)]
    assert len({prompt.content[0].content for prompt in prompts}) == size + 2
    again = build_task(TaskSettings(f"gym:{name}", {"train_size": size}))
    assert [*again.training_prompts(), *again.evaluation_prompts(2)] == prompts
    for prompt in prompts:
        columns = json.loads(json.dumps(dict(prompt.columns), allow_nan=False))
        gold = decode(columns["gym_entry"])["answer"]
        assert (gold is None) is (name in WITHOUT_GOLD)
        assert check_columns(**columns) == ""
        given = {key: [value] for key, value in columns.items()}
        (nonsense,) = verify(["<answer>no idea at all</answer>"], **given)
        assert not nonsense["correct"]
        if gold is not None and gold.strip() == gold and "<answer>" not in gold:
            (right,) = verify([f"so it is <answer>{gold}</answer>"], **given)
            assert right == {"correct": True, "score": 1.0}


def test_no_option_of_a_gym_task_has_the_name_of_a_setting_of_bapo():
    factory = pytest.importorskip("reasoning_gym").factory
    taken = {
        name: OWN & option_types(config).keys()
        for name, (_, config) in factory.DATASETS.items()
        if name not in REFUSED
    }
    assert {name: options for name, options in taken.items() if options} == {}


def test_problems_are_the_same_whatever_the_hash_seed_of_the_run():
    code = (
        "from bapo.config import TaskSettings; from bapo.tasks import build_task\n"
        "task = build_task(TaskSettings('gym:ransom_note', {'train_size': 30}))\n"
        "print([prompt.prompt_id for prompt in task.training_prompts()])"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1
