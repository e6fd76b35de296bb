"""A whole run: everything is checked, then built, measured, trained, measured again and saved."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from bapo.adaptation import Adaptation
from bapo.config import Recipe, recipe_as_mapping
from bapo.errors import SettingError
from bapo.evaluation import Evaluation, UnsolvedReport, evaluate, unsolved_report
from bapo.reward import VerifierPool, check_verifier, verify_rollouts
from bapo.rollout import EmbeddedEngine, Policy, load_policy, probe_rows
from bapo.tasks import Task, build_task, verifier_name
from bapo.training.learner import Learner
from bapo.training.loop import Loop, StepRecord
from bapo.training.policy_sync import EnginePolicies
from bapo.training.progress import Progress, Silence
from bapo.training.prompt_stream import PromptStream
from bapo.training.run_folder import EVALUATION, EXAMPLES, LEDGER, METRICS, SUMMARY, RunFolder
from bapo.training.seeds import derived_seed
from bapo.types import Group, Prompt, Rollout

PROBE_ROWS = 4
"""Prompts on which engine and learner are compared after every sync."""


@dataclass(frozen=True, slots=True)
class RunData:
    """The prompts of a run, all of them checked against the model.

    Attributes:
        training: Prompts to train on.
        held_out: Prompts to be measured on.
        probed: The training prompts that are measured before and after.
    """

    training: Sequence[Prompt]
    held_out: Sequence[Prompt]
    probed: Sequence[Prompt]


@dataclass(slots=True)
class Totals:
    """What training has cost so far; evaluations are not in it."""

    rollouts: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Run:
    """A run's parts once everything has been checked.

    Attributes:
        recipe: The resolved recipe.
        folder: Where it is written.
        policy: Model and tokenizer.
        data: The prompts.
        loop: The training loop and its parts.
        accelerator: Device, precision, trackers.
        progress: Who watches.
        totals: Cost so far.
        evaluations: Evaluations so far, by split and step.
    """

    recipe: Recipe
    folder: RunFolder
    policy: Policy
    data: RunData
    loop: Loop
    policies: EnginePolicies
    accelerator: Accelerator
    progress: Progress
    totals: Totals = field(default_factory=Totals)
    evaluations: dict[tuple[str, int], Evaluation] = field(default_factory=dict)

    def execute(self) -> dict[str, Any]:
        """Measures, trains, measures again and saves; gives the summary."""
        self._measure_base()
        steps = self.recipe.steps
        self.progress.stage("training")
        while self.loop.step < steps:
            record = self.loop.advance()
            self._write(record)
            self.progress.trained(self.loop.step, steps, record.metrics)
            every = self.recipe.evaluation.every
            if every and self.loop.step % every == 0 and self.loop.step < steps:
                self._measure("held_out", self.data.held_out)
        self.progress.stage("measuring the trained policy")
        self._measure("held_out", self.data.held_out)
        self._measure("training", self.data.probed)
        self._save_model()
        summary = self._summary()
        self.folder.write_json(SUMMARY, summary)
        self.accelerator.end_training()
        return summary

    def _measure_base(self) -> None:
        self.progress.stage("measuring the base model")
        self._measure("held_out", self.data.held_out)
        self._measure("training", self.data.probed)
        self._measure("training_again", self.data.probed)

    def _measure(self, split: str, prompts: Sequence[Prompt]) -> None:
        """Evaluates the current policy on a set of prompts and writes the result."""
        if not prompts:
            return
        settings, step = self.recipe.evaluation, self.loop.step
        result = evaluate(
            self.loop.engine,
            self.loop.verify,
            prompts,
            split=split,
            version=self.policies.current(step + 1),
            samples=settings.samples if split == "held_out" else settings.training_samples,
            seed=derived_seed(self.recipe.seed, f"evaluation/{split}"),
            temperature=settings.temperature,
            examples=settings.examples if split == "held_out" else 0,
        )
        self.evaluations[split, step] = result
        self.folder.append(EVALUATION, [{"step": step, **asdict(self.totals), **result.as_line()}])
        self.folder.append(
            EXAMPLES,
            [{"step": step, "split": split, **asdict(example)} for example in result.examples],
        )
        self.progress.evaluated(step, result)

    def _write(self, record: StepRecord) -> None:
        metrics = record.metrics
        self.totals.rollouts += int(metrics["rollouts"] or 0)
        self.totals.tokens += int(metrics["generated_tokens"] or 0)
        self.totals.seconds += float(metrics["seconds"] or 0.0)
        self.folder.append(METRICS, [metrics])
        self.folder.append(LEDGER, record.ledger_lines())
        numbers = {key: value for key, value in metrics.items() if value is not None}
        self.accelerator.log(numbers, step=self.loop.step)

    def _save_model(self) -> None:
        model = self.accelerator.unwrap_model(self.policy.model)
        model.save_pretrained(self.folder.path / "model")
        self.policy.tokenizer.save_pretrained(self.folder.path / "model")

    def _summary(self) -> dict[str, Any]:
        first, last = 0, self.loop.step
        held_out = [self.evaluations["held_out", step].pass_at_1 for step in (first, last)]
        unsolved = self._unsolved(last)
        return {
            "status": "finished",
            "steps": last,
            "seconds": self.totals.seconds,
            "rollouts": self.totals.rollouts,
            "held_out_before": held_out[0],
            "held_out_after": held_out[1],
            "unsolved": unsolved and unsolved.unsolved,
            "unsolved_solved": unsolved and unsolved.solved,
            "unsolved_solved_by_base": unsolved and unsolved.solved_by_base,
            "suspect_prompts": [asdict(one) for one in self.loop.adaptation.suspects],
        }

    def _unsolved(self, last: int) -> UnsolvedReport | None:
        if not self.data.probed:
            return None
        return unsolved_report(
            self.evaluations["training", 0],
            self.evaluations["training_again", 0],
            self.evaluations["training", last],
        )


def train(recipe: Recipe, output: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Trains a policy as a recipe says.

    Recipe, model, data, prompt lengths and verifier are checked before the first rollout, and
    before anything is written.

    Args:
        recipe: The resolved recipe.
        output: The run folder; must not exist or be empty.
        progress: Who watches.

    Returns:
        The summary, as in summary.json.

    Raises:
        BapoError: Something in the recipe, the model, the data or the verifier is wrong, or the
            run stopped itself; the message says what, where, and the cure.
    """
    watcher = progress or Silence()
    set_seed(recipe.seed)
    with ExitStack() as stack:
        run = prepare(recipe, output, watcher, stack)
        return run.execute()


