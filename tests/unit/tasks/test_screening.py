"""Rows that cannot be used are set aside with their reasons, unless they are too many."""

import json
from pathlib import Path

import pytest

from bapo.config import TaskSettings
from bapo.errors import DataError
from bapo.tasks import build_task, screen
from bapo.tasks.countdown import build_countdown
from bapo.tasks.screening import QuarantinedRow, SourceCount


def write(path, *lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text)
    return str(path)


def rows(count, first=0):
    return [{"id": f"p{n}", "prompt": f"{n} + {n}?"} for n in range(first, first + count)]


def task_of(path, held_out, **settings):
    options = {"path": path, "evaluation_path": held_out, "id_column": "id"}
    return build_task(TaskSettings("dataset", options, **settings))


def against(*names):
    """A check with something against the prompts of these ids."""
    return lambda prompts: {p.prompt_id: "it is odd" for p in prompts if p.prompt_id in names}


def ids(prompts):
    return [prompt.prompt_id for prompt in prompts]


@pytest.fixture
def files(tmp_path):
    """Ten rows to train on, two of them bad, and three held-out ones."""
    train = write(tmp_path / "train.jsonl", *rows(8), "nonsense", {"id": "p0", "prompt": "again"})
    return train, write(tmp_path / "held.jsonl", *rows(3, first=20))


def test_the_rest_is_used_and_every_row_is_accounted_for(files):
    train, held = files
    data = screen(task_of(train, held, max_bad_share=0.3), 2, [against("p3", "p20")], 0.4)
    assert ids(data.training) == ["p0", "p1", "p2", "p4", "p5", "p6", "p7"]
    assert len(data.held_out) in (1, 2)  # two of three are asked; p20 may be one of them
    place = [(row.source, row.row, row.prompt_id) for row in data.quarantined]
    assert place[:3] == [(train, 9, None), (train, 10, None), (train, 4, "p3")]
    assert data.sources == (SourceCount(train, 10, 0), SourceCount(held, 3, 1))
    assert len(data.used) + len(data.quarantined) + 1 == 13
    assert {row.use for row in data.used if row.source == train} == {"training"}


def test_a_quarantined_row_shows_how_it_begins(files):
    train, held = files
    data = screen(task_of(train, held, max_bad_share=0.3), 9, [against("p3")], 0.3)
    first, second, third = data.quarantined
    assert first.content == "nonsense"
    assert second.reason.startswith("it has the 'id' 'p0'")
    assert third == QuarantinedRow(train, 4, "p3", "it is odd", "('3 + 3?', {})")


def test_strict_stops_at_the_first_bad_row(files):
    with pytest.raises(
        DataError, match=r"^Line 9 of '.*' cannot be used \(nor can 1 more\): it is"
    ):
        task_of(*files, strict=True)
    train, held = files
    good = write(Path(train), *rows(8))
    with pytest.raises(DataError, match=r"^Line 4 of '.*' cannot be used: it is odd\.$"):
        screen(task_of(good, held, strict=True), 9, [against("p3")], 0.0)


def test_too_many_bad_rows_stop_the_run_and_the_limit_is_named(files):
    with pytest.raises(DataError, match=r"; 2 of 10 rows are bad, more than 'task.max_bad_share'"):
        task_of(*files)
    task = task_of(*files, max_bad_share=0.2)
    with pytest.raises(DataError, match=r"3 of 10 rows are bad, more than .* \(0\.2\) allows\.$"):
        screen(task, 9, [against("p3")], 0.2)


def test_the_share_is_that_of_each_source(files):
    """One of three held-out rows is too many, though one of thirteen would not be."""
    with pytest.raises(DataError, match=r"held.jsonl' cannot be used: it is odd; 1 of 3 rows"):
        screen(task_of(*files, max_bad_share=0.2), 9, [against("p21")], 0.2)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_when_no_row_is_left_nothing_is_run_whatever_the_limit(tmp_path, share):
    held = write(tmp_path / "held.jsonl", *rows(3, first=20))
    bad = write(tmp_path / "train.jsonl", "one", "two")
    with pytest.raises(
        DataError, match=r"^Line 1 of '.*' cannot be used \(nor can 1 more\): it is"
    ):
        task_of(bad, held, max_bad_share=share)


def test_without_held_out_rows_left_nothing_is_run(tmp_path):
    train = write(tmp_path / "train.jsonl", *rows(40))
    task = build_task(TaskSettings("dataset", {"path": train, "id_column": "id"}))
    names = ids(task.evaluation_prompts(99))
    with pytest.raises(DataError, match="No prompt is left to be measured on"):
        screen(task, 99, [against(*names)], 1.0)


def test_only_prompts_that_passed_a_check_come_to_the_next(files):
    seen = []

    def second(prompts):
        seen.extend(ids(prompts))
        return {}

    screen(task_of(*files, max_bad_share=0.3), 9, [against("p1"), second], 0.4)
    assert "p1" not in seen
    assert len(seen) == 7 + 3


def test_a_task_without_rows_counts_its_problems():
    task = build_countdown({"train_size": 20})
    name = task.training_prompts()[4].prompt_id
    data = screen(task, 5, [against(name)], 0.1)
    assert data.sources == (SourceCount("CD-34", 25, 0),)
    assert [(row.row, row.prompt_id) for row in data.quarantined] == [(5, name)]
    with pytest.raises(DataError, match=r"^Problem 5 of 'CD-34' cannot be used: it is odd\."):
        screen(task, 5, [against(name)], 0.0)
