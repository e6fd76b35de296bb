"""The reuse buffer: recent groups that still teach something (B_high of arXiv 2602.20722).

Departures from the paper: a limit in bytes. The paper does not say whether a group may be reused
more than once, and here it may, in each step of its window.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bapo.adaptation.bands import Band
from bapo.adaptation.filters import homogeneity
from bapo.adaptation.records import BufferEvent, BufferEventKind
from bapo.adaptation.sizes import group_bytes
from bapo.adaptation.state import groups_from_tree, groups_to_tree
from bapo.types import Group


@dataclass(frozen=True, slots=True)
class _Entry:
    """A group, the step in which it entered, and its rate and size, counted once."""

    step: int
    group: Group
    rate: float
    bytes: int


class ReuseBuffer:
    """The groups with 0 < mu < 1 of the last `window` observed steps, as far as there is room.

    Life cycle: a group enters in the step t that sampled it and can be reused in steps t + 1 to
    t + window; observing step t + window drops it. Being reused does not take it out.

    Capacity: the window, that is `window` times the groups of a step, and a limit in bytes. Beyond
    it the oldest groups are evicted, those that came first in a step before those that came later.

    Determinism: no random choice here; groups are kept in the order they came.

    Checkpoint: every group with its step; sizes follow from the groups.
    """

    def __init__(self, window: int) -> None:
        """Starts empty.

        Args:
            window: Steps for which a group can be reused, at least 1.
        """
        self._window = window
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._evicted_last_step = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def groups(self) -> tuple[Group, ...]:
        """All of them, oldest first."""
        return tuple(entry.group for entry in self._entries)

    @property
    def bytes(self) -> int:
        """What the groups take; see `group_bytes`."""
        return self._bytes

    @property
    def evicted_last_step(self) -> int:
        """Groups that the last observed step evicted for want of room."""
        return self._evicted_last_step

    def eligible(self, step: int, band: Band, window: int | None = None) -> list[Group]:
        """The groups that may be reused in `step`, oldest first.

        Args:
            step: The training step to compose.
            band: The band in which a group's correctness rate must lie, widened where no rate of
                the group's size can.
            window: Only groups of the last `window` steps; the buffer's own window without it.
        """
        reach = self._window if window is None else window
        sizes = {entry.group.size for entry in self._entries}
        bands = {size: band.widened(size) for size in sizes}
        return [
            entry.group
            for entry in self._entries
            if step - reach <= entry.step < step and bands[entry.group.size].contains(entry.rate)
        ]

    def observe(self, step: int, groups: Sequence[Group], room: int) -> list[BufferEvent]:
        """Drops the groups that step + 1 can no longer reuse, and takes in those of `step`.

        Args:
            step: The training step, larger than any observed before.
            groups: Verified groups; those that are all right or all wrong do not enter.
            room: Bytes that the groups may take, at least 0.

        Returns:
            What expired, then what entered, then what had to go.
        """
        events: list[BufferEvent] = []
        while self._entries and self._entries[0].step <= step - self._window:
            events.append(_event(BufferEventKind.REUSE_EXPIRED, step, self._pop_oldest()))
        for group in groups:
            if homogeneity(group.correctness_rate) is None:
                entry = _entry(step, group)
                self._append(entry)
                events.append(_event(BufferEventKind.REUSE_ENTERED, step, entry))
        self._evicted_last_step = 0
        while self._bytes > room:
            self._evicted_last_step += 1
            events.append(_event(BufferEventKind.REUSE_EVICTED, step, self._pop_oldest()))
        return events

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._bytes += entry.bytes

    def _pop_oldest(self) -> _Entry:
        entry = self._entries.popleft()
        self._bytes -= entry.bytes
        return entry

    def state_dict(self) -> dict[str, Any]:
        """The state as a plain tree."""
        return {
            "entered": [entry.step for entry in self._entries],
            "groups": groups_to_tree([entry.group for entry in self._entries]),
            "evicted_last_step": self._evicted_last_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave.

        Raises:
            ValueError: The groups are not what `groups_to_tree` writes.
        """
        groups = groups_from_tree(state["groups"])
        self._entries.clear()
        self._bytes = 0
        for step, group in zip(state["entered"], groups, strict=True):
            self._append(_entry(int(step), group))
        self._evicted_last_step = int(state["evicted_last_step"])


def _entry(step: int, group: Group) -> _Entry:
    return _Entry(step, group, group.correctness_rate, group_bytes(group))


def _event(kind: BufferEventKind, step: int, entry: _Entry) -> BufferEvent:
    return BufferEvent(kind, entry.group.prompt_id, step, entry.rate)
