"""Everything that a run needs, checked before it is used and built before anything is written."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from bapo.adaptation import Adaptation
from bapo.config import Recipe
from bapo.errors import SettingError, VerifierError
from bapo.reward import GroupVerifier, VerifierPool, check_verifier, column_faults
from bapo.rollout import (
    EmbeddedEngine,
    Policy,
    add_adapter,
    has_adapter,
    is_adapter_folder,
    is_quantised,
    load_policy,
    probe_rows,
    why_no_kernels,
)
from bapo.tasks import ScreenedData, build_task, open_image, screen, verifier_name
from bapo.training.learner import Learner
from bapo.training.loop import Loop
from bapo.training.policy_sync import EnginePolicies
from bapo.training.progress import Progress
from bapo.training.prompt_stream import PromptStream, fingerprint
from bapo.training.seeds import derived_seed
from bapo.types import Prompt, VerdictStatus

PROBE_ROWS = 4
"""Prompts on which engine and learner are compared after every sync."""

FIRST_LOOK = 8
"""Prompts whose answers the verifier is tried on before a run starts."""


@dataclass(frozen=True)
class RunData:
    """The prompts of a run, all of them checked against the model.

    Attributes:
        training: Prompts to train on.
        held_out: Prompts to be measured on.
        probed: The training prompts that are measured before and after.
        screened: The account of all rows.
    """

    training: Sequence[Prompt]
    held_out: Sequence[Prompt]
    probed: Sequence[Prompt]
    screened: ScreenedData

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all prompts in order, computed once: a hundred thousand take seconds."""
        return fingerprint(self.training, self.held_out)


@dataclass(frozen=True, slots=True)
class RunParts:
    """The parts of a run, as they are before its first step.

    Attributes:
        policy: Model and tokenizer.
        data: The prompts.
        learner: Updates the policy.
        policies: Its versions in the engine.
        stream: Training prompts in order.
        adaptation: Buffers and band.
        loop: Joins them.
        pool: The verifier processes.
        accelerator: Device, precision, trackers.
        decoder: What runs token steps; see `rollout.decoder`.
    """

    policy: Policy
    data: RunData
    learner: Learner
    policies: EnginePolicies
    stream: PromptStream
    adaptation: Adaptation
    loop: Loop
    pool: VerifierPool
    accelerator: Accelerator
    decoder: str

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return next(self.policy.model.parameters()).device


