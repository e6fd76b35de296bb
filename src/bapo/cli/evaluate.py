"""`bapo eval`: pass@1, pass@K and unsolved problems of a model."""

import difflib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bapo.cli.options import (
    Overrides,
    console,
    harmless,
    is_run,
    model_of_run,
    quiet_libraries,
    show,
)
from bapo.config import read_yaml, resolve_recipe
from bapo.errors import RunFolderError, SettingError

if TYPE_CHECKING:
    from bapo.evaluation import Evaluation
    from bapo.reporting.intervals import Interval

_OPTIONS = {
    "evaluation.samples": "--samples",
    "evaluation.prompts": "--prompts",
    "seed": "--seed",
}
"""Settings of a run that an evaluation on its own takes as options."""


def evaluate(
    model: Annotated[str, typer.Argument(help="A model, or a run folder.")],
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="The task; a run folder brings its own.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="K: completions per problem.")] = 8,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out problems.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the sampling; else the run's, or 1.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Measure a model on a task's held-out problems.

    Example: bapo eval embedded:countdown rollout.max_new_tokens=40 --task countdown-4
    """
    folder = Path(model)
    _check_there(folder)
    _refuse_unread(overrides or ())
    content: dict[str, Any] = {"model": model}
    if is_run(folder):
        content = read_yaml(folder / "recipe.yaml")
        content["model"] = _how_loaded(content) | {"path": str(model_of_run(folder))}
        _check_trusted(folder, content, overrides or ())
    if task:
        content["task"] = task
    if "task" not in content:
        raise SettingError("Name the task with --task, such as --task countdown-4.")
    given = [] if temperature is None else [f"evaluation.temperature={temperature}"]
    recipe = resolve_recipe(content, [*given, *(overrides or ())])
    from bapo.cli.progress import percent
    from bapo.evaluation.standalone import EvaluationRequest, evaluate_model
    from bapo.tasks import build_task, chance, verifier_name

    quiet_libraries()
    # With --json nothing but the object may be on stdout.
    aside = Console(stderr=True, highlight=False, soft_wrap=True) if as_json else console
    built = build_task(recipe.task)
    result = evaluate_model(
        recipe.model,
        built,
        verifier_name(recipe.reward, built),
        EvaluationRequest(prompts, samples, seed, recipe.evaluation.temperature),
        rollout=recipe.rollout,
        reward=recipe.reward,
        notice=lambda sentence: aside.print(f"[dim]{harmless(sentence)}[/]"),
    )
    levels = sorted({one.level for one in result.prompts if one.level})
    parts = {
        level or "all": result.of_level(level)
        for level in ([*levels, None] if len(levels) > 1 else [None])
    }
    if as_json:
        levels_as_json = {name: _as_json(part) for name, part in parts.items()}
        typer.echo(json.dumps({"model": model, "task": built.name, "levels": levels_as_json}))
        return
    _show_parts(f"{model} on {built.name}", parts, samples)
    guess = chance(built.evaluation_prompts(prompts)) if recipe.task.blank_images else None
    if guess is not None:
        console.print(f"Chance, the best constant answer to each question: {percent(guess)}")


def _show_parts(title: str, parts: "Mapping[str, Evaluation]", samples: int) -> None:
    from bapo.cli.progress import percent

    table = Table(title=harmless(title), title_justify="left", header_style="bold")
    for name in ("level", "problems", "pass@1", "95 %", f"pass@{samples}", "unsolved"):
        table.add_column(name, justify="left" if name == "level" else "right")
    for name, part in parts.items():
        interval = _interval(part)
        table.add_row(
            harmless(name),
            str(len(part.prompts)),
            percent(part.pass_at_1),
            f"{percent(interval.low)} to {percent(interval.high)}" if interval else "",
            percent(part.pass_at_k),
            percent(part.all_wrong_share),
        )
    show(table)


def _interval(part: "Evaluation") -> "Interval | None":
    """The 95 % interval of pass@1 over problems."""
    import numpy as np

    from bapo.reporting.intervals import accuracy_interval

    rates = np.array([one.correct / one.valid for one in part.whole])
    return accuracy_interval(rates, part.samples)


def _as_json(part: "Evaluation") -> dict[str, Any]:
    interval = _interval(part)
    return {
        "problems": len(part.prompts),
        "samples": part.samples,
        "valid_share": part.valid_share,
        "pass_at_1": part.pass_at_1,
        "pass_at_1_low": interval.low if interval else None,
        "pass_at_1_high": interval.high if interval else None,
        "pass_at_k": part.pass_at_k,
        "all_wrong_share": part.all_wrong_share,
    }


def _how_loaded(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's model that the numbers depend on; whom to trust is not among them."""
    model = content.get("model")
    kept = ("dtype", "quantization")
    return {key: model[key] for key in kept if key in model} if isinstance(model, Mapping) else {}


def _check_there(folder: Path) -> None:
    """A misspelt folder is not to be looked for on the Hub, whose names look like paths."""
    if folder.exists() or ":" in folder.name:
        return
    beside = folder.parent
    names = [one.name for one in beside.iterdir() if one.is_dir()] if beside.is_dir() else []
    near = difflib.get_close_matches(folder.name, names, n=1)
    is_path = folder.is_absolute() or len(folder.parts) > 2 or str(folder).startswith(("~", ".."))
    if near or is_path or (beside != Path() and beside.is_dir()):
        meant = f": did you mean '{beside / near[0]}'?" if near else "."
        raise RunFolderError(f"There is neither a run nor a model in '{folder}'{meant}")


def _refuse_unread(overrides: Sequence[str]) -> None:
    """A setting that has an option here would be read by nothing, and the default be measured."""
    for one in overrides:
        name, _, value = one.partition("=")
        if option := _OPTIONS.get(name.strip()):
            raise SettingError(
                f"'{name.strip()}' is a setting of runs; bapo eval takes {option} "
                f"{value.strip()} instead."
            )


def _check_trusted(folder: Path, content: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """A run folder may be somebody else's: code that it names is run only if the user says so."""
    reward = content.get("reward")
    name = str(reward.get("verifier") or "") if isinstance(reward, Mapping) else ""
    is_own = name.startswith("bapo.reward.verifiers.") and not name.partition(":")[0].endswith(
        ".py"
    )
    if name and not is_own and not any(one.startswith("reward.verifier=") for one in overrides):
        raise SettingError(
            f"The run '{folder}' names a verifier of its own, '{name}', which is code; if you "
            f"trust it, add reward.verifier={shlex.quote(name)}."
        )
