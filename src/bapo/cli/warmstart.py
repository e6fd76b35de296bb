"""`bapo warmstart`: a small base model, made on the spot."""

import shlex
from typing import Annotated

import typer

from bapo.cli.options import Output, Overrides, console, quiet_libraries, refuse_taken

_LINE_EVERY = 100


def warmstart(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    output: Output = ...,  # pyright: ignore[reportArgumentType]
) -> None:
    """Give a small decoder a supervised cold start on a task's worked examples.

    Example: bapo warmstart countdown-base --output models/countdown
    """
    from rich.progress import Progress

    from bapo.config import load_warmstart_recipe, program
    from bapo.tasks import build_worked_task
    from bapo.training import warmstart as run_warmstart

    refuse_taken(output)
    resolved = load_warmstart_recipe(recipe, overrides or ())
    task = build_worked_task(resolved.task)
    quiet_libraries()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("cold start", total=resolved.steps)

        def report(step: int, loss: float) -> None:
            bar.update(shown, completed=step)
            if step % _LINE_EVERY == 0 or step == resolved.steps:
                console.print(f"step {step}/{resolved.steps}  loss {loss:.4f} nats per token")

        run_warmstart(resolved, task, output, report=report)
    room = resolved.model.positions // 2
    console.print(
        f"Wrote the model [bold]{output}[/]; measure it with: {program()} eval "
        f"{shlex.quote(str(output))} rollout.max_new_tokens={room} --task {resolved.task.name}"
    )