def prepare(recipe: Recipe, output: Path, progress: Progress, stack: ExitStack) -> Run:
    """Checks everything that a run needs and builds its parts.

    Args:
        recipe: The resolved recipe.
        output: The run folder.
        progress: Who watches.
        stack: Closes the verifier processes.
    """
    progress.stage("loading model and data")
    policy = load_policy(recipe.model)
    task = build_task(recipe.task)
    engine = EmbeddedEngine.of_policy(policy, recipe.rollout)
    data = read_data(recipe, task)
    engine.encoder.check([*data.training, *data.held_out])
    pool = stack.enter_context(VerifierPool(verifier_name(recipe.reward, task), recipe.reward))
    check_verifier(pool, [*data.training, *data.held_out])

    device = next(policy.model.parameters()).device
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=recipe.training.mixed_precision,
        log_with=list(recipe.logging.trackers) or None,
        project_dir=str(output),
    )
    if accelerator.num_processes > 1:
        raise SettingError(
            "bapo trains in one process; start it without accelerate launch, or with "
            "--num_processes 1."
        )
    learner = Learner(
        policy.model,
        pad_token_id=int(policy.tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
        objective=recipe.objective,
        training=recipe.training,
        steps=recipe.steps,
        accelerator=accelerator,
    )
    policies = EnginePolicies(
        engine,
        learner,
        sync_every=recipe.adaptation.behavior_sync_every,
        probe=probe_rows(engine.encoder, data.training, PROBE_ROWS),
        tolerance=recipe.rollout.probe_tolerance,
    )

    def verify(rollouts: Sequence[Rollout]) -> list[Group]:
        return verify_rollouts(pool, rollouts)

    loop = Loop(
        recipe=recipe,
        stream=PromptStream(data.training, seed=recipe.seed, smallest=recipe.training.batch_groups),
        policies=policies,
        engine=engine,
        verify=verify,
        adaptation=Adaptation(
            recipe.adaptation, batch_groups=recipe.training.batch_groups, seed=recipe.seed
        ),
        learner=learner,
    )
    folder = RunFolder.create(output, recipe, device)
    if recipe.logging.trackers:
        accelerator.init_trackers(recipe.logging.project, config=recipe_as_mapping(recipe))
    return Run(recipe, folder, policy, data, loop, policies, accelerator, progress)


def read_data(recipe: Recipe, task: Task) -> RunData:
    """The task's prompts: to train on, to be measured on, and to be probed before and after."""
    training = task.training_prompts()
    held_out = task.evaluation_prompts(recipe.evaluation.prompts)
    return RunData(training, held_out, training[: recipe.evaluation.training_prompts])
