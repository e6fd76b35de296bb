"""Whether a run's files agree on every row, every group and every verdict.

The files are read one by one and nothing is taken on trust: metrics.jsonl has the counts, the
ledger has every group and every event in a buffer, rows.jsonl every row that is used, and
quarantine.jsonl what was set aside. Replaying the ledger must give the counts, step by step; the
rows must add up to those that were read. A disagreement means that something was lost, counted
twice or changed by hand.

A step counts once its metrics are there. Lines of a later step, which a running or killed run may
have, are left out and said.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from bapo.reporting.runs import Record, RunRecord, read_lines
from bapo.reporting.text import number, visible

_SOURCES = ("fresh", "retried", "reused")
_IN_BATCH = ("trained", "update_skipped")


@dataclass(slots=True)
class Account:
    """What became of everything in a run.

    Attributes:
        steps: Steps that count.
        unfinished: Lines of later steps, left out.
        has_rows: Whether the folder says what every row is used for.
        rows: Rows by what became of them; training prompts by their fate so far.
        rows_read: Rows that the sources hold.
        groups: Groups by source and outcome.
        verdicts: Verdicts that are not `ok`, all of them.
        problems: Where the files do not agree, a sentence each.
    """

    steps: int = 0
    unfinished: int = 0
    has_rows: bool = False
    rows: Counter[str] = field(default_factory=Counter)
    rows_read: int = 0
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    verdicts: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Replay:
    """The buffers and prompts as the ledger tells them, up to some step."""

    hard: set[str] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    reuse: Counter[str] = field(default_factory=Counter)
    draws: Counter[str] = field(default_factory=Counter)
    trained: set[str] = field(default_factory=set)
    last_outcome: dict[str, str] = field(default_factory=dict)


def account_for(run: RunRecord) -> Account:
    """Reads a run's files and adds them up.

    Args:
        run: The run; its metrics were read before the ledger is read here, and a run writes them
            after it, so that a run which is going on is no disagreement.

    Raises:
        RunFolderError: A file cannot be read.
    """
    account = Account(steps=len(run.metrics))
    replay = _Replay()
    by_step = _Steps(read_lines(run.path / "ledger.jsonl"), account)
    size = number({"size": run.setting("rollout", "group_size")}, "size")
    for expected, metrics in enumerate(run.metrics, start=1):
        step = number(metrics, "step")
        if step != expected:
            account.problems.append(f"metrics.jsonl has step {step:g} where step {expected} is due")
        _compare_step(metrics, by_step.take(expected), replay, account, size)
    account.unfinished = by_step.rest()
    quarantine = list(read_lines(run.path / "quarantine.jsonl"))
    _compare_verdicts(run, quarantine, account)
    _compare_summary(run, replay, account)
    _compare_rows(run, quarantine, replay, account)
    return account


class _Steps:
    """The ledger's lines, a step at a time."""

    def __init__(self, lines: Iterable[Record], account: Account) -> None:
        self._steps = groupby(lines, key=lambda line: number(line, "step"))
        self._account = account
        self._ahead: tuple[float, list[Record]] | None = None

    def take(self, step: int) -> list[Record]:
        """The lines of a step; lines out of order are a problem and stay out."""
        found: list[Record] = []
        while (ahead := self._next()) is not None and not ahead[0] > step:
            if ahead[0] == step:
                found += ahead[1]
            else:
                self._account.problems.append(
                    f"the ledger has {len(ahead[1])} lines of step {ahead[0]:g} out of their place"
                )
            self._ahead = None
        return found

    def rest(self) -> int:
        """How many lines are left."""
        left = 0
        while (ahead := self._next()) is not None:
            left += len(ahead[1])
            self._ahead = None
        return left

    def _next(self) -> tuple[float, list[Record]] | None:
        if self._ahead is None:
            step, lines = next(self._steps, (math.nan, None))
            self._ahead = None if lines is None else (step, list(lines))
        return self._ahead


