"""Checkpoints: exact, whole or absent, checked to the bit, and never lost to the next one."""

import errno
import os
import resource
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bapo.errors import CheckpointError, RunFolderError
from bapo.training import checkpoints as module
from bapo.training.checkpoints import CheckpointStore
from bapo.training.interruption import Interruption
from bapo.training.lock import FolderLock
from bapo.training.manifest import verified_manifest
from bapo.training.recipe_changes import changed_settings
from bapo.training.state_files import read_tree, write_tree
from tests.resumable_runs import assert_same

TREES = {
    "model": {"layer.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3)},
    "run": {"step": 1, "waiting": [3, 1]},
}
FILES = ["manifest.json", "model.json", "model.safetensors", "run.json"]


def store_with(folder, steps, keep=9):
    store = CheckpointStore(folder / "checkpoints", keep)
    for step in steps:
        store.save(step, TREES)
    return store


def newest(store):
    """The newest checkpoint's step, and what was said of those passed over."""
    said = []
    found = store.newest(lambda checkpoint: None, said.append)
    return (None if found is None else found.manifest.step), said


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# --- trees ---


def test_a_tree_comes_back_with_its_types_and_bits(tmp_path):
    tree = {
        "none": None,
        "numbers": [1, -(2**70), 0.1, 1e-320, True, -0.0],
        "text": 'a "quoted" line\n\ud800 \u2028 é',
        "pair": (0.9, 0.999),
        "by number": {0: {"step": torch.tensor(3.0)}, 1: []},
        "like a sign": {"$tensor": "x", "$items": []},
        "arrays": [np.array([], np.float32), np.array([[1, 2]], np.int64), np.array([True])],
        "scalars": [np.array(2.5), torch.tensor(7, dtype=torch.uint8)],
        "half": torch.tensor([1.5, -0.0, float("nan"), float("inf")], dtype=torch.bfloat16),
        "a/b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
    }
    write_tree(tmp_path, "tree", tree)
    back = read_tree(tmp_path, "tree")
    for one in (tree, back):
        one["half"] = one["half"].view(torch.int16)
    assert_same(back, tree)
    assert str(back["numbers"][-1]) == "-0.0"


def test_a_view_and_a_transposed_array_are_written_as_what_they_show(tmp_path):
    whole = torch.arange(10)
    tree = {
        "view": whole[2:4],
        "same memory": whole[2:4],
        "turned": torch.arange(6).reshape(2, 3).T,
        "turned array": np.arange(6).reshape(2, 3).T,
    }
    write_tree(tmp_path, "tree", tree)
    back = read_tree(tmp_path, "tree")
    assert back["view"].tolist() == back["same memory"].tolist() == [2, 3]
    assert back["turned"].tolist() == back["turned array"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_what_is_read_is_no_view_of_the_file(tmp_path):
    write_tree(tmp_path, "tree", TREES["model"])
    back = read_tree(tmp_path, "tree")["layer.weight"]
    (tmp_path / "tree.safetensors").write_bytes(b"")
    assert back.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back.data_ptr() % 64 == 0


def test_a_tree_without_numbers_is_one_file(tmp_path):
    write_tree(tmp_path, "tree", {"a": [1]})
    assert [path.name for path in tmp_path.iterdir()] == ["tree.json"]


def test_a_tree_with_something_else_is_refused_and_the_place_named(tmp_path):
    with pytest.raises(TypeError, match="'/a/1'"):
        write_tree(tmp_path, "tree", {"a": [1, {2, 3}]})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$items", "$tuple", "$array", "$tensor"]), inner)
    ),
    max_leaves=10,
)


@given(tree=plain)
def test_any_plain_tree_comes_back(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder, "tree", tree)
    assert_same(read_tree(folder, "tree"), tree)


# --- saving ---


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    store = store_with(tmp_path, [100])
    assert names(tmp_path) == ["step-000100"]
    found = store.newest(lambda checkpoint: None, pytest.fail)
    assert_same(found.read("model"), TREES["model"])
    assert_same(found.read("run"), TREES["run"])
    with pytest.raises(CheckpointError, match="no 'optimizer'"):
        found.read("optimizer")


def test_the_last_k_are_kept(tmp_path):
    store_with(tmp_path, [5, 10, 1000000, 15], keep=2)
    assert names(tmp_path) == ["step-000015", "step-1000000"]


