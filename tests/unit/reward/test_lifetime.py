"""From the first process to the last: nothing outlives the pool, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bapo.errors import VerifierError
from tests.unit.reward.helpers import (
    MISBEHAVING,
    living_workers,
    make_pool,
    verify_texts,
    wait_until,
    write_verifier,
)


def test_children_left_behind_end_with_the_pool():
    with make_pool() as pool:
        verdicts = verify_texts(pool, "leave child", "leave program", "leave child")
        assert [v.correct for v in verdicts] == [True] * 3
        assert len(living_workers()) == 2 + 3

    assert living_workers() == []


def test_a_program_that_hides_in_a_clean_environment_ends_with_its_worker():
    with make_pool(workers=1) as pool:
        (verdict,) = verify_texts(pool, "leave unmarked")
        program = Path(f"/proc/{int(verdict.score)}")
        assert program.exists()
        verify_texts(pool, "exit")
        assert wait_until(lambda: not program.exists())


def test_closing_ends_a_worker_that_hangs_and_closing_twice_is_harmless():
    with make_pool() as pool:
        pool.submit([("regex", {}), ("stubborn", {})])
    pool.close()

    assert living_workers() == []


def test_descriptors_do_not_leak():
    before = len(os.listdir("/proc/self/fd"))
    with make_pool() as pool:
        verify_texts(pool, "exit", "spin", "exit")

    assert len(os.listdir("/proc/self/fd")) == before


def test_no_process_survives_the_death_of_the_training_process():
    script = f"""
import time
from bapo.config import RewardSettings
from bapo.reward import VerifierPool
with VerifierPool({MISBEHAVING!r}, RewardSettings(workers=3, timeout_seconds=100.0)) as pool:
    pool.verify([("leave program", {{}})] * 3)
    pool.submit([("regex", {{}}), ("stubborn", {{}}), ("sleep", {{}})])
    print("hanging", flush=True)
    time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "hanging\n"
        time.sleep(0.2)
        assert len(living_workers(parent.pid)) == 6
        parent.send_signal(signal.SIGKILL)
        assert wait_until(lambda: living_workers(parent.pid) == [])
    finally:
        parent.kill()
        parent.communicate()


def test_a_verifier_that_cannot_be_started_again_stops_the_run_and_leaves_nothing(tmp_path):
    copy = tmp_path / "copy.py"
    copy.write_text(Path(MISBEHAVING.rpartition(":")[0]).read_text())
    with make_pool(f"{copy}:misbehave", workers=1) as pool:
        copy.unlink()
        with pytest.raises(VerifierError, match=r"No such file"):
            verify_texts(pool, "exit", "right")
        assert living_workers() == []
        with pytest.raises(VerifierError, match=r"No such file"):
            verify_texts(pool, "right")
    with pytest.raises(VerifierError, match=r"No such file"):
        verify_texts(pool, "right")


def test_workers_are_reused_until_they_have_served_their_time():
    with make_pool(workers=1, recycle_after=3) as pool:
        first = [verdict.score for verdict in verify_texts(pool, "pid", "pid", "pid")]
        later = [verdict.score for verdict in verify_texts(pool, "pid", "pid", "pid")]

    assert len(set(first)) == len(set(later)) == 1
    assert first[0] != later[0]


def test_memory_files_and_core_dumps_are_limited(tmp_path):
    with make_pool() as pool:
        limits, large = pool.verify(
            [("limits", {}), ("large file", {"path": str(tmp_path / "large")})]
        )

    assert limits.correct
    assert large.status.value == "error"
    assert "File too large" in large.detail


def test_a_worker_leads_a_session_of_its_own():
    with make_pool() as pool:
        assert verify_texts(pool, "session")[0].correct


def test_the_environment_is_scrubbed_but_for_what_the_recipe_passes_on(monkeypatch):
    monkeypatch.setenv("BAPO_TEST_SECRET", "s3cret")
    with make_pool() as pool:
        assert not verify_texts(pool, "secret")[0].correct
    with make_pool(pass_environment=("BAPO_TEST_SECRET",)) as pool:
        assert verify_texts(pool, "secret")[0].correct


