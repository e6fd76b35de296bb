"""The reuse buffer: recent groups that still teach something (B_high of arXiv 2602.20722).

Departures from the paper: none in what is kept; the paper does not say whether a group may be
reused more than once, and here it may, in each step of its window.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bapo.adaptation.bands import Band
from bapo.adaptation.filters import homogeneity
from bapo.adaptation.records import BufferEvent, BufferEventKind
from bapo.adaptation.state import groups_from_tree, groups_to_tree
from bapo.types import Group


@dataclass(frozen=True, slots=True)
class _Slot:
    """The groups that entered in one step, with their rates, which are asked for often."""

    step: int
    groups: tuple[Group, ...]
    rates: tuple[float, ...]


class ReuseBuffer:
    """The groups with 0 < mu < 1 of the last `window` observed steps.

    Life cycle: a group enters in the step t that sampled it and can be reused in steps t + 1 to
    t + window; observing step t + window drops it. Being reused does not take it out.

    Capacity: bounded by the window, that is by `window` times the groups of a step.

    Determinism: no random choice here; groups are kept in the order they came.

    Checkpoint: every group with its step.
    """

    def __init__(self, window: int) -> None:
        """Starts empty.

        Args:
            window: Steps for which a group can be reused, at least 1.
        """
        self._window = window
        self._slots: deque[_Slot] = deque()

    def __len__(self) -> int:
        return sum(len(slot.groups) for slot in self._slots)

    def eligible(self, step: int, band: Band, window: int | None = None) -> list[Group]:
        """The groups that may be reused in `step`, oldest first.

        Args:
            step: The training step to compose.
            band: The band in which a group's correctness rate must lie, widened where no rate of
                the group's size can.
            window: Only groups of the last `window` steps; the buffer's own window without it.
        """
        reach = self._window if window is None else window
        sizes = {group.size for slot in self._slots for group in slot.groups}
        bands = {size: band.widened(size) for size in sizes}
        return [
            group
            for slot in self._slots
            if step - reach <= slot.step < step
            for group, rate in zip(slot.groups, slot.rates, strict=True)
            if bands[group.size].contains(rate)
        ]

    def observe(self, step: int, groups: Sequence[Group]) -> list[BufferEvent]:
        """Drops the groups that step + 1 can no longer reuse, and takes in those of `step`.

        Args:
            step: The training step, larger than any observed before.
            groups: Verified groups; those that are all right or all wrong do not enter.

        Returns:
            What expired, then what entered.
        """
        events: list[BufferEvent] = []
        while self._slots and self._slots[0].step <= step - self._window:
            events += _events(BufferEventKind.REUSE_EXPIRED, step, self._slots.popleft())
        entering = [group for group in groups if homogeneity(group.correctness_rate) is None]
        if entering:
            slot = _slot(step, entering)
            self._slots.append(slot)
            events += _events(BufferEventKind.REUSE_ENTERED, step, slot)
        return events

    def state_dict(self) -> dict[str, Any]:
        """The state as a plain tree."""
        return {
            "steps": [slot.step for slot in self._slots],
            "sizes": [len(slot.groups) for slot in self._slots],
            "groups": groups_to_tree([group for slot in self._slots for group in slot.groups]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave."""
        groups = iter(groups_from_tree(state["groups"]))
        self._slots = deque(
            _slot(step, [next(groups) for _ in range(size)])
            for step, size in zip(state["steps"], state["sizes"], strict=True)
        )


def _slot(step: int, groups: Sequence[Group]) -> _Slot:
    return _Slot(step, tuple(groups), tuple(group.correctness_rate for group in groups))


def _events(kind: BufferEventKind, step: int, slot: _Slot) -> list[BufferEvent]:
    return [
        BufferEvent(kind, group.prompt_id, step, rate)
        for group, rate in zip(slot.groups, slot.rates, strict=True)
    ]
