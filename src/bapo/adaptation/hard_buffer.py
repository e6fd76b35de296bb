"""The hard buffer: prompts that the policy cannot solve yet (B_bad of arXiv 2602.20722).

Departures from the paper: failed retries are counted, and a prompt that never had a right answer is
retired after `max_retries` of them, because a wrong gold answer or a verifier that misses right
answers looks like a hard prompt and would be asked again for ever. A prompt also leaves when a
fresh group of it shows that it became solvable.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bapo.adaptation.records import BufferEvent, BufferEventKind, SuspectPrompt
from bapo.adaptation.sizes import prompt_bytes
from bapo.adaptation.state import prompt_from_tree, prompt_to_tree
from bapo.types import Group, Prompt


@dataclass(frozen=True, slots=True)
class _Entry:
    """A hard prompt, the correctness rate it last showed, and its size, counted once."""

    prompt: Prompt
    rate: float
    bytes: int


class HardBuffer:
    """First-in-first-out queue of prompts with correctness rate mu <= c1.

    Life cycle: a prompt enters at the tail when a fresh group of it has mu <= c1, and moves to the
    tail when that happens again. It leaves when any group of it, fresh or retried, has mu > c1. A
    retried group with mu <= c1 leaves it in its place and is a failed retry. These are counted for
    prompts without any right answer so far; at `max_retries` such a prompt is retired: it leaves
    and is not taken in again, unless a later fresh group holds a right answer, which reinstates it.

    Capacity: beyond `capacity` prompts or `max_bytes`, those at the head are evicted. An evicted
    prompt keeps its count, so that prompts which come and go can still reach retirement.

    Determinism: no random choice; the order of the groups decides. A step costs O(its groups).

    Checkpoint: entries in order, counts of failed retries, the ids that ever had a right answer,
    the retired ones; the last three grow with the data set at most.
    """

    def __init__(self, capacity: int, threshold: float, max_retries: int, max_bytes: int) -> None:
        """Starts empty.

        Args:
            capacity: Prompts kept at most, at least 1.
            threshold: c1, in [0, 1).
            max_retries: Failed retries that retire a never solved prompt, at least 1.
            max_bytes: Size of the prompts at most; see `prompt_bytes`.
        """
        self._capacity = capacity
        self._threshold = threshold
        self._max_retries = max_retries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._failed_retries: dict[str, int] = {}
        self._ever_right: set[str] = set()
        self._retired: dict[str, SuspectPrompt] = {}
        self._evicted_last_step = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """What the prompts take; see `prompt_bytes`."""
        return self._bytes

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The hard prompts, from head to tail."""
        return tuple(entry.prompt for entry in self._entries.values())

    @property
    def suspects(self) -> tuple[SuspectPrompt, ...]:
        """The retired prompts, in the order of their retirement."""
        return tuple(self._retired.values())

    @property
    def evicted_last_step(self) -> int:
        """Prompts that the last observed step evicted."""
        return self._evicted_last_step

    def rate_of(self, prompt_id: str) -> float:
        """The correctness rate that a hard prompt last showed.

        Raises:
            ValueError: The prompt is not in the buffer.
        """
        if prompt_id not in self._entries:
            raise ValueError(
                f"The retried prompt '{prompt_id}' is not in the hard buffer; "
                "retry only what prompts_to_retry returned for this step."
            )
        return self._entries[prompt_id].rate

    def observe(
        self, step: int, fresh: Sequence[Group], retried: Sequence[Group]
    ) -> list[BufferEvent]:
        """Takes in the groups of one step.

        Args:
            step: The training step, from 1.
            fresh: Verified fresh groups; a prompt may have several.
            retried: Verified retried groups, of prompts in the buffer.

        Returns:
            What happened: prompts that turned out solvable, then failed retries, then the rest.

        Raises:
            ValueError: A retried prompt is not in the buffer.
        """
        for group in retried:
            self.rate_of(group.prompt_id)
        solvable, events = self._take_out_solvable(step, [*fresh, *retried])
        for group in retried:
            if group.prompt_id not in solvable:
                events += self._count_failure(step, group)
        self._evicted_last_step = 0
        for group in fresh:
            if group.prompt_id not in solvable and group.prompt_id not in self._retired:
                events += self._put_at_tail(step, group)
        return events

    def _take_out_solvable(
        self, step: int, groups: Sequence[Group]
    ) -> tuple[set[str], list[BufferEvent]]:
        """The ids that some group shows to be above c1, and the events of their leaving."""
        solvable: set[str] = set()
        events: list[BufferEvent] = []
        for group in groups:
            prompt_id, rate = group.prompt_id, group.correctness_rate
            if rate > 0:
                self._ever_right.add(prompt_id)
                self._failed_retries.pop(prompt_id, None)
                if self._retired.pop(prompt_id, None):
                    events.append(_event(BufferEventKind.HARD_REINSTATED, prompt_id, step, rate))
            if rate > self._threshold:
                solvable.add(prompt_id)
                if prompt_id in self._entries:
                    self._take_out(prompt_id)
                    events.append(_event(BufferEventKind.HARD_LEFT, prompt_id, step, rate))
        return solvable, events

    def _count_failure(self, step: int, group: Group) -> list[BufferEvent]:
        prompt_id, rate = group.prompt_id, group.correctness_rate
        events = [_event(BufferEventKind.RETRY_FAILED, prompt_id, step, rate)]
        self._put(group.rollout.prompt, rate)
        if prompt_id in self._ever_right:
            return events
        failures = self._failed_retries.pop(prompt_id, 0) + 1
        if failures < self._max_retries:
            self._failed_retries[prompt_id] = failures
            return events
        self._take_out(prompt_id)
        self._retired[prompt_id] = SuspectPrompt(prompt_id, failures, step)
        return [*events, _event(BufferEventKind.HARD_RETIRED, prompt_id, step, rate)]

    def _put_at_tail(self, step: int, group: Group) -> list[BufferEvent]:
        prompt_id, rate = group.prompt_id, group.correctness_rate
        moved = prompt_id in self._entries
        self._put(group.rollout.prompt, rate)
        self._entries.move_to_end(prompt_id)
        kind = BufferEventKind.HARD_MOVED if moved else BufferEventKind.HARD_ENTERED
        events = [_event(kind, prompt_id, step, rate)]
        while len(self._entries) > self._capacity or self._bytes > self._max_bytes:
            oldest = next(iter(self._entries))
            entry = self._take_out(oldest)
            self._evicted_last_step += 1
            events.append(_event(BufferEventKind.HARD_EVICTED, oldest, step, entry.rate))
        return events

    def _put(self, prompt: Prompt, rate: float) -> None:
        """Puts a prompt at the tail, or in its place if it is there."""
        before = self._entries.get(prompt.prompt_id)
        entry = _Entry(prompt, rate, before.bytes if before else prompt_bytes(prompt))
        self._entries[prompt.prompt_id] = entry
        self._bytes += 0 if before else entry.bytes

    def _take_out(self, prompt_id: str) -> _Entry:
        entry = self._entries.pop(prompt_id)
        self._bytes -= entry.bytes
        return entry

    def state_dict(self) -> dict[str, Any]:
        """The state as a plain tree."""
        return {
            "entries": [
                {"prompt": prompt_to_tree(entry.prompt), "rate": entry.rate}
                for entry in self._entries.values()
            ],
            "failed_retries": dict(self._failed_retries),
            "ever_right": sorted(self._ever_right),
            "retired": [
                {"prompt_id": s.prompt_id, "failed_retries": s.failed_retries, "step": s.step}
                for s in self._retired.values()
            ],
            "evicted_last_step": self._evicted_last_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave."""
        self._entries.clear()
        self._bytes = 0
        for item in state["entries"]:
            self._put(prompt_from_tree(item["prompt"]), float(item["rate"]))
        self._failed_retries = {name: int(count) for name, count in state["failed_retries"].items()}
        self._ever_right = set(state["ever_right"])
        self._retired = {item["prompt_id"]: SuspectPrompt(**item) for item in state["retired"]}
        self._evicted_last_step = int(state["evicted_last_step"])


def _event(kind: BufferEventKind, prompt_id: str, step: int, rate: float) -> BufferEvent:
    return BufferEvent(kind, prompt_id, step, rate)
