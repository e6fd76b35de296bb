"""What comes from somebody else is data: a run folder, a data file, a model or a recipe.

Each test plants code that would leave a file behind if it were run, in every way in which a file of
that kind could carry it.
"""

import contextlib
import json
import os
import pickle
import shutil

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from transformers import dynamic_module_utils

from bapo.config.settings import ModelSettings, TaskSettings
from bapo.errors import BapoError, DataError, ModelError, RunFolderError
from bapo.reporting import summarise_run, write_report
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.loading import load_policy
from bapo.tasks import build_task
from bapo.training import train
from bapo.training.manifest import write_manifest
from bapo.types import ChatMessage, Prompt
from tests.resumable_runs import make_ingredients, recipe_content, recipe_of
from tests.rollout_models import save_policy, tiny_model


@pytest.fixture(autouse=True)
def canary(tmp_path):
    """The file that code leaves behind where it is run; it never is."""
    path = tmp_path / "code was run"
    yield path
    assert not path.exists()


class Bomb:
    """Unpickling one runs a command."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_the_bomb_works(tmp_path):
    with pytest.raises(OSError, match="exists"):
        pickle.loads(pickle.dumps(Bomb(tmp_path)))


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingredients")
    make_ingredients(folder)
    return folder


@pytest.fixture(scope="module")
def finished(ingredients, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    overrides = ("steps=2", "training.checkpoint_every=1", "evaluation.every=0")
    train(recipe_of(ingredients, *overrides, "evaluation.training_prompts=0"), run)
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A run folder, to be spoiled."""
    return shutil.copytree(finished, tmp_path / "run")


YAML = (
    "!!python/object/apply:os.mkdir ['{canary}']",
    "!!python/object/new:os.mkdir ['{canary}']",
    "model: !!python/object/apply:os.mkdir ['{canary}']",
)


@pytest.mark.parametrize("text", YAML)
def test_a_recipe_with_python_tags_is_refused_and_not_run(bapo, tmp_path, canary, text):
    (tmp_path / "recipe.yaml").write_text(text.format(canary=canary))
    code, _, err = bapo("train", tmp_path / "recipe.yaml", "--output", tmp_path / "out")
    assert code == 2
    assert "is not valid YAML" in err
    code, _, err = bapo(
        "train", "countdown", text.format(canary=canary), "--output", tmp_path / "o"
    )
    assert code == 2


@pytest.mark.parametrize("text", YAML)
def test_a_run_folders_recipe_with_python_tags_is_refused_and_not_run(run, bapo, canary, text):
    (run / "recipe.yaml").write_text(text.format(canary=canary))
    with pytest.raises(RunFolderError, match="cannot be read"):
        summarise_run(run)
    with pytest.raises(RunFolderError, match="cannot be read"):
        write_report([run], run / "page.html")
    assert bapo("eval", run)[0] == 2


@pytest.mark.parametrize("name", ["ledger.jsonl", "metrics.jsonl", "rows.jsonl", "summary.json"])
def test_a_pickle_in_place_of_a_run_folders_file_is_refused_and_not_run(run, canary, name):
    (run / name).write_bytes(pickle.dumps(Bomb(canary)))
    # A file that is one line without its end is passed over: a run may be writing it.
    with contextlib.suppress(RunFolderError):
        summarise_run(run)


@pytest.mark.parametrize("part", ["optimizer", "model", "adaptation"])
@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_checkpoint_with_a_pickle_and_a_right_manifest_is_refused_and_not_run(
    run, ingredients, canary, part, ending
):
    folder = run / "checkpoints" / "step-000002"
    (folder / f"{part}.{ending}").write_bytes(pickle.dumps(Bomb(canary)))
    (folder / "manifest.json").unlink()
    write_manifest(folder, 2, 0.0)
    (run / "summary.json").unlink()
    recipe = recipe_of(
        ingredients,
        *("steps=2", "training.checkpoint_every=1", "evaluation.every=0"),
        "evaluation.training_prompts=0",
    )
    with pytest.raises(BapoError):
        train(recipe, run, resume=True)


@pytest.mark.parametrize("trusted", ["reward.verifier={}", ""])
def test_a_verifier_that_a_run_folder_names_is_only_run_if_the_user_names_it_too(
    run, bapo, tmp_path, trusted
):
    marker = tmp_path / "verified"
    verifier = run / "verify.py"
    verifier.write_text(
        f"open({str(marker)!r}, 'w').close()\ndef verify(completions, **columns):\n"
        "    return [0.0 for _ in completions]\n"
    )
    content = yaml.safe_load((run / "recipe.yaml").read_text())
    content["reward"]["verifier"] = f"{verifier}:verify"
    (run / "recipe.yaml").write_text(yaml.safe_dump(content))
    more = [trusted.format(f"{verifier}:verify")] if trusted else []
    code, _, err = bapo("eval", run, *more, "--prompts", "1", "--samples", "1")
    assert (code, marker.exists()) == ((0, True) if trusted else (2, False)), err
    if not trusted:
        assert f"if you trust it, add reward.verifier={verifier}:verify." in err


