"""A whole run: everything is checked, then built, measured, trained, measured again and saved.

Between two steps a run may be saved, and it may leave on request. What it does there, and in what
order, follows from the step alone, so that a run which was ended at any moment and resumed does
what it would have done.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from bapo.config import Recipe, recipe_as_mapping
from bapo.errors import RunFolderError, RunInterruptedError, RunStoppedError
from bapo.evaluation import Evaluation, UnsolvedReport, evaluate, unsolved_report
from bapo.rollout import has_adapter, save_adapter, without_bars
from bapo.training.account import quarantined_row_lines, row_lines
from bapo.training.checkpoints import Checkpoint, CheckpointStore
from bapo.training.durable import sync_tree
from bapo.training.interruption import Interruption
from bapo.training.loop import Loop, StepRecord, StoppedStepError
from bapo.training.preparation import RunParts, prepare, try_verifier
from bapo.training.progress import Progress, Silence
from bapo.training.run_folder import (
    CHECKPOINTS,
    EVALUATION,
    EXAMPLES,
    LEDGER,
    METRICS,
    MODEL,
    QUARANTINE,
    ROWS,
    SUMMARY,
    VERIFIER,
    RunFolder,
    check_empty,
)
from bapo.training.run_state import (
    Evaluations,
    Totals,
    check_resumable,
    evaluations_so_far,
    load_run_state,
    recipe_changes,
    run_state,
)
from bapo.training.seeds import derived_seed
from bapo.training.shortfall import IDLE, IDLE_STEPS, shortfalls
from bapo.types import Prompt


@dataclass(slots=True)
class Run:
    """A run once everything has been checked.

    Attributes:
        recipe: The resolved recipe.
        folder: Where it is written.
        parts: What does the work.
        progress: Who watches.
        interruption: Who may ask it to leave.
        totals: Cost so far.
        evaluations: Evaluations so far, by split and step.
        saved: The step of the newest checkpoint; None before the first.
        begun: Steps that were done before this process.
        idle: Steps in a row of this process that made no update.
    """

    recipe: Recipe
    folder: RunFolder
    parts: RunParts
    progress: Progress
    interruption: Interruption
    totals: Totals = field(default_factory=Totals)
    evaluations: Evaluations = field(default_factory=dict)
    saved: int | None = None
    begun: int = 0
    idle: int = 0

    @property
    def loop(self) -> Loop:
        """The training loop, which counts the steps."""
        return self.parts.loop

    def execute(self) -> dict[str, Any]:
        """Measures, trains, measures again and saves; gives the summary.

        Raises:
            RunInterruptedError: It was asked to leave, and has saved itself.
        """
        steps, data = self.recipe.steps, self.parts.data
        if self.loop.step == 0:
            self.progress.stage("measuring the base model")
            self._measure("held_out", data.held_out)
            self._measure("training", data.probed)
            self._measure("training_again", data.probed)
        self.progress.stage("training")
        while self.loop.step < steps:
            self._between_steps()
            self._advance()
        self._between_steps()
        self.progress.stage("measuring the trained policy")
        self._measure("held_out", data.held_out)
        self._measure("training", data.probed)
        self._save_model()
        summary = self._summary()
        self.folder.write_json(SUMMARY, summary)
        self.parts.accelerator.end_training()
        for sentence in summary["shortfalls"]:
            self.progress.warning(sentence)
        return summary

    def _advance(self) -> None:
        """Does one step and writes what it leaves behind, also where it stops the run."""
        try:
            self._write(self.loop.advance())
        except StoppedStepError as stop:
            self._write(stop.record)
            raise

    def _between_steps(self) -> None:
        """What is due after the steps done: an evaluation, a checkpoint, leaving."""
        step, steps = self.loop.step, self.recipe.steps
        every = self.recipe.evaluation.every
        if every and step % every == 0 and 0 < step < steps:
            self._measure("held_out", self.parts.data.held_out)
        every = self.recipe.training.checkpoint_every
        if every and (step % every == 0 or step == steps) and step != self.saved:
            self._save_checkpoint()
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if not self.interruption.requested:
            return
        if self.saved != self.loop.step:
            self._save_checkpoint()
        raise RunInterruptedError(
            f"The run was interrupted after step {self.loop.step} of {self.recipe.steps} and is "
            f"saved; go on with: {self.folder.resume_command}"
        )

    def _save_checkpoint(self) -> None:
        """Saves the run as it is; the time goes into the next step's metrics."""
        step = self.loop.step
        state = run_state(self.recipe, self.parts, self.totals, self.folder.positions())
        store = checkpoint_store(self.folder, self.recipe)
        self.loop.charge("checkpoint", store.save(step, state))
        self.saved = step
        self.write_verifier_report()

    def _measure(self, split: str, prompts: Sequence[Prompt]) -> None:
        """Evaluates the current policy on a set of prompts, unless that is done already."""
        settings, step = self.recipe.evaluation, self.loop.step
        if not prompts or (split, step) in self.evaluations:
            return
        self._leave_if_asked()
        result = evaluate(
            self.loop.engine,
            self.loop.verify,
            prompts,
            split=split,
            version=self.parts.policies.current(step + 1),
            samples=settings.samples if split == "held_out" else settings.training_samples,
            seed=derived_seed(self.recipe.seed, f"evaluation/{self._numbers(split)}"),
            temperature=settings.temperature,
            examples=settings.examples if split == "held_out" else 0,
            begin_verifying=self.loop.begin_verifying,
        )
        self._check_valid(result)
        self.evaluations[split, step] = result
        self.folder.append(EVALUATION, [{"step": step, **asdict(self.totals), **result.as_line()}])
        self.folder.append(
            EXAMPLES,
            [{"step": step, "split": split, **asdict(example)} for example in result.examples],
        )
        self.progress.evaluated(step, result)

    def _numbers(self, split: str) -> str:
        """Whose random numbers a measurement uses.

        The trained policy answers the training prompts with the numbers with which the base was
        asked again. What it solves and what the base solves on a second try are then as comparable
        as can be: a policy that has not changed solves just as many.
        """
        return "training_again" if split == "training" and self.loop.step else split

    def _check_valid(self, result: Evaluation) -> None:
        limit = self.recipe.reward.max_invalid_share
        if 1 - result.valid_share > limit:
            raise RunStoppedError(
                f"The run stopped at step {self.loop.step}, measuring the split {result.split}: "
                f"{1 - result.valid_share:.0%} of the verdicts are not ok, more than "
                f"'reward.max_invalid_share' ({limit:g}) allows."
            )

    def _write(self, record: StepRecord) -> None:
        metrics = record.metrics
        self.totals.rollouts += int(metrics["rollouts"] or 0)
        self.totals.tokens += int(metrics["generated_tokens"] or 0)
        self.totals.seconds += float(metrics["seconds"] or 0.0)
        # A step counts once its metrics are there, so they come last.
        self.folder.append(QUARANTINE, record.quarantine)
        self.folder.append(LEDGER, record.ledger_lines())
        self.folder.append(METRICS, [metrics])
        numbers = {key: value for key, value in metrics.items() if value is not None}
        self.parts.accelerator.log(numbers, step=self.loop.step)
        self.progress.trained(self.loop.step, self.recipe.steps, metrics)
        self.idle = 0 if metrics["updates"] else self.idle + 1
        if self.idle == IDLE_STEPS:
            self.progress.warning(IDLE)

    @without_bars()
    def _save_model(self) -> None:
        """Saves the policy, or its adapter alone; on disk before summary.json says it is there."""
        model = self.parts.accelerator.unwrap_model(self.parts.policy.model)
        folder = self.folder.path / MODEL
        if has_adapter(model):
            save_adapter(model, folder)
        else:
            model.save_pretrained(folder)
        reader = self.parts.policy.processor or self.parts.policy.tokenizer
        reader.save_pretrained(folder)
        sync_tree(folder)

    def write_verifier_report(self) -> None:
        """Writes verifier.json: how long verdicts took, and the slowest ones."""
        pool = self.parts.pool
        slowest = [asdict(one) for one in pool.slowest()]
        self.folder.write_json(
            VERIFIER,
            {
                "verifier": pool.verifier,
                "since_step": self.begun,
                **pool.metrics(),
                "slowest": slowest,
            },
        )

    def _summary(self) -> dict[str, Any]:
        first, last = 0, self.loop.step
        held_out = [self.evaluations["held_out", step].pass_at_1 for step in (first, last)]
        unsolved = self._unsolved(last)
        learned = self._learned()
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
            **learned,
            "shortfalls": shortfalls({"steps": last, **learned}),
            "suspect_prompts": [asdict(one) for one in self.parts.adaptation.suspects],
        }

    def _learned(self) -> dict[str, int]:
        """How much came of the run: updates, and groups sampled and lost, added up over steps."""
        lines = list(self.folder.lines(METRICS, self.folder.positions()[METRICS]))
        names = ("updates", "updates_skipped", "groups_sampled_fresh", "groups_unverified")
        return {name: sum(line[name] for line in lines) for name in names}

    def _unsolved(self, last: int) -> UnsolvedReport | None:
        if not self.parts.data.probed:
            return None
        return unsolved_report(
            self.evaluations["training", 0],
            self.evaluations["training_again", 0],
            self.evaluations["training", last],
        )


