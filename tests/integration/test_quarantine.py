"""Bad rows through the real command line: set aside and said, or one sentence with `--strict`."""

import pytest

from tests.resumable_runs import json_lines, make_ingredients

QUICK = (
    *("steps=1", "training.checkpoint_every=0", "evaluation.every=0"),
    *("evaluation.training_prompts=0", "task.max_bad_share=0.2"),
)


@pytest.fixture
def bapo(bapo, tmp_path):
    """Trains on data with one row that is not JSON and one that is too long."""
    recipe = make_ingredients(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("oops\n" + '{"id": "long", "prompt": "' + "1" * 200 + '", "sign": "1"}\n')
    with (tmp_path / "held-out.jsonl").open("a") as file:
        file.write('{"id": "wide", "prompt": "' + "2" * 200 + '", "sign": "1"}\n' * 1)

    def train(*arguments):
        code, out, err = bapo("train", recipe, *QUICK, *arguments, "--output", tmp_path / "run")
        return code, " ".join(out.split()), " ".join(err.split())

    return train


def test_bad_rows_are_set_aside_and_said(bapo, tmp_path):
    code, out, err = bapo("task.max_bad_share=0.5", "evaluation.prompts=9")
    assert code == 0, err
    assert "rows of the data that cannot be used and are set aside: 3; quarantine.jsonl says" in out
    lines = json_lines(tmp_path / "run" / "quarantine.jsonl")
    assert [(line["row"], line["prompt_id"]) for line in lines] == [
        (11, None),
        (12, "long"),
        (4, "wide"),
    ]


@pytest.mark.parametrize("how", ["--strict", "task.strict=true"])
def test_strict_stops_with_one_sentence_and_writes_nothing(bapo, tmp_path, how):
    code, _, err = bapo(how)
    assert code == 2
    assert f"Line 11 of '{tmp_path / 'train.jsonl'}' cannot be used: it is not JSON" in err
    assert not (tmp_path / "run").exists()


def test_too_many_bad_rows_stop_the_run_before_it_begins(bapo, tmp_path):
    code, _, err = bapo("task.max_bad_share=0.1")
    assert code == 2
    assert "2 of 12 rows are bad, more than 'task.max_bad_share' (0.1) allows." in err
    assert not (tmp_path / "run").exists()


def test_a_broken_verifier_stops_at_step_0(bapo, tmp_path):
    (tmp_path / "verifier.py").write_text(
        'GOLDEN = [("4", {"sign": "4"}, True)]\n\n'
        "def verify(completions, sign, **columns):\n    return [0.0 for _ in completions]\n"
    )
    code, _, err = bapo()
    assert code == 2
    assert "calls its golden case '4' wrong (score 0), but GOLDEN says right." in err
    assert not (tmp_path / "run").exists()


def test_gold_answers_that_the_verifier_cannot_read_are_set_aside(bapo, tmp_path):
    (tmp_path / "verifier.py").write_text(
        "def check_columns(sign, **columns):\n"
        "    return 'the sign is odd' if sign in '13' else None\n\n"
        "def verify(completions, sign, **columns):\n    return [1.0 for _ in completions]\n"
    )
    code, _, err = bapo("task.max_bad_share=0.5", "adaptation.filter_fresh=false")
    assert code == 0, err
    rows = {
        line["prompt_id"]: line["reason"]
        for line in json_lines(tmp_path / "run" / "quarantine.jsonl")
    }
    assert rows["row-1"] == rows["row-3"]
    assert rows["row-3"].endswith("cannot use it (the sign is odd)")