def _compare_step(
    metrics: Record, lines: Sequence[Record], replay: _Replay, account: Account, size: float
) -> None:
    """Replays one step of the ledger and compares it with its metrics."""
    groups = [line for line in lines if line.get("kind") == "group"]
    events = [line for line in lines if line.get("kind") == "buffer"]
    step = number(metrics, "step")
    says = [*_replay_groups(groups, replay), *_replay_events(events, replay)]
    if len(groups) + len(events) != len(lines):
        says.append("the ledger has lines that are neither groups nor events of a buffer")
    counted = _counts_of_groups(groups) | _counts_of_state(events, replay)
    sampled = counted["groups_sampled_fresh"] + counted["groups_sampled_retried"]
    if math.isfinite(size):
        counted["rollouts"] = sampled * int(size)
    for name, count in counted.items():
        if number(metrics, name) != count:
            says.append(f"metrics.jsonl says {name} = {_shown(metrics, name)}, the ledger {count}")
    verdicts = sum(number(metrics, f"verdicts_{s}") for s in ("ok", "invalid", "timeout", "error"))
    if verdicts != number(metrics, "rollouts"):
        says.append(f"{verdicts:g} verdicts for {_shown(metrics, 'rollouts')} rollouts")
    account.problems += [f"step {step:g}: {sentence}" for sentence in says]
    for line in groups:
        account.groups[_text(line, "source"), _text(line, "outcome")] += 1


def _replay_groups(groups: Iterable[Record], replay: _Replay) -> Iterator[str]:
    """Follows what became of a step's groups; gives what cannot have been."""
    for line in groups:
        name, source, outcome = (_text(line, key) for key in ("prompt_id", "source", "outcome"))
        if (outcome == "unverified") != (line.get("correctness_rate") is None):
            yield f"a group of '{name}' is {outcome} with a rate of {line.get('correctness_rate')}"
        if source == "reused" and not replay.reuse[name]:
            yield f"a group of '{name}' is reused that is not in the reuse buffer"
        if source == "retried" and name not in replay.hard:
            yield f"'{name}' is asked again, but is not in the hard buffer"
        if source not in _SOURCES:
            yield f"a group of '{name}' comes from '{source}'"
        if outcome == "trained":
            replay.trained.add(name)
        if source == "fresh":
            replay.draws[name] += 1
        replay.last_outcome[name] = outcome


def _replay_events(events: Iterable[Record], replay: _Replay) -> Iterator[str]:
    """Follows what happened in the buffers; gives what cannot have been."""
    for line in events:
        name, event = _text(line, "prompt_id"), _text(line, "event")
        if not _apply(event, name, replay):
            yield f"'{name}' has the event '{event}', which its place in the buffers rules out"


def _apply(event: str, name: str, replay: _Replay) -> bool:
    """Does one event; whether it could happen."""
    hard = name in replay.hard
    if event == "hard_entered":
        replay.hard.add(name)
        return not hard
    if event in ("hard_moved", "retry_failed"):
        return hard
    if event in ("hard_left", "hard_evicted", "hard_retired"):
        replay.hard.discard(name)
        if event == "hard_retired":
            replay.retired.add(name)
        return hard
    if event == "hard_reinstated":
        retired = name in replay.retired
        replay.retired.discard(name)
        return retired
    if event in ("reuse_entered", "reuse_expired", "reuse_evicted"):
        replay.reuse[name] += 1 if event == "reuse_entered" else -1
        return replay.reuse[name] >= 0
    return False


def _counts_of_groups(groups: Sequence[Record]) -> dict[str, int]:
    """What a step's metrics must say of its groups."""
    by_source: dict[str, list[Record]] = defaultdict(list)
    for line in groups:
        by_source[_text(line, "source")].append(line)
    rates = [line.get("correctness_rate") for line in by_source["fresh"]]
    in_batch = {
        f"groups_{source}": sum(_text(line, "outcome") in _IN_BATCH for line in by_source[source])
        for source in _SOURCES
    }
    return in_batch | {
        "groups_sampled_fresh": len(rates),
        "groups_sampled_retried": len(by_source["retried"]),
        "groups_all_wrong": rates.count(0),
        "groups_all_right": rates.count(1),
        "groups_unverified": rates.count(None),
        "groups_surplus": sum(_text(line, "outcome") == "surplus" for line in groups),
    }


def _counts_of_state(events: Sequence[Record], replay: _Replay) -> dict[str, int]:
    """What a step's metrics must say of the buffers after it."""
    return {
        "hard_buffer_size": len(replay.hard),
        "hard_buffer_evicted": sum(_text(line, "event") == "hard_evicted" for line in events),
        "prompts_retired": len(replay.retired),
        "reuse_buffer_size": sum(replay.reuse.values()),
        "reuse_buffer_evicted": sum(_text(line, "event") == "reuse_evicted" for line in events),
    }