def test_a_worker_imports_neither_numpy_nor_torch_nor_the_main_script(tmp_path):
    source = """
import sys
def verify(completions):
    heavy = {"numpy", "torch", "transformers", "yaml", "multiprocessing"} & set(sys.modules)
    return [not heavy and sys.modules["__main__"].__spec__.name == "bapo.reward.worker"]
"""
    with make_pool(write_verifier(tmp_path, source)) as pool:
        assert verify_texts(pool, "")[0].correct


def test_modules_of_the_training_process_can_be_imported_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def reward(completions): return [0.25]")
    monkeypatch.syspath_prepend(str(tmp_path))
    with make_pool("my_rewards:reward") as pool:
        assert verify_texts(pool, "")[0].score == 0.25


def test_a_file_can_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour.py").write_text("SCORE = 0.75")
    verifier = write_verifier(
        tmp_path, "import neighbour\ndef verify(completions): return [neighbour.SCORE]"
    )
    with make_pool(verifier) as pool:
        assert verify_texts(pool, "")[0].score == 0.75


def test_a_relative_file_is_found_from_the_current_folder(tmp_path, monkeypatch):
    write_verifier(tmp_path, "def verify(completions): return [0.5]")
    monkeypatch.chdir(tmp_path)
    with make_pool("verifier.py:verify") as pool:
        monkeypatch.chdir("/")
        assert [v.score for v in verify_texts(pool, "", "")] == [0.5, 0.5]


BAD_NAMES = {
    "verify": "must be named as module:function or file.py:function",
    "module.verify": "must be named as",
    "my module:verify": "must be named as",
    "no_such_module:verify": "cannot be imported: ModuleNotFoundError: No module named",
    "/no/such/file.py:verify": "there is no file '/no/such/file.py'",
    "bapo.reward.verifiers.countdown:verfy": "has no 'verfy'",
    "bapo.reward.verifiers.countdown:GOLDEN": "is a list; it must be a function",
}


@pytest.mark.parametrize(("name", "sentence"), BAD_NAMES.items())
def test_a_name_that_leads_nowhere_is_one_sentence(name, sentence):
    with pytest.raises(VerifierError, match=r"^[^\n]+$") as caught, make_pool(name):
        pass
    assert sentence in str(caught.value)
    assert living_workers() == []


BAD_FILES = {
    "def verify(texts): return [1.0]": "signature (texts); it must take 'completions'",
    "def verify(completions, /): return [1.0]": "it must take 'completions'",
    "async def verify(completions): return [1.0]": "is a coroutine",
    "def verify(completions) return [1.0]": "SyntaxError: ",
    "import torchh": "No module named 'torchh'",
    "raise RuntimeError('no licence')": "RuntimeError: no licence (verifier.py, line 1)",
    "import sys; sys.exit('bye')": "SystemExit: bye",
    "import os; os._exit(7)": "ended with exit code 7",
    "held = bytearray(1 << 40)": "raise 'reward.memory_megabytes'",
    "import time; time.sleep(100)": "was not imported within 1 seconds",
    "GOLDEN = 3\ndef verify(completions): return [1.0]": "GOLDEN beside the verifier",
    "GOLDEN = [('a', {}, 1)]\ndef verify(completions): return [1.0]": "expected_correct",
    "GOLDEN = [('a', {'b': {1}}, True)]\ndef verify(completions): return [1.0]": "JSON values",
}


@pytest.mark.parametrize(("source", "sentence"), BAD_FILES.items())
def test_a_verifier_that_cannot_work_is_one_sentence_before_the_run(tmp_path, source, sentence):
    verifier = write_verifier(tmp_path, source)
    seconds = 1.0 if "sleep" in source else 60.0
    with (
        pytest.raises(VerifierError, match=r"^[^\n]+$") as caught,
        make_pool(verifier, start_seconds=seconds),
    ):
        pass
    assert sentence in str(caught.value)
    assert living_workers() == []
