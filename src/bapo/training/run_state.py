"""What a checkpoint of a run holds, and how a run takes it back.

| tree | what |
|---|---|
| model | parameters and persistent buffers of the policy, or its adapter's alone |
| optimizer | moments, step counts and groups |
| behavior | the delayed policy's version and, where it is a copy, its weights |
| adaptation | both buffers with all groups, retry counts, r |
| generators | the global generators of torch, numpy and python; no room of bapo draws from them |
| run | recipe, fingerprints (prompts, frozen weights), loop, stream, totals, file positions |
"""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bapo.config import Recipe, recipe_as_mapping
from bapo.errors import CheckpointError, RunFolderError
from bapo.evaluation import Evaluation, PromptResult
from bapo.training.checkpoints import Checkpoint
from bapo.training.preparation import RunParts
from bapo.training.recipe_changes import changed_settings
from bapo.training.run_folder import EVALUATION, RunFolder
from bapo.training.state_files import Tree

_FROZEN_NUMBERS = 1024
"""Numbers of each frozen tensor that are compared on resuming."""

Evaluations = dict[tuple[str, int], Evaluation]


@dataclass(slots=True)
class Totals:
    """What training has cost so far; evaluations are not in it."""

    rollouts: int = 0
    tokens: int = 0
    seconds: float = 0.0


def run_state(
    recipe: Recipe, parts: RunParts, totals: Totals, positions: Mapping[str, int]
) -> dict[str, Tree]:
    """Everything that the rest of a run follows from.

    Args:
        recipe: The resolved recipe.
        parts: Between two steps.
        totals: Cost so far.
        positions: Of the files that lines are added to.
    """
    return {
        "model": parts.learner.model_state(),
        "optimizer": parts.learner.state_dict(),
        "behavior": parts.policies.state_dict(),
        "adaptation": parts.adaptation.state_dict(),
        "generators": _generators(),
        "run": {
            "recipe": recipe_as_mapping(recipe),
            "prompts": parts.data.fingerprint,
            "frozen": frozen_fingerprint(parts.policy.model),
            "loop": parts.loop.state_dict(),
            "stream": parts.stream.state_dict(),
            "totals": asdict(totals),
            "positions": dict(positions),
        },
    }


def load_run_state(checkpoint: Checkpoint, parts: RunParts) -> Totals:
    """Puts a checkpoint's state into the parts of a run; the generators come last.

    Args:
        checkpoint: One that `check_resumable` has passed.
        parts: As `prepare` built them.

    Returns:
        The totals.

    Raises:
        RunFolderError: Model or prompts are no longer those of the run.
    """
    run = checkpoint.read("run")
    if run["prompts"] != parts.data.fingerprint:
        raise RunFolderError(
            "The run cannot be resumed: the task gives other prompts than at its start; put its "
            "data back, or start another run."
        )
    if run.get("frozen", "") != frozen_fingerprint(parts.policy.model):
        raise RunFolderError(
            "The run cannot be resumed: the frozen weights under its adapter are not those of its "
            "start; put the model back, or start another run."
        )
    try:
        parts.learner.load_model_state(checkpoint.read("model"))
    except (ValueError, AttributeError):
        raise RunFolderError(
            "The run cannot be resumed: the recipe's model has other weights by name or shape "
            "than at its start; put it back, or start another run."
        ) from None
    for name, part in (
        ("optimizer", parts.learner),
        ("behavior", parts.policies),
        ("adaptation", parts.adaptation),
    ):
        with checkpoint.used(name):
            part.load_state_dict(checkpoint.read(name))
    with checkpoint.used("adaptation"):
        _check_tokens(parts)
    with checkpoint.used("run"):
        parts.stream.load_state_dict(run["stream"])
        parts.loop.load_state_dict(run["loop"])
        parts.loop.charge("checkpoint", float(checkpoint.manifest.seconds))
        totals = Totals(
            **{name: type(zero)(run["totals"][name]) for name, zero in asdict(Totals()).items()}
        )
    with checkpoint.used("generators"):
        _load_generators(checkpoint.read("generators"))
    return totals


def check_resumable(checkpoint: Checkpoint, folder: RunFolder) -> None:
    """Makes sure that the run's files still have what they had when a checkpoint was made.

    Raises:
        CheckpointError: They do not, or the checkpoint lacks a part, or says of the run what no
            run writes.
    """
    for name in ("model", "optimizer", "behavior", "adaptation", "generators"):
        if f"{name}.json" not in checkpoint.manifest.files:
            raise CheckpointError(f"it has no '{name}'")
    run = checkpoint.read("run")
    with checkpoint.used("run"):
        step = run["loop"]["step"]
        if step != checkpoint.manifest.step:
            raise ValueError(f"step {step!r}")
        changed_settings(run["recipe"], run["recipe"])
        folder.check_positions(run["positions"])


def recipe_changes(checkpoint: Checkpoint, recipe: Recipe) -> list[str]:
    """The allowed changes since a checkpoint that will show; see `changed_settings`."""
    return changed_settings(checkpoint.read("run")["recipe"], recipe_as_mapping(recipe))


def evaluations_so_far(folder: RunFolder, positions: Mapping[str, int]) -> Evaluations:
    """The evaluations in evaluation.jsonl up to a position, without examples.

    Raises:
        RunFolderError: The file cannot be read or is not what a run writes.
    """
    found: Evaluations = {}
    for line in folder.lines(EVALUATION, positions[EVALUATION]):
        try:
            prompts = tuple(PromptResult(**one) for one in line["prompts"])
            result = Evaluation(line["split"], line["samples"], prompts, ())
            found[line["split"], line["step"]] = result
        except (KeyError, TypeError):
            path = folder.path / EVALUATION
            raise RunFolderError(f"'{path}' has a line that no run writes.") from None
    return found


def _check_tokens(parts: RunParts) -> None:
    """A token that the model does not have would end the run in a traceback, or worse, not."""
    tokens = parts.policy.model.get_input_embeddings().num_embeddings
    for group in parts.adaptation.reusable:
        for ids in (group.prompt_token_ids, group.token_ids):
            if ids.min(initial=0) < 0 or ids.max(initial=0) >= tokens:
                raise ValueError("a token that the model does not have")


def frozen_fingerprint(model: nn.Module) -> str:
    """A hash of the weights that training does not change, which no checkpoint holds.

    It reads names, shapes and evenly spaced numbers of each tensor: enough to tell one model from
    another, and quick. Empty where all weights are trained.
    """
    digest = hashlib.blake2b(digest_size=16)
    frozen = [(name, one) for name, one in model.named_parameters() if not one.requires_grad]
    for name, tensor in frozen:
        numbers = tensor.detach().flatten()[:: max(1, tensor.numel() // _FROZEN_NUMBERS)]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(numbers.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if frozen else ""


def _generators() -> dict[str, Any]:
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _load_generators(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
