"""A user's own data: rows become prompts, some are held out, and bad rows are named."""

import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest

from bapo.errors import DataError, SettingError
from bapo.tasks.dataset import build_dataset
from bapo.types import ChatMessage

GOOD = '{"prompt": "one", "answer": "1"}\n'


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sums(count, first=0):
    return [
        {"prompt": f"What is {n} + {n}?", "answer": str(2 * n), "digits": len(str(2 * n))}
        for n in range(first, first + count)
    ]


def every_prompt(task):
    return [*task.training_prompts(), *task.evaluation_prompts(10**9)]


def only(tmp_path, row, other, **options):
    """The prompt made from one training row, with `other` held out."""
    path = write_rows(tmp_path / "one.jsonl", [row])
    held_out = write_rows(tmp_path / "held.jsonl", [{**row, **other}])
    (prompt,) = build_dataset(
        {"path": path, "evaluation_path": held_out, **options}
    ).training_prompts()
    return prompt


def refusal(tmp_path, text, name="bad.jsonl", **options):
    """The sentence with which a file of this content is refused."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        build_dataset({"path": str(path), **options})
    message = str(caught.value).replace(str(path), name)
    assert "\n" not in message
    return message


def test_rows_become_prompts_and_other_columns_go_to_the_verifier(tmp_path):
    path = write_rows(tmp_path / "sums.jsonl", sums(50))
    task = build_dataset({"path": path, "level_column": "digits"})
    assert task.name == "sums"
    assert task.verifier == ""
    prompt = next(p for p in every_prompt(task) if p.content == "What is 7 + 7?")
    assert prompt.columns == {"answer": "14"}
    assert prompt.level == "2"


def test_training_prompts_are_in_the_order_of_the_rows(tmp_path):
    rows = sums(50)
    task = build_dataset({"path": write_rows(tmp_path / "sums.jsonl", rows)})
    texts = [prompt.content for prompt in task.training_prompts()]
    assert texts == [row["prompt"] for row in rows if row["prompt"] in texts]


def test_parquet_and_json_lines_give_the_same_prompts(tmp_path):
    rows = [{**row, "numbers": [1, 2], "nested": {"a": [None, 1.5]}} for row in sums(40)]
    lines = build_dataset({"path": write_rows(tmp_path / "data.jsonl", rows)})
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet", row_group_size=7)
    parquet = build_dataset({"path": str(tmp_path / "data.parquet")})
    assert parquet.training_prompts() == lines.training_prompts()
    assert parquet.evaluation_prompts(99) == lines.evaluation_prompts(99)


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [json.dumps(row).encode() for row in sums(40)]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(rows) + b"\n\n")
    assert len(every_prompt(build_dataset({"path": str(path)}))) == 40


def test_a_text_is_given_as_it_is_or_wrapped_as_a_chat(tmp_path):
    row, other = {"prompt": "2 + 2?"}, {"prompt": "else"}
    assert only(tmp_path, row, other=other).content == "2 + 2?"
    assert only(tmp_path, row, other=other, chat=True).content == (ChatMessage("user", "2 + 2?"),)
    assert only(tmp_path, row, other=other, chat=True, system_prompt="Be brief.").content == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "2 + 2?"),
    )


def test_a_list_of_messages_is_a_chat_and_keeps_its_own_system_message(tmp_path):
    turns = [{"role": "system", "content": "Own."}, {"role": "user", "content": "2 + 2?"}]
    other = {"prompt": "else"}
    prompt = only(tmp_path, {"prompt": turns}, other=other, system_prompt="New.", chat=True)
    assert prompt.content == (ChatMessage("system", "Own."), ChatMessage("user", "2 + 2?"))
    prompt = only(tmp_path, {"prompt": turns[1:]}, other=other, system_prompt="New.", chat=True)
    assert prompt.content == (ChatMessage("system", "New."), ChatMessage("user", "2 + 2?"))


def test_a_template_is_filled_from_columns_which_the_verifier_gets_too(tmp_path):
    row = {"q": "{x.y} and é", "numbers": [1, 2], "a.b": True}
    prompt = only(
        tmp_path, row, other={"q": "else"}, template="Solve {q} with {numbers}, {{{a.b}}}."
    )
    assert prompt.content == "Solve {x.y} and é with [1, 2], {true}."
    assert prompt.columns == row


def test_ids_are_taken_from_their_column(tmp_path):
    rows = [{**row, "id": 100 + n} for n, row in enumerate(sums(30))]
    task = build_dataset({"path": write_rows(tmp_path / "d.jsonl", rows), "id_column": "id"})
    assert {prompt.prompt_id for prompt in every_prompt(task)} == {str(100 + n) for n in range(30)}
    assert all("id" not in prompt.columns for prompt in every_prompt(task))


def test_ids_without_a_column_follow_from_the_rows_content_alone(tmp_path):
    rows = sums(30)
    turned = [dict(reversed(row.items())) for row in reversed(rows)]
    one = build_dataset({"path": write_rows(tmp_path / "a.jsonl", rows)})
    other = build_dataset({"path": write_rows(tmp_path / "b.jsonl", turned)})
    names = {prompt.content: prompt.prompt_id for prompt in every_prompt(one)}
    assert names == {prompt.content: prompt.prompt_id for prompt in every_prompt(other)}
    assert len(set(names.values())) == 30


def test_the_same_question_with_another_answer_has_another_id(tmp_path):
    rows = [*sums(30), {"prompt": "What is 3 + 3?", "answer": "six", "digits": 1}]
    task = build_dataset({"path": write_rows(tmp_path / "d.jsonl", rows)})
    assert len({prompt.prompt_id for prompt in every_prompt(task)}) == 31


def test_the_share_held_out_is_about_what_was_asked_for(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", sums(2000))
    # 10 % and 30 % of 2000, within three standard deviations (13.4 and 20.5).
    assert abs(len(build_dataset({"path": path}).evaluation_prompts(9999)) - 200) < 41
    task = build_dataset({"path": path, "evaluation_share": 0.3})
    assert abs(len(task.evaluation_prompts(9999)) - 600) < 62
    assert len(every_prompt(task)) == 2000


def test_the_first_held_out_prompts_are_the_first_of_all_and_a_fair_sample(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", sums(2000))
    task = build_dataset({"path": path, "evaluation_share": 0.5})
    assert task.evaluation_prompts(10) == task.evaluation_prompts(500)[:10]
    early = sum(int(p.columns["answer"]) < 2000 for p in task.evaluation_prompts(300))
    assert 110 < early < 190  # half of 300 lies in the file's first half


def test_the_same_text_is_never_on_both_sides(tmp_path):
    rows = [{**row, "id": f"{row['prompt']}{copy}"} for copy in range(3) for row in sums(60)]
    for row in rows[60:120]:
        row["prompt"] = row["prompt"].replace(" ", "  ")
    task = build_dataset({"path": write_rows(tmp_path / "d.jsonl", rows), "id_column": "id"})
    trained = {" ".join(p.content.split()) for p in task.training_prompts()}
    held_out = {" ".join(p.content.split()) for p in task.evaluation_prompts(999)}
    assert len(trained) + len(held_out) == 60
    assert not trained & held_out


def test_held_out_rows_of_their_own_are_all_held_out(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", sums(20))
    held_out = write_rows(tmp_path / "test.jsonl", sums(5, first=20))
    task = build_dataset({"path": path, "evaluation_path": held_out})
    assert len(task.training_prompts()) == 20
    assert {int(p.columns["answer"]) for p in task.evaluation_prompts(9)} == {40, 42, 44, 46, 48}


def test_a_training_row_that_is_held_out_too_is_refused(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", sums(20))
    held_out = write_rows(tmp_path / "test.jsonl", sums(5, first=18))
    with pytest.raises(DataError) as caught:
        build_dataset({"path": path, "evaluation_path": held_out})
    assert str(caught.value) == (
        f"Line 19 of '{path}' cannot be used (nor can 1 more): its prompt is held out too, in "
        f"line 1 of '{held_out}'; keep one of the two."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The data set 'bad.jsonl' is empty; it needs one row a problem."),
        ("\n\n", "The data set 'bad.jsonl' is empty; it needs one row a problem."),
        (
            GOOD + '{"prompt": }\n',
            "Line 2 of 'bad.jsonl' cannot be used: it is not JSON (Expecting value at column 12); "
            "write one JSON object on each line.",
        ),
        (
            GOOD + "\n[1, 2]\n7\n",
            "Line 3 of 'bad.jsonl' cannot be used (nor can 1 more): it holds a list and not an "
            "object; write one JSON object on each line.",
        ),
        (
            GOOD.encode() + b'{"prompt": "caf\xe9"}\n',
            "Line 2 of 'bad.jsonl' cannot be used: it is not UTF-8 at byte 16; save the file as "
            "UTF-8.",
        ),
        (
            '{"question": "one", "answer": 1}\n' * 3,
            "Line 1 of 'bad.jsonl' cannot be used (nor can 2 more): it has no column 'prompt', "
            "only 'question', 'answer'; correct 'task.prompt_column'.",
        ),
        (
            "{}\n",
            "Line 1 of 'bad.jsonl' cannot be used: it has no column 'prompt', only none; correct "
            "'task.prompt_column'.",
        ),
        (
            GOOD + '{"prompt": " \\n"}\n',
            "Line 2 of 'bad.jsonl' cannot be used: its prompt is empty; write one or remove the "
            "row.",
        ),
        (
            GOOD + '{"prompt": null}\n',
            "Line 2 of 'bad.jsonl' cannot be used: its 'prompt' is empty (null); fill it or remove "
            "the row.",
        ),
        (
            GOOD + '{"prompt": 12}\n',
            "Line 2 of 'bad.jsonl' cannot be used: its 'prompt' is 12, but a prompt is a text or a "
            "list of {role, content}.",
        ),
        (
            GOOD + GOOD,
            "Line 2 of 'bad.jsonl' cannot be used: it is the same as line 1 of 'bad.jsonl'; remove "
            "one, or tell them apart by 'task.id_column'.",
        ),
        (
            GOOD + '{"prompt": "two", "x": NaN}\n',
            "Line 2 of 'bad.jsonl' cannot be used: the column 'x' holds a number that is not "
            "finite or far too long; store it as text or as a finite number.",
        ),
        (
            GOOD + '{"prompt": "\\ud800"}\n',
            "Line 2 of 'bad.jsonl' cannot be used: the column 'prompt' holds half a character (a "
            "surrogate); write it whole.",
        ),
        (
            GOOD + '{"prompt": "two", "completions": 1}\n',
            "Line 2 of 'bad.jsonl' cannot be used: it has a column 'completions', the name under "
            "which a verifier is given the answers; rename it.",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, text, message):
    assert refusal(tmp_path, text) == message


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"prompt": "two", "n": ' + "9" * 5000 + "}", '{"prompt": "t", "n": 1e999}'],
)
def test_json_that_python_cannot_hold_is_a_bad_row(tmp_path, line):
    assert refusal(tmp_path, GOOD + line).startswith("Line 2 of 'bad.jsonl' cannot be used: ")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "its 'prompt' is [], but a prompt is a text or a list of"),
        (["hello"], "holds the message 'hello', but a message has a role"),
        ([{"role": "robot", "content": "hi"}], "a role (one of system, user, assistant"),
        ([{"role": "user", "content": " "}], "holds the message {'role': 'user', 'content': ' '}"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a content that is a text"),
        ([{"role": "user", "content": "hi", "tool_calls": [1]}], "and nothing else"),
        (
            [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
            "ends with a message of the assistant, so that the answer stands in the prompt",
        ),
    ],
)
def test_a_bad_chat_is_refused(tmp_path, turns, reason):
    assert reason in refusal(tmp_path, GOOD + json.dumps({"prompt": turns}))


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        (
            {"id": True},
            {"id_column": "id"},
            "its 'id' is True, but an id is a text or a whole number",
        ),
        ({"id": ""}, {"id_column": "id"}, "its 'id' is ''"),
        ({"id": 1.5}, {"id_column": "id"}, "its 'id' is 1.5"),
        (
            {"id": "a"},
            {"id_column": "name"},
            "no column 'name', only 'prompt', 'id'; correct 'task.id_",
        ),
        ({"l": [1]}, {"level_column": "l"}, "its 'l' is [1], but a level is a text or a number"),
        ({"l": None}, {"level_column": "l"}, "its 'l' is empty (null)"),
        (
            {"l": 1},
            {"template": "{q}"},
            "no column 'q', only 'prompt', 'l'; correct 'task.template'",
        ),
    ],
)
def test_bad_ids_levels_and_fields_are_refused(tmp_path, row, options, reason):
    assert reason in refusal(tmp_path, json.dumps({"prompt": "one", **row}), **options)


def test_an_id_that_stands_twice_names_both_rows(tmp_path):
    text = '{"prompt": "one", "id": "a"}\n{"prompt": "two", "id": "a"}\n'
    assert refusal(tmp_path, text, id_column="id") == (
        "Line 2 of 'bad.jsonl' cannot be used: it has the 'id' 'a', as line 1 of 'bad.jsonl' has; "
        "give each its own."
    )


def test_a_wide_row_does_not_fill_the_screen(tmp_path):
    row = json.dumps({f"column{n}": n for n in range(500)})
    assert refusal(tmp_path, row).endswith("'column19' and 480 more; correct 'task.prompt_column'.")


def test_control_codes_in_data_do_not_reach_the_message(tmp_path):
    row = json.dumps({"\x1b[2Jquestion": 1})
    assert "\x1b" not in refusal(tmp_path, row)


def test_a_parquet_value_that_json_cannot_hold_is_a_bad_row(tmp_path):
    path = tmp_path / "data.parquet"
    rows = [{"prompt": "a", "when": None}, {"prompt": "b", "when": datetime.date(2026, 1, 2)}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(
        DataError, match=r"^Row 2 of .*the column 'when' holds what JSON cannot \(Obj"
    ):
        build_dataset({"path": str(path)})


def test_parquet_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    path = tmp_path / "data.parquet"
    raw = pyarrow.array([b"fine", b"caf\xe9", b"good"], type=pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.utf8(), 3, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": text}), path)
    with pytest.raises(DataError, match=r"^Row 2 of '.*data.parquet' cannot be used: .*not UTF-8"):
        build_dataset({"path": str(path)})


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not parquet at all"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, damage):
    message = refusal(tmp_path, damage, name="bad.parquet")
    assert "cannot be read as Parquet (" in message


def test_a_damaged_parquet_page_is_refused(tmp_path):
    path = tmp_path / "data.parquet"
    table = pyarrow.table({"prompt": [f"prompt number {n}" for n in range(5000)]})
    pyarrow.parquet.write_table(table, path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    assert "Parquet" in refusal(tmp_path, bytes(content), name="worse.parquet")


def test_a_parquet_file_without_rows_is_empty(tmp_path):
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.utf8())}), path)
    with pytest.raises(DataError, match="is empty; it needs one row a problem"):
        build_dataset({"path": str(path)})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/such/file.jsonl", "There is no data file 'no/such/file.jsonl'; check the path."),
        ("nothing.parquet", "There is no data file 'nothing.parquet'; check the path."),
        (
            "no/such/folder",
            "There is no data file or folder 'no/such/folder', nor can this be a Hub name; check "
            "the path.",
        ),
    ],
)
def test_a_missing_file_is_named(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        build_dataset({"path": path})
    assert str(caught.value) == message


def test_a_file_of_another_kind_is_refused(tmp_path):
    assert refusal(tmp_path, "a,b\n", name="data.csv") == (
        "The data file 'data.csv' is neither .jsonl nor .parquet; convert it to one of them."
    )


def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path):
    (tmp_path / "data.jsonl").mkdir()
    with pytest.raises(DataError, match=r"There is no data file '.*data\.jsonl'"):
        build_dataset({"path": str(tmp_path / "data.jsonl")})


def test_a_set_too_small_to_hold_anything_out_is_refused(tmp_path):
    rows = sums(40)
    path = tmp_path / "d.jsonl"
    held_out = {
        p.content for p in build_dataset({"path": write_rows(path, rows)}).evaluation_prompts(99)
    }
    kept = [row for row in rows if row["prompt"] not in held_out]
    with pytest.raises(DataError, match="none is left to hold out at a"):
        build_dataset({"path": write_rows(path, kept)})
    gone = [row for row in rows if row["prompt"] in held_out]
    with pytest.raises(DataError, match=r"none is left to train on .* lower it"):
        build_dataset({"path": write_rows(path, gone)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "'task.path' is missing"),
        ({"evaluation_share": 0.2, "evaluation_path": "x.jsonl"}, "'task.evaluation_share' is 0.2"),
        ({"evaluation_share": 0}, "must be above 0 and at most 0.9"),
        ({"prompt_column": ""}, "'task.prompt_column' is empty"),
        ({"split": "test"}, "only Hub data sets have them"),
        ({"evaluation_split": "test"}, "only Hub data sets have them"),
        ({"system_prompt": "Be brief."}, "set 'task.chat' to true"),
        ({"template": "no field"}, "names no column"),
        ({"template": "Solve {prompt"}, "has a single brace"),
        ({"template": "\\boxed{} {prompt}"}, "has the field {}, but a field is a column's name"),
        ({"template": "{prompt!r}"}, "has the field {prompt!r}"),
        ({"template": "{prompt:>{width}}"}, "has the field {prompt:>{width}}"),
    ],
)
def test_settings_at_odds_are_refused_in_one_sentence(tmp_path, options, message):
    path = write_rows(tmp_path / "d.jsonl", sums(40))
    with pytest.raises(SettingError) as caught:
        build_dataset({"path": path, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["{prompt.__class__}", "{prompt[0]}", "{0}"])
def test_a_template_reaches_no_attribute_and_no_index(tmp_path, template):
    text = '{"prompt": "one"}\n'
    assert "it has no column '" + template[1:-1] + "'" in refusal(tmp_path, text, template=template)


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """The `datasets` library, offline, with its cache in a folder of the test."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path / "cache"


def test_a_data_set_is_loaded_through_the_datasets_library(tmp_path, monkeypatch, datasets_cache):
    folder = tmp_path / "sets" / "sums"
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", sums(20))
    write_rows(folder / "test.jsonl", sums(5, first=20))
    monkeypatch.chdir(tmp_path)
    task = build_dataset({"path": "sets/sums", "evaluation_split": "test"})
    assert task.name == "sets/sums"
    assert [p.content for p in task.training_prompts()] == [row["prompt"] for row in sums(20)]
    assert len(task.evaluation_prompts(99)) == 5
    assert task.training_prompts()[3].columns == {"answer": "6", "digits": 1}


def test_an_unknown_split_and_a_hub_that_cannot_be_reached_are_one_sentence(
    tmp_path, datasets_cache
):
    folder = tmp_path / "sums"
    folder.mkdir()
    write_rows(folder / "train.jsonl", sums(20))
    with pytest.raises(DataError, match="The split 'dev' of the data set") as caught:
        build_dataset({"path": str(folder), "split": "dev"})
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="data set 'nobody-here/nothing' could not be loaded"):
        build_dataset({"path": "nobody-here/nothing"})
