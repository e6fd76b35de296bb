"""`bapo compare`: several algorithms and seeds on the same recipe."""

from typing import Annotated

import typer

from bapo.cli.options import Output, Overrides, console, listed, quiet_libraries
from bapo.errors import NoUpdateError, SettingError


def compare(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    output: Output = ...,  # pyright: ignore[reportArgumentType]
    algorithms: Annotated[str, typer.Option(help="Presets, separated by commas.")] = "grpo,bapo",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
) -> None:
    """Train several algorithms with several seeds, and write one report.

    Runs that are finished are kept and one that was ended goes on from its last checkpoint, so
    that the same command continues a comparison.

    Example: bapo compare countdown --algorithms grpo,dapo,bapo --seeds 0,1,2 --output runs/compare
    """
    from bapo.cli.progress import TerminalProgress
    from bapo.reporting import write_report
    from bapo.training import planned_runs, train_unless_finished

    names = listed(algorithms, "--algorithms")
    numbers = listed(seeds, "--seeds")
    if not all(number.isdigit() for number in numbers):
        raise SettingError(f"The option --seeds is '{seeds}', but must hold whole numbers.")
    quiet_libraries()
    plan = planned_runs(recipe, overrides or (), names, [int(number) for number in numbers], output)
    idle: list[str] = []
    for index, (resolved, folder) in enumerate(plan, start=1):
        title = f"{index}/{len(plan)} {resolved.algorithm} seed {resolved.seed}"
        with TerminalProgress(title) as progress:
            summary = train_unless_finished(resolved, folder, progress)
        if summary is None:
            console.print(f"{title}: finished before, kept")
        elif not summary["updates"]:
            idle.append(str(folder))
    page = write_report([output], output / "report.html")
    console.print(f"Wrote {len(plan)} runs to [bold]{output}[/] and the report [bold]{page}[/].")
    if idle:
        raise NoUpdateError(
            f"{len(idle)} of {len(plan)} runs made no optimizer update: {', '.join(idle)}; bapo "
            "inspect shows what became of their groups."
        )