def _compare_verdicts(run: RunRecord, quarantine: Sequence[Record], account: Account) -> None:
    """Every verdict that is not `ok` is counted, and the first ones of a step are there."""
    kept: dict[float, list[Record]] = defaultdict(list)
    for line in quarantine:
        if line.get("kind") == "verdict":
            kept[number(line, "step")].append(line)
    for metrics in run.metrics:
        step = number(metrics, "step")
        bad = sum(number(metrics, f"verdicts_{s}") for s in ("invalid", "timeout", "error"))
        account.verdicts += int(bad) if math.isfinite(bad) else 0
        lines = kept.pop(step, [])
        numbers = [number(line, "number") for line in lines]
        said = {number(line, "of") for line in lines} or {0.0}
        if said != {bad} or numbers != list(range(1, len(lines) + 1)):
            account.problems.append(
                f"step {step:g}: quarantine.jsonl has {len(lines)} of {max(said):g} verdicts that "
                f"are not ok, metrics.jsonl counts {bad:g}"
            )
    account.unfinished += sum(map(len, kept.values()))


def _compare_summary(run: RunRecord, replay: _Replay, account: Account) -> None:
    """What a finished run says at its end follows from its steps."""
    if run.summary is None:
        return
    for name, value in (("steps", float(account.steps)), ("rollouts", run.total("rollouts"))):
        if number(run.summary, name) != value:
            account.problems.append(
                f"summary.json says {name} = {_shown(run.summary, name)}, the steps add up to "
                f"{value:g}"
            )
    listed = run.summary.get("suspect_prompts")
    names = {_text(one, "prompt_id") for one in listed} if isinstance(listed, list) else set()
    if names != replay.retired:
        account.problems.append(
            f"summary.json lists {len(names)} suspect prompts, of which the ledger retired "
            f"{len(names & replay.retired)} of {len(replay.retired)}"
        )


def _compare_rows(
    run: RunRecord, quarantine: Sequence[Record], replay: _Replay, account: Account
) -> None:
    """Every row that was read is used, not asked or quarantined; every prompt has one fate."""
    path = run.path / "rows.jsonl"
    account.has_rows = path.is_file()
    if not account.has_rows:
        return
    sources: dict[str, list[float]] = {}
    training: list[str] = []
    lines = [*read_lines(path), *(line for line in quarantine if line.get("kind") == "row")]
    for line in lines:
        source = _text(line, "source")
        if line.get("kind") == "source":
            sources[source] = [number(line, "rows"), number(line, "not_asked")]
            account.rows["held out, not asked"] += int(number(line, "not_asked"))
            account.rows_read += int(number(line, "rows"))
            continue
        sources.setdefault(source, [0.0, 0.0])[1] += 1
        if line.get("use") == "training":
            training.append(_text(line, "prompt_id"))
        else:
            account.rows["held out" if "use" in line else "quarantined"] += 1
    for source, (read, found) in sources.items():
        if read != found:
            account.problems.append(f"'{source}' has {read:g} rows, of which {found:g} are there")
    for name in training:
        account.rows[_fate(name, replay)] += 1
    if len(set(training)) != len(training):
        account.problems.append("rows.jsonl names a training prompt twice")
    account.problems += _draw_problems(run, set(training), replay)


def _fate(name: str, replay: _Replay) -> str:
    """The one thing that a training prompt's row is counted as."""
    if name in replay.trained:
        return "trained on"
    if name in replay.hard or replay.reuse[name] > 0:
        return "waiting in a buffer"
    if name in replay.retired:
        return "dropped: never solved, suspect gold"
    if name in replay.last_outcome:
        return f"dropped: {replay.last_outcome[name]}"
    return "pending, not drawn yet"


def _draw_problems(run: RunRecord, training: set[str], replay: _Replay) -> Iterator[str]:
    """Whether the draws are those of whole epochs: nothing is passed over or drawn too often."""
    unknown = replay.last_outcome.keys() - training
    if unknown:
        yield f"the ledger has prompts that are no training rows, such as '{min(unknown)}'"
    epochs = number(run.metrics[-1], "epoch") if run.metrics else 0.0
    if not math.isfinite(epochs) or not training:
        return
    # A prompt that came up twice in a step waits for the next one, at most once.
    low, high = math.floor(epochs) - 1, math.ceil(epochs)
    odd = [name for name in training if not low <= replay.draws[name] <= high]
    if odd:
        yield (
            f"{len(odd)} prompts were not drawn as often as {epochs:.2f} epochs ask for, such as "
            f"'{min(odd)}' ({replay.draws[min(odd)]} times)"
        )
    drawn, sampled = epochs * len(training), replay.draws.total()
    if not 0 <= round(drawn) - sampled <= len(training):
        yield f"{drawn:.0f} prompts were drawn, but {sampled} fresh groups are in the ledger"


def _text(line: Record, key: str) -> str:
    return visible(str(line.get(key)))


def _shown(record: Record, name: str) -> str:
    value = number(record, name)
    return "nothing" if math.isnan(value) else f"{value:g}"
