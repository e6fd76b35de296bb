"""The reuse buffer: recent groups that still teach something (B_high of arXiv 2602.20722).

Departures from the paper: a limit in bytes. The paper does not say whether a group may be reused
more than once, and here it may, in each step of its window.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, overload

from bapo.adaptation.bands import Band
from bapo.adaptation.filters import homogeneity
from bapo.adaptation.packed import PackedGroup, pack
from bapo.adaptation.records import BufferEvent, BufferEventKind
from bapo.adaptation.sizes import group_bytes
from bapo.adaptation.state import groups_from_tree, groups_to_tree
from bapo.types import Group


@dataclass(frozen=True, slots=True)
class _Entry:
    """A group, the step in which it entered, and its rate and size, counted once."""

    step: int
    group: PackedGroup
    rate: float
    bytes: int


class _Line:
    """The entries of one correctness rate and group size, oldest first.

    The oldest are dropped by moving `start`, and cut off when they are half of the list, so that
    both ends and every place in between are reached at once.
    """

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.start = 0

    def drop_oldest(self) -> None:
        """Drops the first entry."""
        self.start += 1
        if 2 * self.start >= len(self.entries):
            del self.entries[: self.start]
            self.start = 0

    def of_steps(self, first: int, end: int) -> tuple[int, int]:
        """The places of the entries of steps `first` to `end` - 1."""
        low = bisect_left(self.entries, first, lo=self.start, key=attrgetter("step"))
        return low, bisect_left(self.entries, end, lo=low, key=attrgetter("step"))


class EligibleGroups(Sequence[PackedGroup]):
    """Groups of a buffer without a list of them: by rate, then oldest first.

    It is good until the buffer is next changed.
    """

    def __init__(self, parts: Sequence[tuple[_Line, int, int]]) -> None:
        """Takes lines, each with the first of its places and the one behind the last."""
        self._parts = parts
        self._length = sum(end - start for _, start, end in parts)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> PackedGroup: ...

    @overload
    def __getitem__(self, index: slice) -> list[PackedGroup]: ...

    def __getitem__(self, index: int | slice) -> PackedGroup | list[PackedGroup]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._length))]
        place = index if index >= 0 else index + self._length
        for line, start, end in self._parts:
            if 0 <= place < end - start:
                return line.entries[start + place].group
            place -= end - start
        raise IndexError(f"There are {self._length} eligible groups, and no number {index}.")


class ReuseBuffer:
    """The groups with 0 < mu < 1 of the last `window` observed steps, as far as there is room.

    Life cycle: a group enters in the step t that sampled it and can be reused in steps t + 1 to
    t + window; observing step t + window drops it. Being reused does not take it out.

    Capacity: the window, that is `window` times the groups of a step, and a limit in bytes. Beyond
    it the oldest groups are evicted, those that came first in a step before those that came later.

    Determinism: no random choice here; groups are kept in the order they came, and beside that by
    their rate, so that a step's work does not grow with the buffer.

    Memory: a group is kept packed, and made of its arrays again when it is drawn.

    Checkpoint: every group with its step; sizes follow from the groups.
    """

    def __init__(self, window: int) -> None:
        """Starts empty.

        Args:
            window: Steps for which a group can be reused, at least 1.
        """
        self._window = window
        self._entries: deque[_Entry] = deque()
        self._lines: dict[tuple[int, float], _Line] = {}
        self._bytes = 0
        self._evicted_last_step = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def groups(self) -> tuple[PackedGroup, ...]:
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

    def eligible(self, step: int, band: Band, window: int | None = None) -> EligibleGroups:
        """The groups that may be reused in `step`, by size and rate, then oldest first.

        Args:
            step: The training step to compose.
            band: The band in which a group's correctness rate must lie, widened where no rate of
                the group's size can.
            window: Only groups of the last `window` steps; the buffer's own window without it.
        """
        reach = self._window if window is None else window
        bands = {size: band.widened(size) for size, _ in self._lines}
        return EligibleGroups(
            [
                (line, *line.of_steps(step - reach, step))
                for (size, rate), line in sorted(self._lines.items(), key=lambda item: item[0])
                if bands[size].contains(rate)
            ]
        )

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
                entry = _entry(step, pack(group))
                self._append(entry)
                events.append(_event(BufferEventKind.REUSE_ENTERED, step, entry))
        self._evicted_last_step = 0
        while self._bytes > room:
            self._evicted_last_step += 1
            events.append(_event(BufferEventKind.REUSE_EVICTED, step, self._pop_oldest()))
        return events

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._lines.setdefault(_key(entry), _Line()).entries.append(entry)
        self._bytes += entry.bytes

    def _pop_oldest(self) -> _Entry:
        entry = self._entries.popleft()
        line = self._lines[_key(entry)]
        line.drop_oldest()  # the oldest of all is the oldest of its rate
        if not line.entries:
            del self._lines[_key(entry)]
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
        self._lines.clear()
        self._bytes = 0
        for step, group in zip(state["entered"], groups, strict=True):
            self._append(_entry(int(step), group))
        self._evicted_last_step = int(state["evicted_last_step"])


def _entry(step: int, group: PackedGroup) -> _Entry:
    return _Entry(step, group, group.correctness_rate, group_bytes(group))


def _key(entry: _Entry) -> tuple[int, float]:
    return entry.group.size, entry.rate


def _event(kind: BufferEventKind, step: int, entry: _Entry) -> BufferEvent:
    return BufferEvent(kind, entry.group.prompt_id, step, entry.rate)