def test_the_newest_is_the_one_with_most_steps(tmp_path):
    assert newest(store_with(tmp_path, [9, 10, 2])) == (10, [])


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    store = store_with(tmp_path, [3])
    (tmp_path / "checkpoints" / "step-000003" / "run.json").unlink()
    store.save(3, TREES)
    assert newest(store) == (3, [])
    assert names(tmp_path) == ["step-000003"]


def test_leftovers_of_a_killed_process_are_never_read_and_go_with_the_next_save(tmp_path):
    store = store_with(tmp_path, [1])
    folder = tmp_path / "checkpoints"
    (folder / "step-000001").rename(folder / ".writing-step-000002")
    (folder / ".removing-step-000000").mkdir()
    assert newest(store) == (None, [])
    store.save(3, TREES)
    assert names(tmp_path) == ["step-000003"]


def test_everything_is_on_disk_before_the_name_and_the_name_before_the_old_goes(
    tmp_path, monkeypatch
):
    """The order of system calls is the promise: no test can cut the power."""
    store = store_with(tmp_path, [1], keep=1)
    calls = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor):
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_rename(path, target):
        calls.append(("rename", path.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    store.save(2, TREES)
    assert calls == [
        ("sync", "model.json"),
        ("sync", "model.safetensors"),
        ("sync", "run.json"),
        ("sync", "manifest.json"),
        ("sync", ".writing-step-000002"),
        ("rename", ".writing-step-000002"),
        ("sync", "checkpoints"),
        ("rename", "step-000001"),
    ]


# --- damage ---


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def lengthened(path):
    path.write_bytes(path.read_bytes() + b"\n")


def turned_into_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [truncated, emptied, zeroed, lengthened, Path.unlink, turned_into_a_folder]
)
def test_a_damaged_file_is_found_and_the_checkpoint_before_used(tmp_path, damage, name):
    store = store_with(tmp_path, [1, 2])
    damage(tmp_path / "checkpoints" / "step-000002" / name)
    step, said = newest(store)
    assert step == 1
    assert len(said) == 1
    assert said[0].startswith(f"the checkpoint of step 2 is not used: {name} ")


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(tmp_path, name):
    folder = tmp_path / "checkpoints" / "step-000001"
    store_with(tmp_path, [1])
    content = (folder / name).read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        (folder / name).write_bytes(flipped)
        with pytest.raises(CheckpointError):
            verified_manifest(folder)
    (folder / name).write_bytes(content)
    verified_manifest(folder)


def test_a_checkpoint_under_another_steps_name_is_not_used(tmp_path):
    store = store_with(tmp_path, [1])
    folder = tmp_path / "checkpoints"
    (folder / "step-000001").rename(folder / "step-000007")
    assert newest(store) == (
        None,
        ["the checkpoint of step 7 is not used: it was made at step 1"],
    )


def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path):
    store_with(tmp_path, [1])
    folder = tmp_path / "checkpoints" / "step-000001"
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"run.json"', '"../run.json"'))
    with pytest.raises(CheckpointError, match="not what was written"):
        verified_manifest(folder)


def test_where_none_verifies_there_is_none_and_all_are_named(tmp_path):
    store = store_with(tmp_path, [1, 2])
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step-00000{step}" / "run.json").unlink()
    step, said = newest(store)
    assert step is None
    assert [text.split(" is not")[0] for text in said] == [
        "the checkpoint of step 2",
        "the checkpoint of step 1",
    ]
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_a_checkpoint_that_does_not_fit_the_run_is_passed_over(tmp_path):
    store = store_with(tmp_path, [1, 2])

    def only_the_first(checkpoint):
        if checkpoint.manifest.step > 1:
            raise CheckpointError("the files of the run are older")

    said = []
    assert store.newest(only_the_first, said.append).manifest.step == 1
    assert said == ["the checkpoint of step 2 is not used: the files of the run are older"]


def test_checkpoints_of_steps_to_be_done_again_are_set_aside(tmp_path):
    store = store_with(tmp_path, [1, 2, 3])
    store.set_aside_after(1)
    assert names(tmp_path) == ["rejected-step-000002", "rejected-step-000003", "step-000001"]
    assert store.steps == (1,)
    store.save(2, TREES)
    store.set_aside_after(1)  # a second time over those of the first
    assert names(tmp_path) == ["rejected-step-000002", "rejected-step-000003", "step-000001"]


