"""Mistakes, through the real command line: one sentence, the right exit code, never a traceback.

Exit codes: 2 for what the user got wrong, 3 for a run that stopped itself. A mistake is found
before anything is written.
"""

import io
import json
import os
import re
import subprocess
import sys

import huggingface_hub.constants
import pytest

from tests.rollout_models import save_policy, tiny_model
from tests.run_folder_builder import build_run

VERIFIERS = """
import math
import time


def fair(completions, answer, **columns):
    return [text.strip() == right for text, right in zip(completions, answer)]


def raises(completions, **columns):
    raise RuntimeError("the judge is asleep")


def returns_none(completions, **columns):
    return None


def holds_none(completions, **columns):
    return [None]


def holds_nan(completions, **columns):
    return [math.nan]


def too_many(completions, **columns):
    return [1.0, 1.0]


def hangs(completions, **columns):
    time.sleep(60)


def mostly_raises(completions, answer, **columns):
    if int(answer[0]) % 4:
        raise RuntimeError("the judge is asleep")
    return [False]


def odd_signature(text):
    return [1.0]


def wants_gold(completions, gold):
    return [1.0]
"""

RECIPE = """
algorithm: bapo
model: model
task: {name: dataset, path: sums.jsonl}
steps: 2
rollout: {group_size: 2, max_new_tokens: 4}
reward: {verifier: 'verifiers.py:fair', timeout_seconds: 0.5, workers: 2}
training: {batch_groups: 2}
evaluation: {every: 0, prompts: 2, samples: 1, training_prompts: 0}
"""


def sums(count=40, **columns):
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1), **columns} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("models") / "model", tiny_model())