def prepare(recipe: Recipe, output: Path, progress: Progress, stack: ExitStack) -> RunParts:
    """Checks everything that a run needs and builds its parts.

    Args:
        recipe: The resolved recipe.
        output: The run folder, for trackers; nothing is written yet.
        progress: Who watches.
        stack: Closes the verifier processes.

    Raises:
        BapoError: Something in the recipe, the model, the data or the verifier is wrong.
    """
    _check_trainable(recipe)
    _check_trackers(recipe)
    progress.stage("loading model and data")
    # The model last of the three: it may be a download of hours.
    task = build_task(recipe.task)
    pool = stack.enter_context(VerifierPool(verifier_name(recipe.reward, task), recipe.reward))
    check_verifier(pool)
    policy = load_policy(recipe.model)
    _make_trainable(recipe, policy)
    engine = EmbeddedEngine.of_policy(policy, recipe.rollout, open_image=open_image)
    checks = (engine.encoder.faults, partial(column_faults, pool))
    screened = screen(task, recipe.evaluation.prompts, checks, recipe.task.bad_share_allowed)
    data = _data(recipe, screened)
    if screened.quarantined:
        progress.stage(
            f"rows of the data that cannot be used and are set aside: {len(screened.quarantined)}; "
            "quarantine.jsonl says why"
        )

    accelerator = _accelerator(recipe, policy, output)
    learner = Learner(
        policy.model,
        pad_token_id=int(policy.tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
        objective=recipe.objective,
        training=recipe.training,
        steps=recipe.steps,
        sampler_tolerance=recipe.rollout.probe_tolerance,
        accelerator=accelerator,
        pictures=engine.encoder.pictures,
    )
    _say_what_is_slow(recipe, engine, learner, progress)
    policies = EnginePolicies(
        engine,
        learner,
        sync_every=recipe.adaptation.sync_every,
        probe=probe_rows(engine.encoder, data.training, PROBE_ROWS),
        tolerance=recipe.rollout.probe_tolerance,
    )
    groups = recipe.training.batch_groups
    stream = PromptStream(data.training, seed=recipe.seed, smallest=groups)
    adaptation = Adaptation(recipe.adaptation, batch_groups=groups, seed=recipe.seed)
    verify = GroupVerifier(pool, recipe.rollout.max_new_tokens)
    loop = Loop(
        recipe=recipe,
        stream=stream,
        policies=policies,
        engine=engine,
        verify=verify,
        adaptation=adaptation,
        learner=learner,
        begin_verifying=verify.begin if recipe.reward.overlap else None,
    )
    decoder = engine.decoder
    return RunParts(
        policy, data, learner, policies, stream, adaptation, loop, pool, accelerator, decoder
    )


def _say_what_is_slow(
    recipe: Recipe, engine: EmbeddedEngine, learner: Learner, progress: Progress
) -> None:
    """Names the fast paths that this model or machine does not take."""
    if engine.decoder == "torch" and recipe.rollout.decoder == "auto":
        progress.stage(f"token steps are slower than they could be: {why_no_kernels()}")
    if learner.sharing_refused:
        progress.stage(f"completions do not share their prompt: {learner.sharing_refused}")


def try_verifier(recipe: Recipe, parts: RunParts) -> None:
    """Has the verifier judge one answer to each of a few prompts.

    One that always fails would be stopped by `reward.max_invalid_share` in any case, but after the
    base model has been measured: hours, for one that hangs on each of a thousand answers.

    Args:
        recipe: The resolved recipe.
        parts: The parts of a run that has not begun.

    Raises:
        VerifierError: Not one of the verdicts is `ok`, and the recipe does not allow for that.
    """
    rollouts = parts.loop.engine.sample(
        parts.data.training[:FIRST_LOOK],
        version=parts.policies.current(1),
        group_size=1,
        step=0,
        seed=derived_seed(recipe.seed, "verifier"),
        temperature=recipe.rollout.temperature,
    )
    verdicts = [verdict for group in parts.loop.verify(rollouts) for verdict in group.verdicts]
    if recipe.reward.max_invalid_share < 1 and not any(
        verdict.status is VerdictStatus.OK for verdict in verdicts
    ):
        raise VerifierError(
            f"The verifier fails on all of {len(verdicts)} answers that it was tried on; the first "
            f"one is {verdicts[0].status.value}: {verdicts[0].detail}"
            + (_advice(recipe, parts) if verdicts[0].status is VerdictStatus.ERROR else "")
        )


def _advice(recipe: Recipe, parts: RunParts) -> str:
    """What functions written for TRL need, where prompts are chats and answers come as texts."""
    chats = any(not isinstance(prompt.content, str) for prompt in parts.data.training[:FIRST_LOOK])
    if not chats or recipe.reward.completions_as != "text":
        return ""
    return (
        " A function that takes answers as lists of messages, as TRL gives them, needs "
        "'reward.completions_as' messages."
    )


def _data(recipe: Recipe, screened: ScreenedData) -> RunData:
    """The prompts to train on, to be measured on, and to be probed before and after."""
    # By hash, as held-out prompts are: a file sorted by difficulty must not decide what is probed.
    shuffled = sorted(screened.training, key=lambda prompt: derived_seed(0, prompt.prompt_id))
    probed = shuffled[: recipe.evaluation.training_prompts]
    return RunData(screened.training, screened.held_out, probed, screened)


def _check_trainable(recipe: Recipe) -> None:
    """Half-precision weights round AdamW's small steps away, or overflow; evaluation may use them.

    Under an adapter, whose own weights are in float32, frozen ones may be in bfloat16; float16
    overflows, and small gradients vanish in it.

    Raises:
        SettingError: The weights are to be loaded in a precision that cannot be trained.
    """
    may_be_frozen = recipe.adapter.rank or is_adapter_folder(recipe.model.path)
    if recipe.model.dtype == "float32" or (recipe.model.dtype == "bfloat16" and may_be_frozen):
        return
    raise SettingError(
        f"'model.dtype' is {recipe.model.dtype}, but weights in half precision round small "
        "updates away; train with float32 and set 'training.mixed_precision' to bf16, or train an "
        "adapter over bfloat16 weights ('adapter.rank')."
    )


def _make_trainable(recipe: Recipe, policy: Policy) -> None:
    """Adds the adapter that the recipe asks for.

    Raises:
        SettingError: The model brings an adapter already, or its weights cannot be trained.
        ModelError: The adapter cannot be added.
    """
    rank = recipe.adapter.rank
    if rank and has_adapter(policy.model):
        raise SettingError(
            f"'adapter.rank' is {rank}, but '{policy.name}' is an adapter already, which is "
            "trained on as it is; leave the section 'adapter' out, or merge it with bapo merge."
        )
    if rank:
        seed = derived_seed(recipe.seed, "adapter")
        add_adapter(policy.model, policy.base, recipe.adapter, seed)
    elif is_quantised(policy.model) and not has_adapter(policy.model):
        raise SettingError(
            f"The weights of the model '{policy.name}' are quantised, which cannot be trained; "
            "train an adapter over them ('adapter.rank'), or load weights that are not."
        )


def _check_trackers(recipe: Recipe) -> None:
    """Raises a `SettingError` for a tracker that is not installed."""
    available = {tracker.value for tracker in get_available_trackers()}
    for tracker in recipe.logging.trackers:
        if tracker not in available:
            raise SettingError(
                f"'logging.trackers' names {tracker}, which is not installed; install "
                "bapo[trackers], or leave it out."
            )


def _accelerator(recipe: Recipe, policy: Policy, output: Path) -> Accelerator:
    # Accelerate keeps the first precision of a process for good and has no public way to drop it;
    # here every run has its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=next(policy.model.parameters()).device.type == "cpu",
        mixed_precision=recipe.training.mixed_precision,
        log_with=list(recipe.logging.trackers) or None,
        project_dir=str(output),
    )
    if accelerator.num_processes > 1:
        raise SettingError(
            "bapo trains in one process; start it without accelerate launch, or with "
            "--num_processes 1."
        )
    return accelerator
