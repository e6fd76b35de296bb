"""Checkpoints that are spoiled, and disks that refuse them."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bapo.selftest.bench import Bench, Ending, end_of, log_of
from bapo.selftest.comparing import run_difference
from bapo.selftest.disks import (
    Disk,
    DiskReport,
    FileLimit,
    FullDisk,
    Permissions,
    ReadOnlyDisk,
    run_on_disk,
)
from bapo.selftest.ingredients import STEPS
from bapo.selftest.killing import Trap, forked_call
from bapo.selftest.results import Check, NotPossibleError, require
from bapo.selftest.resuming import require_same
from bapo.training.checkpoints import CheckpointStore

AREA = "Checkpoints that are spoiled or cannot be written: said, and the one before is used"
OLDER, NEWEST = 3, 6
"""The checkpoints of a run that was killed after step 7."""


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path) -> None:
    """Flips one bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "filled with zeros": _zero,
    "changed in one bit": _flip,
    "removed": Path.unlink,
}


def damage_checks() -> list[Check]:
    """Every damage to every file of the newest checkpoint."""
    return [
        *(
            Check(
                AREA,
                f"a file {damage}",
                f"each of the newest in turn; that of step {OLDER} is used",
                partial(_each_file, damage=spoil),
            )
            for damage, spoil in DAMAGES.items()
        ),
        Check(
            AREA,
            "resumed from the one before",
            "the newest is spoiled; the run ends as the one never ended",
            _resumed_from_the_one_before,
        ),
        Check(
            AREA,
            "all of them spoiled",
            "the run stops, says so, and changes no file",
            _all_spoiled,
        ),
    ]


def disk_checks() -> list[Check]:
    """Disks that refuse a checkpoint, by whatever this machine allows."""
    kept = f"that of step {OLDER} is kept; given room, it goes on"
    return [
        Check(AREA, "disk full", f"a small file system is filled; {kept}", _on(FullDisk)),
        Check(AREA, "disk read-only", f"mounted so amid the run; {kept}", _on(ReadOnlyDisk)),
        Check(AREA, "write refused", f"files are limited in size; {kept}", _on(FileLimit)),
        Check(AREA, "no permission", f"the folder is made read-only; {kept}", _on(Permissions)),
    ]


def _on(disk: type[Disk]) -> Callable[[Bench], str]:
    return partial(_refused, disk=disk)


def _spoiled(bench: Bench) -> Path:
    """A copy of a run that was killed after step 7, with checkpoints of steps 3 and 6."""
    original = bench.folder / "to-be-spoiled"
    if not original.exists():
        ending = bench.train(original, trap=Trap("after-step", 7))
        steps = CheckpointStore(original / "checkpoints", 2).steps
        require(steps == (OLDER, NEWEST), f"there are checkpoints of {steps}: {ending.last}")
    return Path(shutil.copytree(original, bench.new_folder("spoiled")))


def _each_file(bench: Bench, *, damage: Callable[[Path], None]) -> str:
    run = _spoiled(bench)
    store = CheckpointStore(run / "checkpoints", 2)
    whole = run / "checkpoints" / f"step-{NEWEST:06d}"
    kept = Path(shutil.copytree(whole, bench.new_folder("kept")))
    names = sorted(path.name for path in whole.iterdir())
    for name in names:
        damage(whole / name)
        said: list[str] = []
        found = store.newest(lambda _: None, said.append)
        used = found and found.manifest.step
        require(used == OLDER, f"with {name} spoiled, the checkpoint of step {used} is used")
        require(len(said) == 1 and name in said[0], f"with {name} spoiled, it said: {said}")
        shutil.copyfile(kept / name, whole / name)
        found = store.newest(lambda _: None, said.append)
        require(found is not None and found.manifest.step == NEWEST, f"{name} put back: not used")
    return f"{len(names)} files"


def _resumed_from_the_one_before(bench: Bench) -> str:
    run = _spoiled(bench)
    _flip(run / "checkpoints" / f"step-{NEWEST:06d}" / "adaptation.json")
    ending = bench.train(run, resume=True)
    sentence = f"the checkpoint of step {NEWEST} is not used: adaptation.json"
    require(sentence in ending.said, f"it did not say what it passed over: {ending.last}")
    require_same(bench, run, ending)
    return ""


def _all_spoiled(bench: Bench) -> str:
    run = _spoiled(bench)
    for step in (OLDER, NEWEST):
        _flip(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    before = _content(run)
    ending = bench.train(run, resume=True)
    require(ending.code == 2, f"it ended with exit code {ending.code}: {ending.last}")
    require("no checkpoint" in ending.said, f"it said: {ending.last}")
    require(_content(run) == before, "it changed the folder")
    return ""


def _content(run: Path) -> dict[str, bytes]:
    """Every file of a run, but the lock's, which is no content."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def _refused(bench: Bench, *, disk: type[Disk]) -> str:
    place = bench.new_folder("disk")
    place.mkdir()
    expected = bench.finished()
    arguments = bench.arguments(place / "mount" / "run")
    answer, kept = place / "answer.json", place / "kept"
    call = (run_on_disk, disk, bench.command, tuple(arguments), place / "mount", kept, answer)
    process = forked_call(log_of(place), bench.command.__module__, call)
    ending = end_of(process, log_of(place))
    report = _report(ending, answer)
    if report.impossible:
        raise NotPossibleError(report.impossible)
    require(report.code == 1, f"it ended with exit code {report.code}: {ending.last}")
    for words in (f"step {NEWEST} cannot be written", f"step {OLDER} is as it was"):
        require(words in ending.said, f"it did not say '{words}': {ending.last}")
    require(report.usable == OLDER, f"the newest checkpoint left is that of {report.usable}")
    require(report.resumed == 0, f"given room, it ended with {report.resumed}: {ending.last}")
    difference = run_difference(kept, expected, STEPS)
    require(difference is None, f"given room, it is not the run never ended: {difference}")
    return disk.reason


def _report(ending: Ending, answer: Path) -> DiskReport:
    require(ending.code == 0 and answer.is_file(), f"the trial itself failed: {ending.last}")
    return DiskReport.read(answer)
