"""Pictures of a user's data, by path or as bytes: named while rows are read, read when shown."""

import io
import json
from dataclasses import asdict

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from bapo.config import TaskSettings
from bapo.errors import DataError
from bapo.tasks import build_task, open_image
from bapo.types import ImageKind


def picture(shade, size=(8, 6)):
    return Image.new("RGB", size, (shade, 0, 255 - shade))


def encoded(shade, size=(8, 6)):
    stream = io.BytesIO()
    picture(shade, size).save(stream, format="PNG")
    return stream.getvalue()


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return str(path)


def shade_of(reference):
    return int(np.asarray(open_image(reference))[0, 0, 0])


def built(path, **options):
    given = {"path": path, "prompt_column": "problem", "image_column": "images", **options}
    return build_task(TaskSettings("dataset", given, max_bad_share=0.9))


def rows_with_bytes(count=24, size=(8, 6)):
    return [
        {
            "images": [{"bytes": encoded(number, size), "path": None}],
            "problem": "<image>Find x.",
            "answer": str(number),
        }
        for number in range(count)
    ]


def prompts_of(task):
    return [*task.training_prompts(), *task.evaluation_prompts(1000)]


def test_bytes_in_a_parquet_file_are_named_and_read_again(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", rows_with_bytes())
    prompts = prompts_of(built(path))
    assert len(prompts) == 24
    for prompt in prompts:
        (image,) = prompt.images
        assert (image.kind, image.source) == (ImageKind.CELL, path)
        assert shade_of(image) == int(prompt.columns["answer"])
        assert prompt.columns == {"answer": prompt.columns["answer"]}
        assert len(json.dumps(asdict(image))) < 300  # a reference, and no picture


def test_the_same_words_with_another_picture_are_another_problem(tmp_path):
    rows = rows_with_bytes()
    held_out = write_parquet(tmp_path / "held_out.parquet", rows[:2])
    task = built(write_parquet(tmp_path / "rows.parquet", rows), evaluation_path=held_out)
    assert len({one.prompt_id for one in prompts_of(task)}) == 24
    assert len(task.training_prompts()) == 22
    reasons = [bad.reason for bad in task.reports[0].bad]
    assert len(reasons) == 2
    assert all("its prompt is held out too" in reason for reason in reasons)


def test_a_folder_that_the_datasets_library_reads_gives_the_same_pictures(tmp_path):
    write_parquet(tmp_path / "train.parquet", rows_with_bytes())
    prompts = prompts_of(built(str(tmp_path)))
    assert [shade_of(one.images[0]) for one in prompts] == [
        int(one.columns["answer"]) for one in prompts
    ]


def test_paths_are_relative_to_the_data_file(tmp_path):
    (tmp_path / "figures").mkdir()
    for number in range(24):
        picture(number).save(tmp_path / "figures" / f"{number}.png")
    lines = [
        {"images": f"figures/{number}.png", "problem": f"Find x {number}.", "answer": number}
        for number in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = prompts_of(built(str(tmp_path / "rows.jsonl"), chat=True))
    for prompt in prompts:
        assert prompt.content[0].content.startswith("<image>Find x")
        assert shade_of(prompt.images[0]) == prompt.columns["answer"]


def test_a_data_set_that_is_moved_with_its_pictures_is_divided_alike(tmp_path):
    lines = [{"images": f"{n}.png", "problem": "Find x.", "answer": n} for n in range(60)]
    held_out = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "rows.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        held_out.append({one.columns["answer"] for one in built(str(path)).evaluation_prompts(60)})
    assert held_out[0] == held_out[1]
    assert 0 < len(held_out[0]) < 60


@pytest.mark.parametrize(
    ("cell", "problem", "reason"),
    [
        ([], "Find x.", "its 'images' holds no picture"),
        (None, "Find x.", "its 'images' holds no picture"),
        ([7], "Find x.", "its 'images' holds 7, but a picture is a path, or bytes"),
        (["a.png"], "<image><image>", "has 2 times <image>, but there are 1 pictures"),
    ],
)
def test_a_row_whose_cell_holds_no_pictures_is_bad(tmp_path, cell, problem, reason):
    good = [{"images": ["a.png"], "problem": f"Find {n}.", "answer": 1} for n in range(40)]
    lines = [*good, {"images": cell, "problem": problem, "answer": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (bad,) = built(str(tmp_path / "rows.jsonl")).reports[0].bad
    assert bad.line == 41
    assert reason in bad.reason


def test_another_picture_in_the_same_place_is_found_out(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = rows_with_bytes()
    reference = prompts_of(built(write_parquet(path, rows)))[0].images[0]
    moved = tmp_path / "moved.parquet"
    write_parquet(moved, rows[::-1])
    spoiled = type(reference)(reference.kind, str(moved), reference.detail)
    with pytest.raises(DataError, match="holds another picture than when it was read first"):
        open_image(spoiled)


def test_geometry3k_is_read_by_name_from_a_copy(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", rows_with_bytes(40))
    task = build_task(TaskSettings("geometry3k", {"path": path}))
    prompt = task.training_prompts()[0]
    assert prompt.content[0].content.startswith("<image>Find x.\n")
    assert prompt.columns == {"answer": str(shade_of(prompt.images[0]))}
    assert task.verifier == "bapo.reward.verifiers.mathematics:verify"