# --- disks that fail ---


@pytest.mark.parametrize("call", range(1, 6))
def test_a_disk_that_is_full_at_any_sync_leaves_the_checkpoints_before(tmp_path, monkeypatch, call):
    store = store_with(tmp_path, [1], keep=1)
    fsync, calls = os.fsync, [0]

    def full(descriptor):
        calls[0] += 1
        if calls[0] == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        store.save(2, TREES)
    assert "step 2 cannot be written" in str(caught.value)
    assert "No space left on device; that of step 1 is as it was" in str(caught.value)
    assert caught.value.exit_code == 1
    assert names(tmp_path) == ["step-000001"]
    assert newest(store) == (1, [])


def test_a_file_that_the_system_refuses_to_write_leaves_the_checkpoints_before(tmp_path):
    """A limit on file sizes, so that the failure comes from the kernel, in safetensors too."""
    store = store_with(tmp_path, [1])
    large = {"model": {"weight": torch.zeros(10_000)}}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(CheckpointError, match=r"(?s)File too large.*step 1 is as it was"):
            store.save(2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path) == ["step-000001"]
    assert newest(store) == (1, [])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    """As root any folder can be written to, so the refusal is injected where it would come up."""
    store = store_with(tmp_path, [1])

    def refused(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(CheckpointError, match=r"checkpoints': Permission denied; that of step 1"):
        store.save(2, TREES)
    assert newest(store) == (1, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_leaves_the_checkpoints_before(tmp_path):
    store = store_with(tmp_path, [1])
    (tmp_path / "checkpoints").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            store.save(2, TREES)
        assert newest(store) == (1, [])
    finally:
        (tmp_path / "checkpoints").chmod(stat.S_IRWXU)


def test_a_first_checkpoint_that_fails_says_that_there_is_none(tmp_path, monkeypatch):
    def full(folder, name, tree):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_tree", full)
    with pytest.raises(CheckpointError, match="there is none before it"):
        CheckpointStore(tmp_path / "checkpoints", 1).save(4, TREES)


# --- the lock ---


def test_a_folder_is_locked_for_one_at_a_time(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(RunFolderError, match=f"in use by another run \\(process {os.getpid()}\\)"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()


def test_the_lock_ends_with_its_process_though_a_child_of_it_lives_on(tmp_path):
    ready, gate = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            FolderLock(tmp_path)
            os.posix_spawn("/bin/sleep", ["sleep", "1"], {})
            os.write(gate, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.read(ready, 1)
    with pytest.raises(RunFolderError, match=f"process {owner}"):
        FolderLock(tmp_path)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    FolderLock(tmp_path).release()


# --- leaving on request ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request(number, capfd):
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
    assert "finishing this step and saving" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_the_second_signal_is_final(number, raised):
    before = signal.getsignal(number)
    with Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(raised):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interruption.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# --- recipes ---

RECIPE = {"steps": 10, "training": {"schedule": "constant", "learning_rate": 0.1}, "task": {}}


def test_the_same_recipe_has_no_changes():
    assert changed_settings(RECIPE, RECIPE) == []


def test_a_setting_that_came_or_went_is_a_difference():
    with pytest.raises(RunFolderError, match=r"task\.size: absent -> 3"):
        changed_settings(RECIPE, RECIPE | {"task": {"size": 3}})
    with pytest.raises(RunFolderError, match=r"task\.size: 3 -> absent"):
        changed_settings(RECIPE | {"task": {"size": 3}}, RECIPE)


def test_more_steps_are_allowed_and_fewer_are_not():
    assert changed_settings(RECIPE, RECIPE | {"steps": 11}) == []
    with pytest.raises(RunFolderError, match="raised, not lowered"):
        changed_settings(RECIPE, RECIPE | {"steps": 9})


def test_every_setting_with_a_rule_of_its_own_exists():
    import yaml

    from bapo.config import recipe_as_mapping, resolve_recipe
    from bapo.training import recipe_changes

    mapping = recipe_as_mapping(resolve_recipe(yaml.safe_load("{model: m, task: t}")))
    known = {f"{section}.{name}" for section in mapping for name in _keys(mapping[section])}
    assert known >= recipe_changes._FREE | recipe_changes._SAID


def _keys(section):
    return section if isinstance(section, dict) else ()
