"""Sets that users know: their columns, prompts, gold answers and splits, from tiny local copies."""

import json

import pytest

from bapo.config import TaskSettings
from bapo.errors import DataError, SettingError
from bapo.reward.verifiers.mathematics import check_columns, verify
from bapo.tasks import build_task, screen
from bapo.tasks.known_sets import KNOWN_SETS
from bapo.tasks.mathematics import INSTRUCTION, VERIFIER
from bapo.types import ChatMessage

GSM8K = {
    "question": "Janet has 3 boxes of 6 eggs. How many eggs?",
    "answer": "She has 3*6=<<3*6=18>>18 eggs.\n#### 1,018",
}
MATH = {
    "problem": "What is $\\frac{1}{2}+\\frac{1}{4}$?",
    "level": "Level 2",
    "type": "Algebra",
    "solution": "First \\boxed{1}. Adding, $\\boxed{\\frac{3}{4}}$ it is.",
}
ROWS = {
    "gsm8k": (GSM8K, "1,018"),
    "hendrycks-math": (MATH, "\\boxed{\\frac{3}{4}}$ it is."),
    "math500": (
        {"problem": "1+1?", "solution": "s", "answer": "2", "subject": "Algebra", "level": 3},
        "2",
    ),
    "deepscaler": ({"problem": "1+1?", "answer": "2", "solution": ""}, "2"),
    "aime24": (
        {"id": 60, "problem": "1+1?", "solution": "s", "answer": "204", "year": "2024"},
        "204",
    ),
    "aime25": ({"problem": "1+1?", "answer": "70", "id": "0"}, "70"),
    "amc23": ({"id": 0, "answer": 27.0, "url": "u", "question": "1+1?"}, 27.0),
    "minerva": ({"question": "1+1?", "answer": "4.5e33"}, "4.5e33"),
    "olympiadbench": (
        {"id": 1, "question": "1+1?", "final_answer": ["2", "-2"], "subfield": "Algebra"},
        "2, -2",
    ),
    "geometry3k": (
        {"images": ["a.png"], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"},
        "2 \\sqrt { 221 }",
    ),
}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def several(row, column, count=40):
    return [{**row, column: f"{row[column]} ({number})"} for number in range(count)]


def built(name, **options):
    return build_task(TaskSettings(name, options))


def test_every_known_set_has_a_row_here():
    assert ROWS.keys() == KNOWN_SETS.keys()


@pytest.mark.parametrize("name", list(KNOWN_SETS))
def test_a_row_becomes_a_chat_with_the_gold_answer_alone(name, tmp_path):
    row, gold = ROWS[name]
    column = KNOWN_SETS[name].problem
    task = built(name, path=written(tmp_path / "rows.jsonl", several(row, column)))
    first = task.evaluation_prompts(1)[0]
    (message,) = first.content
    assert message.role == "user"
    assert message.content.startswith(row[column])
    assert message.content.endswith("\n" + INSTRUCTION)
    assert first.columns == {"answer": gold}
    assert check_columns(**first.columns) == ""
    assert task.verifier == VERIFIER
    assert task.name == name


def test_gold_answers_are_those_of_the_solutions():
    assert verify(["#### 1018", "\\boxed{18}"], ["1,018", "1,018"]) == [True, False]
    gold = ROWS["hendrycks-math"][1]
    assert verify(["\\boxed{0.75}", "\\boxed{1}"], [gold, gold]) == [True, False]
    assert verify(["\\boxed{-2, 2}", "\\boxed{2}"], ["2, -2", "2, -2"]) == [True, False]


def test_a_local_file_is_divided_by_a_hash_and_levels_are_kept(tmp_path):
    path = written(tmp_path / "math.jsonl", several(MATH, "problem"))
    task = built("hendrycks-math", path=path, evaluation_share=0.25)
    training, held_out = task.training_prompts(), task.evaluation_prompts(100)
    assert len(training) + len(held_out) == 40
    assert 2 <= len(held_out) <= 18
    assert {prompt.level for prompt in training} == {"Level 2"}
    assert not {p.prompt_id for p in training} & {p.prompt_id for p in held_out}


def test_a_parquet_copy_is_read_alike(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(several(GSM8K, "question"))
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    lines = written(tmp_path / "train.jsonl", several(GSM8K, "question"))
    parquet = built("gsm8k", path=str(tmp_path / "train.parquet"))
    assert parquet.training_prompts() == built("gsm8k", path=lines).training_prompts()


def test_a_folder_has_the_splits_of_the_hub(tmp_path):
    written(tmp_path / "train.jsonl", several(GSM8K, "question", 5))
    written(tmp_path / "test.jsonl", several({**GSM8K, "question": "Another?"}, "question", 3))
    task = built("gsm8k", path=str(tmp_path))
    assert len(task.training_prompts()) == 5
    assert len(task.evaluation_prompts(100)) == 3


def test_training_on_one_set_may_be_measured_on_another(tmp_path):
    train = written(tmp_path / "train.jsonl", several(ROWS["deepscaler"][0], "problem", 6))
    shared = several(ROWS["aime24"][0], "problem", 3)
    held_out = written(tmp_path / "aime.jsonl", [*shared, {**shared[0], "problem": "Only here?"}])
    task = build_task(
        TaskSettings(
            "deepscaler",
            {"path": train, "held_out": "aime24", "evaluation_path": held_out},
            max_bad_share=0.5,
        )
    )
    assert [prompt.columns["answer"] for prompt in task.evaluation_prompts(9)] == ["204"] * 4
    assert len(task.training_prompts()) == 3  # the three others stand among the held-out rows
    assert [len(report.bad) for report in task.reports] == [3, 0]


def test_a_set_for_evaluation_alone_cannot_be_trained_on(tmp_path):
    path = written(tmp_path / "aime.jsonl", several(ROWS["aime24"][0], "problem", 3))
    task = built("aime24", path=path)
    assert len(task.evaluation_prompts(100)) == 3
    with pytest.raises(SettingError, match=r"^The set 'aime24' is for evaluation alone; train on"):
        screen(task, 3, (), 0.1)
    with pytest.raises(SettingError, match=r"'task\.held_out' and 'task\.evaluation_path' have no"):
        built("aime24", path=path, held_out="math500")


def test_an_unknown_held_out_set_names_the_nearest():
    with pytest.raises(SettingError, match=r"Unknown set 'math50' .* did you mean 'math500'\?"):
        built("deepscaler", held_out="math50")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"question": "1+1?", "solution": "2"},
            "it has no column 'answer', as openai/gsm8k has, only 'question', 'solution'; rename",
        ),
        (
            {"question": "1+1?", "answer": "It is 2."},
            "its 'answer' has no '####' before the answer",
        ),
        ({"question": "1+1?", "answer": None}, "its 'answer' is empty; fill it or remove the row"),
        ({"question": "", "answer": "#### 2"}, "its 'question' is empty; fill it or remove"),
    ],
)
def test_a_row_that_cannot_be_used_is_said_with_its_cure(row, reason, tmp_path):
    path = written(tmp_path / "rows.jsonl", [*several(GSM8K, "question"), row])
    task = build_task(TaskSettings("gsm8k", {"path": path}))
    (bad,) = task.reports[0].bad
    assert bad.line == 41
    assert bad.reason.startswith(reason)
    with pytest.raises(DataError, match="Line 41 of "):
        build_task(TaskSettings("gsm8k", {"path": path}, strict=True))


def test_instruction_and_system_prompt_are_settings(tmp_path):
    path = written(tmp_path / "rows.jsonl", several(GSM8K, "question"))
    task = built("gsm8k", path=path, instruction="Answer in {braces}.", system_prompt="Be brief.")
    system, user = task.training_prompts()[0].content
    assert system == ChatMessage("system", "Be brief.")
    assert user.content.endswith("\nAnswer in {braces}.")
