"""How old the samples of a batch may be, steered by the distance that is measured.

Not in the paper, whose delay v, reuse window and truncation of the weights are numbers that one
has to guess. Here they are where the steering starts, and a target for TV(pi_t, alpha) is what is
held.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from bapo.config import AdaptationSettings

GROWTH = 1.5
"""What the delay is multiplied by at most, from one sync to the next."""

CAP_STEP = 1.25
"""What the truncation is multiplied or divided by in one step."""


@dataclass(frozen=True, slots=True)
class StepDistances:
    """What a step says about distances; means over groups, in [0, 1], None where none was measured.

    Attributes:
        fresh: TV(pi_t, alpha) of the fresh groups of a stale behavior policy, refused ones as well.
        reused: Likewise of the reused groups.
        moved: TV(pi, pi_t): how far the step itself went, which is what a group that pi_t samples
            is away at the next step.
        needs_sync: The age of the samples is what stands in the way: every fresh group was refused
            for its distance, or an update was shortened for its distance to alpha alone.
    """

    fresh: float | None = None
    reused: float | None = None
    moved: float | None = None
    needs_sync: bool = False


@dataclass(slots=True)
class _State:
    """What a checkpoint keeps; `synced_at` is the step at whose start alpha was copied."""

    delay: int
    window: int
    cap_scale: float = 1.0
    synced_at: int = 1
    sync_next: bool = True


class StalenessControl:
    """Steers delay, reuse window and truncation of the weights to hold a target distance.

    Life cycle: `observe` takes a step's distances and decides the next step. Every quantity starts
    at the recipe's value and stays between 1 and `staleness_widest` times it.

    - **Delay v.** Fresh groups beyond the target: sync at the next step, and v is from then on the
      age that they had. Less than half of the target when a sync would be due: v grows by half,
      and so does the wait. At v = 1 no fresh group has an age, and the length of the step stands
      in. A recipe with v = 1 is on-policy and stays so.
    - **Reuse window.** A step shorter where reused groups are beyond the target, a step longer
      where they are below half of it, or none was reused.
    - **Truncation.** The cap of the importance weights is divided by `CAP_STEP` where the groups
      that are furthest, fresh or reused, are beyond the target, multiplied where they are below
      half of it.

    Without `adaptive_staleness` all three stay as set. In either case a step that needs a sync
    gets it, due or not: a gate that refuses everything would freeze the run until the next one.
    """

    def __init__(self, settings: AdaptationSettings) -> None:
        """Starts with the recipe's values."""
        self._settings = settings
        self._state = _State(settings.sync_every, settings.reuse_window)

    @property
    def delay(self) -> int:
        """The v of now."""
        return self._state.delay

    @property
    def window(self) -> int:
        """Steps for which a group may be reused now."""
        return self._state.window

    @property
    def cap_scale(self) -> float:
        """What `objective.importance_cap` is multiplied by now."""
        return self._state.cap_scale

    @property
    def sync_due(self) -> bool | None:
        """Whether the next step makes the behavior policy current; None: every v steps as set."""
        if self._steers_delay or self._state.sync_next:
            return self._state.sync_next
        return None

    def observe(self, step: int, distances: StepDistances) -> None:
        """Takes the distances of the step just done."""
        state = self._state
        early = distances.needs_sync
        if self._settings.adaptive_staleness:
            early = self._steer_delay(step - state.synced_at, distances) or early
            self._steer_window(distances.reused)
            known = [one for one in (distances.fresh, distances.reused) if one is not None]
            self._steer_cap(max(known, default=None))
        state.sync_next = early or (
            self._steers_delay and step + 1 - state.synced_at >= state.delay
        )
        if state.sync_next:
            state.synced_at = step + 1

    @property
    def _steers_delay(self) -> bool:
        return self._settings.adaptive_staleness and self._settings.sync_every > 1

    def _steer_delay(self, age: int, distances: StepDistances) -> bool:
        """Moves v; gives whether alpha is too far to wait for its end."""
        if not self._steers_delay:
            return False
        state, target = self._state, self._settings.target_tv
        known = distances.fresh if age else distances.moved
        if known is None:
            return False
        if age and known > target:
            state.delay = age
            return True
        if age + 1 >= state.delay and known < target / 2:
            state.delay = self._widest(self._settings.sync_every, math.ceil(GROWTH * state.delay))
        return False

    def _steer_window(self, reused: float | None) -> None:
        state, target = self._state, self._settings.target_tv
        if reused is not None and reused > target:
            state.window = max(1, state.window - 1)
        elif reused is None or reused < target / 2:
            state.window = self._widest(self._settings.reuse_window, state.window + 1)

    def _steer_cap(self, furthest: float | None) -> None:
        state, target = self._state, self._settings.target_tv
        widest = self._settings.staleness_widest
        if furthest is not None and furthest > target:
            state.cap_scale = max(1.0 / widest, state.cap_scale / CAP_STEP)
        elif furthest is not None and furthest < target / 2:
            state.cap_scale = min(widest, state.cap_scale * CAP_STEP)

    def _widest(self, start: int, wanted: int) -> int:
        return min(wanted, math.floor(self._settings.staleness_widest * start))

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return asdict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave, within the limits that hold now."""
        self._state = _State(**{field.name: state[field.name] for field in fields(_State)})
        settings, own = self._settings, self._state
        if not settings.adaptive_staleness:
            own.delay, own.window, own.cap_scale = settings.sync_every, settings.reuse_window, 1.0
        widest = settings.staleness_widest
        own.delay = self._widest(settings.sync_every, own.delay)
        own.window = self._widest(settings.reuse_window, own.window)
        own.cap_scale = min(max(own.cap_scale, 1.0 / widest), widest)