def train(
    recipe: Recipe, output: Path, *, resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Trains a policy as a recipe says, from the start or from where a run was ended.

    Recipe, model, data, prompt lengths and verifier are checked before the first rollout, and
    before anything is written. SIGTERM and SIGINT let the step finish, save and leave.

    Args:
        recipe: The resolved recipe.
        output: The run folder; must not exist or be empty, unless the run is resumed.
        resume: Continue the run in `output` from its newest checkpoint that verifies.
        progress: Who watches; where nobody does, warnings go to the logger `bapo`.

    Returns:
        The summary, as in summary.json; its `shortfalls` say what the run has against itself, as
        that it never changed its policy, which has also been a warning to who watches.

    Raises:
        BapoError: Something in the recipe, the model, the data or the verifier is wrong, there is
            nothing to resume, or the run stopped itself or was asked to leave; the message says
            what, where, and the cure.
    """
    watcher = progress or Silence()
    set_seed(recipe.seed)
    with ExitStack() as stack:
        interruption = Interruption()
        if resume:
            run = _resumed(recipe, output, watcher, interruption, stack)
        else:
            check_empty(output)
            parts = prepare(recipe, output, watcher, stack)
            try_verifier(recipe, parts)
            folder = RunFolder.create(output, recipe, parts.device, parts.decoder)
            stack.callback(folder.close)
            folder.write_lines(ROWS, row_lines(parts.data.screened))
            folder.append(QUARANTINE, quarantined_row_lines(parts.data.screened))
            run = Run(recipe, folder, parts, watcher, interruption)
        if recipe.logging.trackers:
            run.parts.accelerator.init_trackers(
                recipe.logging.project, config=recipe_as_mapping(recipe)
            )
        stack.callback(run.write_verifier_report)
        stack.enter_context(interruption)
        return run.execute()


def checkpoint_store(folder: RunFolder, recipe: Recipe) -> CheckpointStore:
    """The checkpoints of a run."""
    return CheckpointStore(folder.path / CHECKPOINTS, recipe.training.keep_checkpoints)


def _resumed(
    recipe: Recipe, output: Path, progress: Progress, interruption: Interruption, stack: ExitStack
) -> Run:
    """The run in a folder, as it was at its newest checkpoint that verifies.

    The folder is changed only once nothing can be wrong any more.
    """
    folder = RunFolder.reopen(output)
    stack.callback(folder.close)
    _check_unfinished(folder, recipe)
    store = checkpoint_store(folder, recipe)
    checkpoint = _newest(store, folder, progress)
    for change in recipe_changes(checkpoint, recipe):
        progress.stage(f"resuming with another setting, which may show in the results: {change}")
    parts = prepare(recipe, output, progress, stack)
    totals = load_run_state(checkpoint, parts)
    positions = checkpoint.read("run")["positions"]
    evaluations = evaluations_so_far(folder, positions)

    store.set_aside_after(parts.loop.step)
    folder.cut_back(positions)
    (folder.path / SUMMARY).unlink(missing_ok=True)
    folder.write_recipe(recipe)
    step = parts.loop.step
    for change in folder.note_resumption(recipe, parts.device, parts.decoder, step):
        progress.stage(f"resuming elsewhere, so results may differ in their last bits: {change}")
    progress.stage(f"resumed after step {step}")
    return Run(
        recipe, folder, parts, progress, interruption, totals, evaluations, saved=step, begun=step
    )


def _newest(store: CheckpointStore, folder: RunFolder, progress: Progress) -> Checkpoint:
    reasons: list[str] = []

    def rejected(reason: str) -> None:
        progress.stage(reason)
        reasons.append(reason)

    checkpoint = store.newest(lambda one: check_resumable(one, folder), rejected)
    if checkpoint is None:
        why = f": {reasons[0].rstrip('.')}" if reasons else ""
        raise RunFolderError(
            f"The run in '{folder.path}' has no checkpoint that it could be resumed from{why}. To "
            "begin anew, remove the folder and start again without --resume."
        )
    return checkpoint


def _check_unfinished(folder: RunFolder, recipe: Recipe) -> None:
    """A finished run is only resumed for more steps; never for none."""
    done = folder.finished_steps
    if done is not None and recipe.steps <= done:
        raise RunFolderError(
            f"The run in '{folder.path}' is finished: all {done} steps are done; raise 'steps' to "
            "train it for longer."
        )
