"""Evaluates a model on a task, outside any run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bapo.config import ModelSettings, RewardSettings, RolloutSettings
from bapo.errors import DataError
from bapo.evaluation.measure import Evaluation, evaluate
from bapo.reward import GroupVerifier, VerifierPool, check_verifier, column_faults
from bapo.rollout import EmbeddedEngine, load_policy, why_no_kernels
from bapo.tasks import Check, Task, faults_of, open_image
from bapo.types import Prompt


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What is to be measured.

    Attributes:
        prompts: Held-out prompts at most.
        samples: K, completions per prompt.
        seed: Of the sampling.
        temperature: Of the sampling.
        examples: Completions to keep as text.
    """

    prompts: int
    samples: int
    seed: int = 0
    temperature: float = 1.0
    examples: int = 0


def evaluate_model(
    model: ModelSettings,
    task: Task,
    verifier: str,
    request: EvaluationRequest,
    *,
    rollout: RolloutSettings,
    reward: RewardSettings,
    notice: Callable[[str], None],
) -> Evaluation:
    """Loads a model and measures it on a task's held-out prompts.

    Args:
        model: Which model.
        task: Whose held-out prompts.
        verifier: As `module:function`.
        request: How many prompts and completions.
        rollout: Limits of sampling.
        reward: Limits of verification.
        notice: Told in a sentence what is measured, and of prompts that cannot be used.

    Raises:
        BapoError: Model, data or verifier are wrong; the message says what, where, and the cure.
    """
    with VerifierPool(verifier, reward) as pool:
        check_verifier(pool)
        policy = load_policy(model)
        engine = EmbeddedEngine.of_policy(policy, rollout, open_image=open_image)
        if engine.decoder == "torch" and rollout.decoder == "auto":
            notice(f"token steps are slower than they could be: {why_no_kernels()}")
        engine.publish(0, dict(policy.model.named_parameters()), share=True)
        checks = (engine.encoder.faults, partial(column_faults, pool))
        notice(f"measuring {request.samples} answers to each of {request.prompts} held-out prompts")
        prompts = _usable(task.evaluation_prompts(request.prompts), checks, notice)
        verify = GroupVerifier(pool, rollout.max_new_tokens)
        return evaluate(
            engine,
            verify,
            prompts,
            split="held_out",
            version=0,
            samples=request.samples,
            seed=request.seed,
            temperature=request.temperature,
            examples=request.examples,
            begin_verifying=verify.begin if reward.overlap else None,
        )


def _usable(
    asked: Sequence[Prompt], checks: Sequence[Check], notice: Callable[[str], None]
) -> list[Prompt]:
    """The prompts that pass all checks; the others are said."""
    faults = faults_of(asked, checks)
    if faults:
        name, reason = next(iter(faults.items()))
        sentence = (
            f"{len(faults)} of {len(asked)} held-out prompts cannot be used, the first of them "
            f"'{name}': {reason}."
        )
        if len(faults) == len(asked):
            raise DataError(sentence)
        notice(sentence)
    return [one for one in asked if one.prompt_id not in faults]