@pytest.fixture
def place(tmp_path, monkeypatch, saved_model):
    """The current folder, with a recipe, data, verifiers and a tiny random model in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for processes of their own; this one has read it
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "model").symlink_to(saved_model)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "sums.jsonl").write_text(sums())
    (tmp_path / "verifiers.py").write_text(VERIFIERS)
    return tmp_path


@pytest.fixture
def bapo(bapo, place):
    """The command line, in that folder."""
    return bapo


@pytest.fixture
def refused(bapo, place):
    """Runs `bapo train recipe.yaml ...`, which must be refused; gives the sentence."""

    def run(*overrides):
        code, _, err = bapo("train", "recipe.yaml", *overrides, "--output", "run")
        assert code == 2, err
        return sentence(err, place)

    return run


def sentence(err, place):
    """The one line on stderr, without `bapo: `; nothing may have been written."""
    (line,) = err.splitlines()
    assert line.startswith("bapo: ")
    assert line.endswith((".", "?"))
    assert not (place / "run").exists()
    return line.removeprefix("bapo: ")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainin.batch_groups=4", "Unknown setting 'trainin': did you mean 'training'?"),
        (
            "training.batch_group=4",
            "Unknown setting 'training.batch_group': did you mean 'batch_groups'?",
        ),
        ("task.pth=x", "Unknown setting 'task.pth': did you mean 'path'?"),
        ("task.name=countdwn", "Unknown task 'countdwn': did you mean 'countdown'?"),
        ("algorithm=bap", "Unknown algorithm 'bap': did you mean 'bapo'?"),
        (
            "training.learning_rate=-1",
            "'training.learning_rate' is -1.0, but must be above 0.",
        ),
        ("rollout.group_size=1", "'rollout.group_size' is 1, but must be 2 to 1024."),
        ("steps=0", "'steps' must be a whole number of at least 1, but is 0."),
        ("steps=two", "'steps' must be a whole number of at least 1, but is 'two'."),
        ("steps", "The override 'steps' must have the form section.key=value."),
        (
            "steps=[",
            "The value of the override 'steps=[' is not valid YAML; put a text with such signs in "
            "double quotes, and all of it in single ones: 'steps=\"...\"'.",
        ),
        (
            "task.max_bad_shar=0.5",
            "Unknown setting 'task.max_bad_shar': did you mean 'max_bad_share'?",
        ),
        (
            "reward.verifier=",
            "'reward.verifier' is empty, but must be a text; give it, or leave it out.",
        ),
        (
            "logging.trackers=[tensorbord]",
            "'logging.trackers' is 'tensorbord', but must be one of tensorboard, wandb, trackio.",
        ),
        (
            "training.updates_per_step=3",
            "'training.updates_per_step' is 3, but a batch has only 2 groups; lower it or raise "
            "'training.batch_groups'.",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(refused, override, expected):
    assert refused(override) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.pth=x", "Unknown setting 'task.pth': did you mean 'path'?"),
        ("task.evaluation_share=2", "'task.evaluation_share' is 2.0, but must be above 0 and "),
        ("reward.verifier=absent.py:verify", "The verifier 'absent.py:verify' was not found: "),
        ("logging.trackers=[wandb]", "'logging.trackers' names wandb, which is not installed; "),
    ],
)
def test_what_is_wrong_beside_the_model_is_said_before_it_is_looked_for(
    refused, monkeypatch, override, expected
):
    monkeypatch.setattr("bapo.training.preparation.get_available_trackers", list)
    assert refused("model=someone/absent", override).startswith(expected)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("./absent", "The model folder './absent' does not exist; name a folder made by"),
        ("empty", "The model folder 'empty' has no config.json; name one made by save_pretrained."),
        ("embedded:chess", "There is no model 'embedded:chess'; the embedded models are:"),
        (
            "modle",
            "There is no model folder 'modle': did you mean 'model'? A model of the Hub goes",
        ),
        ("someone/absent", "The model 'someone/absent' could not be read, neither as a folder nor"),
    ],
)
def test_a_missing_model_is_named(refused, place, model, expected):
    (place / "empty").mkdir()
    assert refused(f"model={model}").startswith(expected)


def test_a_model_without_weights_is_refused(refused, place):
    (place / "hollow").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (place / "hollow" / name).write_bytes((place / "model" / name).read_bytes())
    message = refused("model=hollow")
    assert message.startswith("The weights of the model 'hollow' could not be loaded: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "The data set 'bad.jsonl' is empty; it needs one row a problem."),
        (
            '{"prompt": "1+1="}\n{"prompt": \n',
            "Line 2 of 'bad.jsonl' cannot be used: it is not JSON (Expecting value at column 11); "
            "write one JSON object on each line; 1 of 2 rows are bad, more than ",
        ),
        (
            '{"question": "1+1="}\n{"question": "2+2="}\n',
            "Line 1 of 'bad.jsonl' cannot be used (nor can 1 more): it has no column 'prompt', "
            "only 'question'; correct 'task.prompt_column'.",
        ),
        ("[1, 2]\n", "Line 1 of 'bad.jsonl' cannot be used: it holds a list and not an object;"),
    ],
)
def test_data_that_cannot_be_used_is_named_with_its_line(refused, place, content, expected):
    (place / "bad.jsonl").write_text(content)
    assert refused("task.path=bad.jsonl").startswith(expected)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.json", "absent.csv"])
def test_a_missing_data_file_is_named(refused, name):
    assert refused(f"task.path={name}") == f"There is no data file '{name}'; check the path."


def test_a_prompt_longer_than_the_model_allows_is_named(refused, place):
    rows = sums(60).splitlines()
    rows[3] = json.dumps({"prompt": "1+" * 70, "answer": "70", "name": "the long one"})
    rows = [json.dumps({"name": str(n), **json.loads(row)}) for n, row in enumerate(rows)]
    (place / "long.jsonl").write_text("\n".join(rows))
    strict = ("task.strict=true", "evaluation.prompts=60")
    message = refused("task.path=long.jsonl", "task.id_column=name", *strict)
    assert message == (
        "Line 4 of 'long.jsonl' cannot be used: its prompt has 140 tokens, more than the 124 that "
        "fit; shorten it, raise 'rollout.max_prompt_tokens', or lower 'rollout.max_new_tokens' if "
        "the model's positions are the limit."
    )


def test_completions_longer_than_the_model_allows_are_refused(refused):
    assert refused("rollout.max_new_tokens=128") == (
        "'rollout.max_new_tokens' is 128, but the model has only 128 positions for prompt and "
        "completion together; lower it, for example to 64."
    )


def test_a_tracker_that_is_not_installed_is_named(refused, monkeypatch):
    monkeypatch.setattr("bapo.training.preparation.get_available_trackers", list)
    assert refused("logging.trackers=[wandb]") == (
        "'logging.trackers' names wandb, which is not installed; install bapo[trackers], or leave "
        "it out."
    )


def test_too_few_prompts_for_a_batch_are_refused(refused):
    message = refused("training.batch_groups=64")
    assert message.startswith("The task has ")
    assert "but a step draws 64; add prompts or lower 'training.batch_groups'." in message


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("countdown-dmo", "There is no recipe 'countdown-dmo': did you mean 'countdown-demo'?"),
        ("absent.yaml", "There is no recipe 'absent.yaml': "),
        ("list.yaml", "The recipe 'list.yaml' must be a mapping of settings, but is ['a']."),
        (
            "torn.yaml",
            "The recipe 'torn.yaml' is not valid YAML: expected the node content, but found "
            "'<stream end>' in line 1, column 9.",
        ),
        ("void.yaml", "The recipe 'void.yaml' is empty; it needs at least a model and a task."),
        ("binary.yaml", "The recipe 'binary.yaml' is not valid YAML: it is not UTF-8 at byte 1."),
        ("unnamed.yaml", "'model' is missing: name a folder, a Hub name, or embedded:countdown."),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(bapo, place, recipe, expected):
    (place / "list.yaml").write_text("- a\n")
    (place / "void.yaml").write_text("# nothing\n")
    (place / "torn.yaml").write_text("model: [")
    (place / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (place / "unnamed.yaml").write_text("task: countdown\n")
    code, _, err = bapo("train", recipe, "--output", "run")
    assert code == 2
    assert sentence(err, place).startswith(expected)


@pytest.mark.parametrize(
    ("verifier", "expected"),
    [
        ("absent.py:verify", "The verifier 'absent.py:verify' was not found: there is no file "),
        ("verifiers.py:absent", "has no 'absent'."),
        ("verifiers.py", "must be named as module:function or file.py:function."),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError: No module named"),
        ("verifiers.py:odd_signature", "it must take 'completions' and columns by name"),
        ("verifiers.py:wants_gold", "needs the column 'gold', which it lacks; its columns"),
        ("golden.py:verify", "calls its golden case '2' wrong (score 0), but GOLDEN says right."),
        ("torn.py:verify", "cannot be imported: SyntaxError"),
    ],
)
def test_a_verifier_that_cannot_work_stops_the_run_before_it_starts(
    refused, place, verifier, expected
):
    golden = (
        'GOLDEN = [("2", {}, True)]\n\n\ndef verify(completions, **columns):\n    return [0.0]\n'
    )
    (place / "golden.py").write_text(golden)
    (place / "torn.py").write_text("def verify(")
    assert expected in refused(f"reward.verifier={verifier}")


def test_no_verifier_at_all_is_refused(refused):
    assert refused("reward.verifier=''").startswith("'reward.verifier' is missing, and the task ")


@pytest.mark.parametrize(
    ("verifier", "status", "detail"),
    [
        (
            "raises",
            "error",
            "The verifier raised RuntimeError: the judge is asleep (verifiers.py, ",
        ),
        ("returns_none", "invalid", "The verifier returned None where a list with one result "),
        ("holds_none", "invalid", "The verifier returned None for this completion."),
        ("holds_nan", "invalid", "The verifier returned nan, which is not a finite number."),
        ("too_many", "invalid", "The verifier returned 2 results for 1 completion."),
        ("hangs", "timeout", "The verifier ran for more than 0.5 s."),
    ],
)
def test_a_verifier_that_always_fails_stops_the_run_before_anything_is_measured(
    refused, verifier, status, detail
):
    message = refused(f"reward.verifier=verifiers.py:{verifier}", "training.batch_groups=2")
    expected = "The verifier fails on all of 8 answers that it was tried on; the first one is "
    assert message.startswith(f"{expected}{status}: {detail}")


def test_a_run_whose_verifier_fails_too_often_stops_itself(bapo):
    code, _, err = bapo(
        *("train", "recipe.yaml", "reward.verifier=verifiers.py:mostly_raises"),
        *("training.batch_groups=32", "--output", "run"),
    )
    assert code == 3
    (line,) = err.splitlines()
    assert re.match(r"bapo: The run stopped at step 1: \d+ of 64 verdicts are not ok, ", line)
    assert "more than 'reward.max_invalid_share' (0.5) allows; the first one is error: " in line
    assert "The verifier raised RuntimeError: the judge is asleep (verifiers.py, line " in line


def test_a_run_that_may_go_on_counts_the_verdicts_that_failed(bapo, place):
    code, _, err = bapo(
        *("train", "recipe.yaml", "reward.verifier=verifiers.py:holds_nan"),
        *("reward.max_invalid_share=1", "--output", "run"),
    )
    assert code == 1  # it goes on to its end, but that is no success
    assert "no optimizer update was made in 2 steps" in err
    lines = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["verdicts_invalid"] for line in lines] == [4, 4]
    assert [line["verdicts_ok"] for line in lines] == [0, 0]
    assert [line["groups_unverified"] for line in lines] == [2, 2]
    assert [line["correctness_fresh"] for line in lines] == [None, None]
    assert [line["updates"] for line in lines] == [0, 0]


def test_a_folder_with_something_in_it_is_left_alone(bapo, place):
    (place / "taken").mkdir()
    (place / "taken/thesis.txt").write_text("mine")
    for arguments in (("train", "recipe.yaml"), ("warmstart", "countdown-base")):
        code, out, err = bapo(*arguments, "--output", "taken")
        assert (code, out) == (2, "")
        assert sentence(err, place).startswith("The folder 'taken' is not empty; ")
    assert [path.name for path in (place / "taken").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("output", ["file", "file/below"])
@pytest.mark.parametrize("command", ["train", "compare", "warmstart"])
def test_an_output_that_cannot_be_a_folder_is_refused_at_once(bapo, place, command, output):
    (place / "file").write_text("mine")
    code, out, err = bapo(command, "countdown-base", "--output", output)
    assert (code, out) == (2, "")
    assert sentence(err, place) == (
        f"The folder '{output}' cannot be made: '{place / 'file'}' is a file."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_in_a_folder_that_cannot_be_written_to_is_refused_at_once(bapo, place):
    (place / "locked").mkdir(mode=0o500)
    code, _, err = bapo("train", "recipe.yaml", "--output", "locked/run")
    assert code == 2
    assert "cannot be written to; name another with --output." in sentence(err, place)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("eval", "model"), "Name the task with --task, such as --task countdown-4."),
        (
            ("eval", "model", "evaluation.prompts=4", "--task", "countdown"),
            "'evaluation.prompts' is a setting of runs; bapo eval takes --prompts 4 instead.",
        ),
        (
            ("eval", "model", "seed=3", "--task", "countdown"),
            "'seed' is a setting of runs; bapo eval takes --seed 3 instead.",
        ),
        (("eval", "model", "--task", "chess"), "Unknown task 'chess': known are aime24, "),
        (("eval", "./absent", "--task", "countdown"), "The model folder './absent' does not exist"),
        (("eval", "unfinished"), "The run 'unfinished' has no trained model; one is written when"),
        (
            ("eval", "model", "--task", "countdown", "--temperature", "0"),
            "'evaluation.temperature' is 0.0, but must be above 0 and at most 10.",
        ),
        (("compare", "recipe.yaml", "--algorithms", "grpo,bap"), "Unknown algorithm 'bap': did"),
        (("compare", "recipe.yaml", "--algorithms", ""), "The option --algorithms is empty; give"),
        (("compare", "recipe.yaml", "--algorithms", "grpo,grpo"), "The option --algorithms names"),
        (("compare", "recipe.yaml", "--seeds", "one"), "The option --seeds is 'one', but must"),
        (("report", "absent"), "There is no folder 'absent': name a run folder or a folder of"),
        (("report", "nothing"), "There is no run folder in 'nothing': one holds recipe.yaml and"),
        (("inspect", "nothing"), "'nothing' is not a run folder: one holds recipe.yaml and"),
        (("warmstart", "recipe.yaml"), "The recipe 'recipe.yaml' is for training and not for a"),
        (("compare", "countdown-base"), "The recipe 'countdown-base' is for a cold start and not"),
        (("eval", "absent/run/it"), "There is neither a run nor a model in 'absent/run/it'."),
        (("warmstart", "countdown-base", "steps=0"), "'steps' must be a whole number of at least"),
        (
            ("warmstart", "countdown-base", "model.positions=8", "training.batch=2"),
            "'model.positions' is 8, but an example of the task 'CD-34' takes ",
        ),
        (("demo", "--resume", "--output", "nothing"), "There is no demo in 'nothing' that could"),
        (("demo", "sted=1"), "Unknown setting 'sted': did you mean 'seed'?"),
    ],
)
def test_every_command_says_in_one_sentence_what_is_wrong(bapo, place, arguments, expected):
    (place / "nothing").mkdir()
    (place / "unfinished").mkdir()
    (place / "unfinished/recipe.yaml").write_text(RECIPE)
    if arguments[0] in ("compare", "warmstart"):
        arguments = (*arguments, "--output", "run")
    code, out, err = bapo(*arguments)
    assert (code, out) == (2, "")
    assert sentence(err, place).startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        (("train", "recipe.yaml"), "Missing option '--output'"),
        (("train",), "Missing argument 'recipe'"),
        (("train", "recipe.yaml", "--outptu", "run"), "No such option: --outptu"),
        (("eval", "model", "--samples", "0"), "Invalid value for '--samples'"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_is_a_usage_error(bapo, arguments, expected):
    code, out, err = bapo(*arguments)
    assert (code, out) == (2, "")
    assert expected in " ".join(err.split())


@pytest.mark.parametrize(
    "command", ["train", "compare", "eval", "report", "inspect", "warmstart", "demo"]
)
def test_the_help_of_each_command_shows_an_example(bapo, command):
    code, out, _ = bapo(command, "--help")
    assert code == 0
    assert f"Example: bapo {command}" in " ".join(out.split())


def test_a_run_can_be_measured_inspected_and_reported_by_its_folder_alone(bapo, place):
    (place / "sums.jsonl").write_text(sums(200))
    command = ("train", "recipe.yaml", "adaptation.filter_fresh=false", "--output", "run")
    assert bapo(*command)[0] == 0
    verifier = "reward.verifier=verifiers.py:fair"
    code, out, _ = bapo("eval", "run", verifier, "--prompts", "2", "--samples", "2")
    assert code == 0
    assert "run on sums" in out
    assert "95 %" in out
    # A held-out prompt that is left out is said, but not where the JSON object stands.
    short = ("rollout.max_prompt_tokens=5", "--prompts", "20", "--samples", "2", "--json")
    code, out, err = bapo("eval", "run", verifier, *short)
    assert (code, json.loads(out)["levels"]["all"]["problems"] < 20) == (0, True)
    assert "held-out prompts cannot be used, the first of them" in err
    code, out, _ = bapo("eval", "run", verifier, "--prompts", "2", "--samples", "2", "--json")
    told = json.loads(out)
    assert (code, told["task"], told["levels"].keys()) == (0, "sums", {"all"})
    whole = told["levels"]["all"]
    assert (whole["problems"], whole["samples"], whole["valid_share"]) == (2, 2, 1.0)
    assert 0 <= whole["pass_at_1_low"] <= whole["pass_at_1"] <= whole["pass_at_1_high"] <= 1
    assert bapo("inspect", "run")[0] == 0
    code, out, _ = bapo("report", "run", "--output", "page.html")
    assert (code, out) == (0, "Wrote the report page.html.\n")
    assert (place / "page.html").is_file()


def test_a_warm_started_model_can_be_measured_as_its_last_line_says(bapo, place):
    code, out, _ = bapo(
        *("warmstart", "countdown-base", "steps=1", "training.batch=2", "model.layers=1"),
        *("model.hidden=16", "model.heads=2", "--output", "made"),
    )
    assert code == 0
    advice = out.splitlines()[-1].partition("measure it with: bapo ")[2].split()
    code, out, err = bapo(*advice, "--prompts", "2", "--samples", "1")
    assert code == 0, err
    assert "made on CD-34" in out


def test_a_real_process_gives_the_same_sentence_and_exit_code(place):
    done = subprocess.run(
        [sys.executable, "-m", "bapo", "train", "recipe.yaml", "stesp=1", "--output", "run"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == (
        "",
        "bapo: Unknown setting 'stesp': did you mean 'steps'?\n",
    )


def test_a_real_process_that_stops_itself_ends_with_three_and_no_traceback(place):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bapo", "train", "recipe.yaml", "--output", "run"),
            *("reward.verifier=verifiers.py:mostly_raises", "training.batch_groups=32"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "the judge is asleep" in done.stderr


def test_a_sign_that_the_terminal_cannot_show_ends_nothing(bapo, place, monkeypatch):
    build_run(place / "run", steps=1)
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    bapo("inspect", "run")
    narrow.flush()
    assert b"?%" in narrow.buffer.getvalue()


def test_the_version_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "bapo", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"bapo \d+\.\d+\.\d+\n", done.stdout)
