"""The script in the README runs as it stands, with a tiny random model in the Hub model's place."""

import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rollout_models import character_tokenizer, tiny_model

README = Path(__file__).resolve().parents[2] / "README.md"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
SMALL = [
    "steps=2",
    "model.device=cpu",
    "rollout.group_size=4",
    "rollout.max_new_tokens=6",
    "training.batch_groups=4",
    "evaluation.prompts=6",
    "evaluation.training_prompts=6",
]


@pytest.fixture
def chat_model(tmp_path):
    folder = tmp_path / "model"
    tokenizer = character_tokenizer(string.printable)
    tokenizer.chat_template = CHAT_TEMPLATE
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def script():
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return block


def run_script(folder, *overrides):
    """What the script prints, run in a folder."""
    (folder / "products.py").write_text(script(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "products.py", *overrides],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_trains_measures_and_reports_as_often_as_it_is_run(tmp_path, chat_model):
    small = (f"model={chat_model}", *SMALL)
    said = run_script(tmp_path, *small)
    assert "products: training" in said
    assert "products: step 2/2  correct" in said
    (run,) = tmp_path.glob("runs/products-*")
    assert f"look at {run.relative_to(tmp_path)}/report.html" in said
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line["step"] for line in metrics] == [1, 2]
    run_script(tmp_path, *small, "steps=1")
    assert len(list(tmp_path.glob("runs/products-*/summary.json"))) == 2
    assert [line["verdicts_ok"] for line in metrics] == [line["rollouts"] for line in metrics]
    assert len((tmp_path / "products.jsonl").read_text(encoding="utf-8").splitlines()) == 29 * 29


def test_the_script_is_short():
    assert len([line for line in script().splitlines() if line.strip()]) <= 30
