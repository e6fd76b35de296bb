"""Numbers: same seed, same run; samples are what they claim to be; a NaN does no harm."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from bapo.config import ObjectiveSettings, TrainingSettings
from bapo.config.settings import ModelSettings, RolloutSettings
from bapo.rollout import EmbeddedEngine, load_policy
from bapo.selftest.bench import Bench, end_of, log_of
from bapo.selftest.comparing import run_difference, tree_difference
from bapo.selftest.ingredients import CHARACTERS, STEPS
from bapo.selftest.results import Check, require
from bapo.training import Learner
from bapo.types import BatchEntry, Group, Prompt, Rollout, Source, TrainBatch, Verdict

AREA = "Numbers"
TOLERANCE = 1e-4
GROUP_SIZE = 4
TEMPERATURES = (1.0, 0.7)

Poison = Callable[[TrainBatch, PreTrainedModel], None]


def exactness_checks() -> list[Check]:
    """All checks of numbers."""
    return [
        Check(
            AREA,
            "same seed, same run",
            "two processes write the same bits, another seed others",
            _same_seed,
        ),
        Check(
            AREA,
            "sampled log-probabilities",
            f"equal to those of a full forward pass, to {TOLERANCE:g}",
            _sampled_logps,
        ),
        Check(
            AREA,
            "company makes no difference",
            "a prompt gets the same tokens alone as among others",
            _company,
        ),
        Check(
            AREA,
            "NaN and infinity in an update",
            "skipped and counted; weights and optimizer keep every bit",
            _nonfinite,
        ),
    ]


def _same_seed(bench: Bench) -> str:
    runs = {name: bench.new_folder(name) for name in ("never-ended", "again", "other-seed")}
    overrides = {"never-ended": [], "again": [], "other-seed": ["seed=1"]}
    processes = {name: bench.start(run, *overrides[name]) for name, run in runs.items()}
    endings = {name: end_of(processes[name], log_of(run)) for name, run in runs.items()}
    bench.keep_finished(runs["never-ended"], endings["never-ended"], ())
    for ending in endings.values():
        require(ending.code == 0, f"a run ended with {ending.code}: {ending.last}")
    again, other = (
        run_difference(runs[name], runs["never-ended"], STEPS) for name in ("again", "other-seed")
    )
    require(again is None, f"the second run is another one: {again}")
    require(other is not None, "another seed gives the same run")
    return f"{STEPS} steps"


def _sampled_logps(bench: Bench) -> str:
    engine, model = _engine(bench)
    largest, tokens = 0.0, 0
    for temperature in TEMPERATURES:
        for rollout in _sampled(engine, _prompts(), temperature):
            for one in rollout.completions:
                expected = _plain_logps(model, rollout, one.token_ids)
                largest = max(largest, float(np.abs(expected - one.behavior_logps).max()))
                tokens += len(one.token_ids)
    require(largest <= TOLERANCE, f"they differ by up to {largest:.2g}")
    return f"{tokens} tokens, differences up to {largest:.1g}"


def _company(bench: Bench) -> str:
    engine, _ = _engine(bench)
    together = _sampled(engine, _prompts(), 1.0)
    for prompt, expected in zip(_prompts(), together, strict=True):
        (alone,) = _sampled(engine, [prompt], 1.0)
        for one, other in zip(alone.completions, expected.completions, strict=True):
            require(
                one.token_ids.tolist() == other.token_ids.tolist(),
                f"'{prompt.content}' gets '{one.text}' alone and '{other.text}' among others",
            )
    return f"{len(together) * GROUP_SIZE} completions"


def _nonfinite(bench: Bench) -> str:
    for poison in (_poison_logps, _poison_gradient, _poison_gradient_with_infinity):
        _one_poison(bench, poison)
    return "3 kinds"


def _one_poison(bench: Bench, poison: Poison) -> None:
    """A learner that meets a poisoned batch between two, and one that meets the two alone."""
    tried, model = _learner(bench)
    spared, _ = _learner(bench)
    first, bad, last = (_batch(bench, step) for step in (1, 2, 3))
    for learner in (tried, spared):
        require(learner.update(first).updates == 1, "a good update was not applied")
    before = copy.deepcopy(_state(tried))
    poison(bad, model)
    report = tried.update(bad)
    require(
        (report.updates, report.nonfinite) == (0, 1),
        f"{report.updates} updates were applied and {report.nonfinite} counted as not finite",
    )
    found = tree_difference(_state(tried), before, "weights and optimizer")
    require(found is None, f"the skipped update changed them: {found}")
    for learner in (tried, spared):
        learner.update(last)
    found = tree_difference(_state(tried), _state(spared), "weights and optimizer")
    require(found is None, f"the skipped update left something behind: {found}")


def _poison_logps(batch: TrainBatch, model: PreTrainedModel) -> None:
    """A NaN among the stored log-probabilities."""
    batch.entries[0].group.rollout.completions[1].behavior_logps[0] = np.nan


def _poison_gradient(batch: TrainBatch, model: PreTrainedModel) -> None:
    """A gradient that is NaN at one weight, once."""
    _spoil_once(model, np.nan)


def _poison_gradient_with_infinity(batch: TrainBatch, model: PreTrainedModel) -> None:
    _spoil_once(model, np.inf)


def _spoil_once(model: PreTrainedModel, value: float) -> None:
    parameter = next(model.parameters())

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        handle.remove()
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = value
        return spoiled

    handle = parameter.register_hook(spoil)


def _state(learner: Learner) -> dict[str, object]:
    """Weights and optimizer, but for the learning rate, which a skipped step sets all the same."""
    state = learner.state_dict()
    groups = [{**group, "lr": 0.0} for group in state["param_groups"]]
    return {"model": learner.model_state(), "optimizer": {**state, "param_groups": groups}}


def _engine(bench: Bench) -> tuple[EmbeddedEngine, PreTrainedModel]:
    policy = load_policy(_model_settings(bench))
    engine = EmbeddedEngine.of_policy(policy, RolloutSettings(max_new_tokens=12))
    engine.publish(0, dict(policy.model.named_parameters()))
    return engine, policy.model


def _learner(bench: Bench) -> tuple[Learner, PreTrainedModel]:
    policy = load_policy(_model_settings(bench))
    AcceleratorState._reset_state()
    learner = Learner(
        policy.model,
        pad_token_id=0,
        objective=ObjectiveSettings(),
        training=TrainingSettings(learning_rate=0.01, updates_per_step=1),
        steps=10,
        sampler_tolerance=1e-3,
        accelerator=Accelerator(cpu=True),
    )
    return learner, policy.model


def _model_settings(bench: Bench) -> ModelSettings:
    return ModelSettings(path=str(bench.ingredients / "base"), device="cpu")


def _prompts() -> list[Prompt]:
    """Prompts of several lengths."""
    return [Prompt(f"p{number}", CHARACTERS[: 2 + 3 * number], {}) for number in range(6)]


def _sampled(
    engine: EmbeddedEngine, prompts: Sequence[Prompt], temperature: float
) -> list[Rollout]:
    return engine.sample(
        prompts, version=0, group_size=GROUP_SIZE, step=1, seed=0, temperature=temperature
    )


def _batch(bench: Bench, step: int) -> TrainBatch:
    """Groups that the model sampled as it was made, half of whose answers are called right."""
    engine, _ = _engine(bench)
    verdicts = tuple(Verdict(number % 2 == 0, float(number % 2 == 0)) for number in range(4))
    rollouts = _sampled(engine, _prompts()[step : step + 2], 1.0)
    groups = [Group(rollout, verdicts) for rollout in rollouts]
    return TrainBatch(step, tuple(BatchEntry(group, Source.FRESH) for group in groups))


@torch.no_grad()
def _plain_logps(model: PreTrainedModel, rollout: Rollout, token_ids: np.ndarray) -> np.ndarray:
    """`(T,)` log-probabilities of one completion by itself: no cache, no padding, float64."""
    ids = torch.from_numpy(np.concatenate([rollout.prompt_token_ids, token_ids])).long()[None]
    logits = model(input_ids=ids, use_cache=False).logits[0].double() / rollout.temperature
    start = len(rollout.prompt_token_ids)
    logps = torch.log_softmax(logits[start - 1 : -1], dim=-1)
    return logps.gather(-1, ids[0, start:, None])[:, 0].numpy()
