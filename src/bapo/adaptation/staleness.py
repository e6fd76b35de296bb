"""How old the samples of a batch may be, steered by the distance that is measured.

Not in the paper, whose delay v and reuse window are numbers that one has to guess. Here they are
the largest values, and a target for TV(pi_t, alpha) narrows them where the policy moves fast.
"""

from collections.abc import Mapping
from typing import Any

from bapo.config import AdaptationSettings


class StalenessControl:
    """Narrows the delay of the behavior policy and the reuse window to hold a target distance.

    Life cycle: `observe` takes a step's measured distances, and decides the next step. The behavior
    policy is synced early when the fresh groups' distance is above the target. The reuse window
    shrinks by a step when the reused groups' distance is above it, down to one step, and grows by a
    step when it is below half of it, up to `reuse_window`. Without the setting both stay as set.

    A checkpoint keeps the window and whether a sync is due.
    """

    def __init__(self, settings: AdaptationSettings) -> None:
        """Starts with the widest window."""
        self._settings = settings
        self._window = settings.reuse_window
        self._sync_early = False

    @property
    def window(self) -> int:
        """Steps for which a group may be reused now, 1 to `reuse_window`."""
        return self._window

    @property
    def sync_early(self) -> bool:
        """Whether the behavior policy is to be synced at the next step, due or not."""
        return self._sync_early

    def observe(self, fresh: float | None, reused: float | None) -> None:
        """Takes the distances of the step just done.

        Args:
            fresh: Mean TV(pi_t, alpha) of the batch's fresh groups, in [0, 1]; None without any.
            reused: Likewise of its reused groups.
        """
        if not self._settings.adaptive_staleness:
            return
        target = self._settings.target_tv
        self._sync_early = fresh is not None and fresh > target
        if reused is not None and reused > target:
            self._window = max(1, self._window - 1)
        elif reused is None or reused < target / 2:
            self._window = min(self._settings.reuse_window, self._window + 1)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {"window": self._window, "sync_early": self._sync_early}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave; a smaller `reuse_window` is kept to."""
        self._window = min(int(state["window"]), self._settings.reuse_window)
        self._sync_early = bool(state["sync_early"])
