"""Evaluates a model on a task, outside any run."""

from collections.abc import Sequence
from dataclasses import dataclass

from bapo.config import ModelSettings, RewardSettings, RolloutSettings
from bapo.evaluation.measure import Evaluation, evaluate
from bapo.reward import VerifierPool, check_verifier, verify_rollouts
from bapo.rollout import EmbeddedEngine, load_policy
from bapo.tasks import Task
from bapo.types import Group, Rollout


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
) -> Evaluation:
    """Loads a model and measures it on a task's held-out prompts.

    Args:
        model: Which model.
        task: Whose held-out prompts.
        verifier: As `module:function`.
        request: How many prompts and completions.
        rollout: Limits of sampling.
        reward: Limits of verification.

    Raises:
        BapoError: Model, data or verifier are wrong; the message says what, where, and the cure.
    """
    policy = load_policy(model)
    engine = EmbeddedEngine.of_policy(policy, rollout)
    prompts = task.evaluation_prompts(request.prompts)
    engine.encoder.check(prompts)
    engine.publish(0, dict(policy.model.named_parameters()), share=True)
    with VerifierPool(verifier, reward) as pool:
        check_verifier(pool, prompts)

        def verify(rollouts: Sequence[Rollout]) -> list[Group]:
            return verify_rollouts(pool, rollouts)

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
        )
