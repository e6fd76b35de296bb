"""The learner: proximal log-probabilities, the loss, and the optimizer.

One call of `update` is one training step's learning: a few optimizer updates on one batch. The
policy at its start is the proximal policy of all of them.

A mini-batch whose loss or gradient is not finite is not applied, nor is one of which no token takes
part in the loss: AdamW would decay weights and moments all the same. Weights and optimizer stay as
they are, to the bit, and the learner counts it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from bapo.config import ObjectiveSettings, TrainingSettings
from bapo.errors import StaleEngineError
from bapo.objective import (
    SUM_NAMES,
    LossInputs,
    loss_normaliser,
    objective_metrics,
    policy_loss,
)
from bapo.rollout import PictureReader, is_quantised
from bapo.training.batching import Row, mini_batches
from bapo.training.bounds import (
    EntryRows,
    behavior_distances,
    bound_metrics,
    entries_of_minis,
    stale_distances,
)
from bapo.training.memory import peak_memory_bytes
from bapo.training.micro_batches import MicroBatch, by_row
from bapo.training.model_traits import model_traits
from bapo.training.schedule import learning_rate
from bapo.training.scoring import Scorer, checkpoint_layers
from bapo.training.trust_region import HeldStep, UpdateLength
from bapo.training.update_report import UpdateReport
from bapo.types import FloatArray, TrainBatch

_CHECKED_ROWS = 4
"""Rows of a step on which the sampler is compared with a forward pass."""


class Learner:
    """Updates the policy from training batches.

    Args:
        model: The policy; its parameters are trained in place.
        pad_token_id: What padded positions hold.
        objective: The loss.
        training: Optimizer, mini-batches and micro-batches.
        steps: Training steps of the run, for the schedule.
        sampler_tolerance: Largest difference allowed in float32 between the log-probabilities that
            the sampler stored and those of a full forward pass of the same weights.
        accelerator: Device, precision and distribution.
        pictures: Gives what an image-text model reads besides tokens; None for one of text alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pad_token_id: int,
        objective: ObjectiveSettings,
        training: TrainingSettings,
        steps: int,
        sampler_tolerance: float,
        accelerator: Accelerator,
        pictures: PictureReader | None = None,
    ) -> None:
        self._objective = self._steered = objective
        self._training = training
        self._steps = steps
        self._sampler_tolerance = sampler_tolerance
        self._accelerator = accelerator
        # Kernels for lower precision and for quantised weights round by the batch they are given.
        self._is_exact = (
            model.dtype == torch.float32
            and accelerator.mixed_precision == "no"
            and not is_quantised(model)
        )
        native = training.native_layers and self._is_exact and accelerator.device.type == "cpu"
        traits = model_traits(model, reads_pictures=pictures is not None, native=native)
        if training.gradient_checkpointing:
            checkpoint_layers(model)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            weight_decay=training.weight_decay,
            fused=True,  # a pass over the weights in place of several, on a CPU too
        )
        self._model, self._optimizer = accelerator.prepare(model, optimizer)
        self._scorer = Scorer(
            self._model,
            traits,
            pad_token_id=pad_token_id,
            training=training,
            accelerator=accelerator,
            pictures=pictures,
        )
        self.sharing_refused = traits.sharing_refused if training.share_prompts else ""
        self._scored: dict[int, tuple[Row, FloatArray]] = {}
        self._update_length = UpdateLength()
        self._model.eval()  # no dropout anywhere; gradients flow all the same

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name, live: the next update changes them."""
        module = self._accelerator.unwrap_model(self._model)
        named = module.named_parameters()
        return {name: value.detach() for name, value in named if value.requires_grad}

    def model_state(self) -> dict[str, Tensor]:
        """What training may change of the policy, by name, live, tied tensors once.

        All parameters and persistent buffers; of a model with frozen weights, those that are not.
        """
        module = self._accelerator.unwrap_model(self._model)
        if not all(parameter.requires_grad for parameter in module.parameters()):
            return self.weights
        saved = module.state_dict(keep_vars=True)
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: tensor.detach() for name, tensor in named if name in saved}

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts values that `model_state` gave into the policy, in place.

        Raises:
            ValueError: Names or shapes are those of another model.
        """
        own = self.model_state()
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != shapes:
            raise ValueError("The weights belong to another model.")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def update(self, batch: TrainBatch, *, cap_scale: float = 1.0) -> UpdateReport:
        """Learns from a batch; an empty one changes nothing.

        Args:
            batch: The training batch; its step sets the learning rate.
            cap_scale: What the truncation of the importance weights is multiplied by; the result is
                never below 1.
        """
        report = UpdateReport(learning_rate=learning_rate(self._training, batch.step, self._steps))
        report.importance_cap = max(1.0, self._objective.importance_cap * cap_scale)
        self._steered = replace(self._objective, importance_cap=report.importance_cap)
        minis = mini_batches(batch, self._training.updates_per_step, self._objective)
        started = perf_counter()
        dealt = entries_of_minis(batch.entries, minis)
        self._fill_proximal([row for rows in minis for row in rows], report)
        report.sampler_gap = self._check_sampler([row for rows in minis for row in rows])
        report.seconds_proximal = perf_counter() - started

        started = perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = report.learning_rate
        sums: dict[str, float] = {name: 0.0 for name in SUM_NAMES}
        losses: list[float] = []
        norms: list[float] = []
        held = self._held_step(dealt)
        for start, rows in enumerate(minis):
            loss, norm = self._optimizer_update(rows, sums, keep_logps=rows is minis[-1])
            report.backward_tokens += sum(row.length for row in rows)
            if loss is None or norm is None:
                if any(row.is_learned and row.loss_mask.any() for row in rows):
                    report.nonfinite += 1
                else:
                    report.empty += 1
                report.groups_skipped += tuple(range(start, len(batch.entries), len(minis)))
            else:
                losses.append(loss)
                norms.append(norm)
                if held is not None:
                    held.hold()
        report.updates = len(losses)
        if losses:
            report.loss = sum(losses) / len(losses)
            report.grad_norm = sum(norms) / len(norms)
        report.objective = objective_metrics(sums)
        self._measure_bound(dealt, held, report)
        self._scored.clear()
        report.peak_memory_bytes = peak_memory_bytes(self._accelerator.device)
        report.seconds_update = perf_counter() - started
        return report

    def behavior_distances(self, batch: TrainBatch) -> list[float]:
        """TV(pi_t, alpha) of each group of a batch, before the update; see `behavior_distances`.

        What is computed here is not computed again by the step's `update`.
        """
        minis = mini_batches(batch, 1, self._objective)
        self._fill_proximal([row for rows in minis for row in rows], UpdateReport())
        dealt = entries_of_minis(batch.entries, minis)
        return behavior_distances([group for mini in dealt for group in mini])

    def logps(self, rows: Sequence[Row]) -> list[FloatArray]:
        """Log-probabilities of completions under the policy as it is now, without gradient.

        Args:
            rows: Prompts, completions and temperatures.

        Returns:
            For each row, in order, `(T,)`.
        """
        return self._scorer.logps(rows)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and the update length; `model_state` has the weights."""
        return {**self._optimizer.state_dict(), "update_length": self._update_length.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave.

        Raises:
            ValueError: It is the state of another optimizer, or of other parameters.
        """
        _check_optimizer_state(state, self._optimizer)
        optimizer = dict(state)
        self._update_length.value = float(optimizer.pop("update_length"))
        self._optimizer.load_state_dict(optimizer)

    def _fill_proximal(self, rows: Sequence[Row], report: UpdateReport) -> None:
        """Sets every row's proximal log-probabilities.

        In float32 the rows that the current weights sampled have them already: the sampler's are
        those of a full forward pass (a test holds that), so computing them again would cost and
        change nothing. In lower precision the two differ, and all rows are computed.
        """
        for row in rows:
            if row.is_current and self._is_exact:
                row.proximal_logps = row.behavior_logps
            elif id(row.completion) in self._scored:
                row.proximal_logps = self._scored[id(row.completion)][1]
        unknown = [row for row in rows if row.proximal_logps is None]
        for row, values in zip(unknown, self.logps(unknown), strict=True):
            row.proximal_logps = values
            # The row is kept with its values, so that no other array can take its identity.
            self._scored[id(row.completion)] = (row, values)
        report.forward_tokens = sum(row.length for row, _ in self._scored.values())

    def _check_sampler(self, rows: Sequence[Row]) -> float | None:
        """Compares a few stored log-probabilities of this step's weights with a forward pass.

        The probe after a sync compares two forward passes; this compares what really sampled, cache
        and fast paths included.

        Returns:
            The largest absolute difference; None where no row was sampled by these weights.

        Raises:
            StaleEngineError: In float32 it exceeds the tolerance.
        """
        checked = [row for row in rows if row.is_current][:_CHECKED_ROWS]
        if not checked:
            return None
        gaps = [
            np.abs(values - row.behavior_logps)[row.loss_mask]
            for row, values in zip(checked, self.logps(checked), strict=True)
        ]
        gap = float(np.concatenate(gaps).max(initial=0.0))
        if math.isnan(gap):  # not another policy but broken numbers, which the update stops at
            return None
        if self._is_exact and gap > self._sampler_tolerance:
            raise StaleEngineError(
                f"The sampler's log-probabilities differ by up to {gap:.3g} from a forward pass of "
                "the same weights, more than 'rollout.probe_tolerance' = "
                f"{self._sampler_tolerance:g}; it did not sample from the weights it claims."
            )
        return gap

    def _measure_bound(
        self, dealt: Sequence[Sequence[EntryRows]], held: HeldStep | None, report: UpdateReport
    ) -> None:
        """Measures the bound on what the step did.

        Args:
            dealt: The groups of each mini-batch; `bapo.training.bounds` says what pi is.
            held: What kept the step in the trust region, where anything did.
            report: Takes the results.
        """
        groups = [group for mini in dealt for group in mini]
        measured = dealt[-1] if dealt else []
        rows = [row for group in groups for row in group.rows]

        def score() -> None:
            for row, values in zip(rows, self.logps(rows), strict=True):
                row.policy_logps = values
            report.forward_tokens += sum(row.length for row in rows)

        if held is not None:
            held.settle()
            report.step_scale = held.scale
            report.is_held_by_age = held.is_held_by_age
            report.forward_tokens += held.forward_tokens
            measured = groups
        elif self._objective.bound_after_update:
            score()
            measured = groups
        report.bound = bound_metrics(groups, measured, cap=self._objective.importance_cap)
        report.distances = stale_distances(groups)

    def _held_step(self, dealt: Sequence[Sequence[EntryRows]]) -> HeldStep | None:
        """What keeps the step in the trust region; None where nothing does."""
        groups = [group for mini in dealt for group in mini]
        if not self._objective.enforce_bound or not groups:
            return None
        return HeldStep(self.weights, groups, self.logps, self._update_length, self._objective)

    def _optimizer_update(
        self, rows: Sequence[Row], sums: dict[str, float], *, keep_logps: bool
    ) -> tuple[float | None, float | None]:
        """One optimizer update.

        Args:
            rows: The mini-batch.
            sums: What the applied updates of the step add up to.
            keep_logps: Whether the rows keep their log-probabilities, as they are before the
                update.

        Returns:
            Loss and gradient norm before clipping; both None where one was not finite or there was
            no token, and then nothing was applied.
        """
        micros = self._scorer.micro_batches(rows)
        normaliser = sum(
            loss_normaliser(micro.mask, self._objective.aggregation) for micro in micros
        )
        total = torch.zeros((), dtype=torch.float64, device=self._accelerator.device)
        added: list[Mapping[str, Tensor]] = []
        scores: list[tuple[MicroBatch, Tensor]] = []
        for micro in micros:
            scored = self._scorer.forward(micro)
            output = policy_loss(
                LossInputs(
                    policy_logps=scored.logps,
                    proximal_logps=micro.proximal_logps,
                    behavior_logps=micro.behavior_logps,
                    advantages=micro.advantages,
                    mask=micro.mask,
                    sampled_by_proximal=micro.is_current,
                    entropy=scored.entropy,
                ),
                self._steered,
                normaliser,
            )
            self._scorer.backward(output.loss)
            total += output.loss.detach()
            added.append(output.sums)
            if keep_logps:
                scores.append((micro, scored.logps.detach()))
        norm: Any = self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._training.max_grad_norm
        )
        loss_value, norm_value = float(total), float(norm)
        applied = normaliser > 0 and math.isfinite(loss_value) and math.isfinite(norm_value)
        if applied:
            self._optimizer.step()
            _add(sums, added)
        self._optimizer.zero_grad()
        for micro, logps in scores:
            found = by_row(micro, logps)
            for row in micro.rows:
                row.policy_logps = found[id(row)]
        return (loss_value, norm_value) if applied else (None, None)


def _add(sums: dict[str, float], added: Sequence[Mapping[str, Tensor]]) -> None:
    """Adds the sums of micro-batches, all of them brought from the device at once."""
    parts = torch.stack([torch.stack([part[name] for name in sums]) for part in added])
    for name, value in zip(sums, parts.sum(dim=0).tolist(), strict=True):
        sums[name] += value


def _check_optimizer_state(state: Mapping[str, Any], optimizer: Any) -> None:
    """Raises a `ValueError` where AdamW would fail, or go on with what is not its own, later."""
    groups, own = state["param_groups"], optimizer.state_dict()["param_groups"]
    for theirs, ours in zip(groups, own, strict=True):
        if {**theirs, "lr": ours["lr"]} != ours:
            raise ValueError("other settings of the optimizer")
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for place, moments in state["state"].items():
        shape = parameters[place].shape
        expected = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
        if {name: moment.shape for name, moment in moments.items()} != expected:
            raise ValueError(f"other moments of parameter {place}")