def test_a_run_folders_model_may_not_ask_for_its_own_code(run, bapo, canary):
    plant_code(run / "model", canary)
    content = yaml.safe_load((run / "recipe.yaml").read_text())
    content["model"]["trust_remote_code"] = True
    (run / "recipe.yaml").write_text(yaml.safe_dump(content))
    verifier = f"reward.verifier={content['reward']['verifier']}"
    code, _, err = bapo("eval", run, verifier, "--prompts", "1", "--samples", "1")
    assert code == 2
    assert "not run unless 'model.trust_remote_code' is true" in err


def plant_code(folder, canary):
    """Makes a model folder ask for a configuration class of its own."""
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "planted",
        "auto_map": {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "planted.py").write_text(
        f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'planted'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )


@pytest.fixture
def model(tmp_path):
    return save_policy(tmp_path / "model", tiny_model(num_hidden_layers=1))


def refusal(folder, **settings):
    with pytest.raises(ModelError) as caught:
        load_policy(ModelSettings(path=str(folder), device="cpu", **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_code_in_a_model_folder_is_not_run_unless_the_recipe_says_so(
    model, canary, tmp_path, monkeypatch
):
    plant_code(model, canary)
    assert refusal(model) == (
        f"The model '{model}' could not be read, neither as a folder nor from the Hub: it comes "
        "with Python code of its own, which is not run unless 'model.trust_remote_code' is true; "
        "set that if you trust it."
    )
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    load_policy(ModelSettings(path=str(model), device="cpu", trust_remote_code=True))
    canary.rmdir()  # it was there: the code would have been run


def test_code_in_a_tokenizer_is_not_run(model, canary):
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["planted.Slow", "planted.Fast"]}
    config["tokenizer_class"] = "Fast"
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "planted.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    assert "not run unless 'model.trust_remote_code' is true" in refusal(model)


@pytest.mark.parametrize(
    "write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))]
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_in_a_pickle_are_refused(model, canary, name, write):
    (model / "model.safetensors").unlink()
    write(Bomb(canary), model / name)
    assert "could not be loaded" in refusal(model)


def test_a_chat_template_cannot_reach_python(model, canary):
    (model / "chat_template.jinja").write_text(
        f"{{{{ cycler.__init__.__globals__.os.mkdir('{canary}') }}}}"
    )
    policy = load_policy(ModelSettings(path=str(model), device="cpu"))
    encoder = PromptEncoder(policy.tokenizer, 100, 128, 8)
    chat = Prompt("chat", (ChatMessage("user", "hello"),), {})
    with pytest.raises(ModelError, match=r"chat template .* refuses the prompt 'chat'"):
        encoder.encode(chat)


def test_a_pickle_in_place_of_a_data_file_is_refused(tmp_path, canary):
    for name in ("rows.jsonl", "rows.parquet"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(canary)))
        with pytest.raises(DataError):
            build_task(TaskSettings("dataset", {"path": str(tmp_path / name)}))


def test_a_parquet_type_that_carries_a_pickle_does_not_unpickle_it(tmp_path, canary):
    kind = pyarrow.field(
        "prompt",
        pyarrow.utf8(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Bomb(canary)),
        },
    )
    texts = pyarrow.array([f"question {number}" for number in range(60)])
    table = pyarrow.table([texts], schema=pyarrow.schema([kind]))
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with contextlib.suppress(DataError):
        build_task(TaskSettings("dataset", {"path": str(tmp_path / "rows.parquet")}))


def test_a_script_in_a_data_folder_is_not_run(tmp_path, canary):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    rows = "".join(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(60))
    (folder / "train.jsonl").write_text(rows)
    with contextlib.suppress(DataError):
        build_task(TaskSettings("dataset", {"path": str(folder)}))


def test_a_template_of_prompts_cannot_reach_into_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n' * 3)
    options = {"path": str(tmp_path / "rows.jsonl"), "template": "{prompt.__class__}"}
    with pytest.raises(BapoError):
        build_task(TaskSettings("dataset", options))


NASTY = "\x1b[2J\x1b]0;owned\x07[red]<script>alert(1)</script>[/nope]\u202e"


def test_hostile_text_does_nothing_in_the_terminal(tmp_path, bapo):
    """As level, as id and as gold answer, through `train`, `eval`, `inspect` and `report`."""
    make_ingredients(tmp_path)
    content = recipe_content(tmp_path)
    content["task"]["level_column"] = "level"
    content |= {"steps": 2}
    content["evaluation"] |= {"training_prompts": 0}
    for name in ("train", "held-out"):
        path = tmp_path / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row |= {"level": f"{NASTY}{number % 2}", "id": f"{NASTY}{number}"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    run = tmp_path / "run"
    verifier = f"reward.verifier={content['reward']['verifier']}"
    for arguments in (
        ("train", tmp_path / "recipe.yaml", "--output", run),
        ("eval", run, verifier, "--prompts", "3", "--samples", "1"),
        ("inspect", run),
        ("report", run, "--output", tmp_path / "page.html"),
    ):
        code, out, err = bapo(*arguments)
        assert code == 0, err
        assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_hostile_text_does_nothing_in_an_error(tmp_path, bapo):
    make_ingredients(tmp_path)
    row = {"id": NASTY, "prompt": "1+1=", NASTY: 1}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    code, out, err = bapo("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert code == 2
    assert "needs the column 'sign'" in err
    assert "[red]<script>" in err  # shown as it is, not obeyed
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
