"""How far the bound's estimators are from exact values, as a figure.

Run from the repository: `python -m benchmarks.bound_estimators`. Writes
docs/figures/bound_estimators.svg and prints the numbers that docs/guarantee.md quotes. Policies are
ones whose answers can be listed: the 156 answers of a random transformer, and long completions of
independent coin flips, whose number of heads says everything. Two minutes on one core.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from tests.enumerable import answer_distribution, exact_recipe, table_run, tiny_transformer

from bapo.objective import expected_gain, tv_clipped, tv_one_sided, tv_pinsker, tv_two_sided
from bapo.reporting.figures.style import INK, drawing

CAP = 3.0
SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
LENGTHS = (1, 4, 16, 64, 256, 1024, 4096)
GROUP = 8
DRIFT = 0.03
COLOURS = {
    "one-sided": "#0072B2",
    "two-sided": "#D55E00",
    "clipped at 3": "#E69F00",
    "Pinsker": "#009E73",
    "token sum": "#CC79A7",
}

Estimator = Callable[[torch.Tensor], torch.Tensor]


def _pinsker(log_ratio: torch.Tensor) -> torch.Tensor:
    return tv_pinsker((torch.expm1(log_ratio) - log_ratio).mean(dim=-1))


ESTIMATORS: dict[str, Estimator] = {
    "one-sided": tv_one_sided,
    "two-sided": tv_two_sided,
    "clipped at 3": lambda ratios: tv_clipped(ratios, CAP),
}


def main() -> None:
    """Measures, draws and prints."""
    parser = argparse.ArgumentParser(description="Bound estimators against exact values.")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/bound_estimators.svg"))
    parser.add_argument("--repeats", type=int, default=2000, help="groups drawn for each point")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    with drawing(10.5, 9.6) as figure:
        axes = figure.subplots(3, 2)
        _error_over_sizes(axes[0, 0], axes[0, 1], generator, arguments.repeats)
        _distance_over_lengths(axes[1, 0], generator, arguments.repeats)
        _gain_over_lengths(axes[1, 1], generator, arguments.repeats)
        _selection(axes[2, 0])
        _run(axes[2, 1])
        for each in axes.flat:
            _write_plain_numbers(each)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            arguments.output,
            format="svg",
            facecolor="white",
            metadata={"Date": None, "Creator": None},
        )
        print(f"wrote {arguments.output}")


def _write_plain_numbers(axes: Axes) -> None:
    """Ticks as 0.01 and 100, not as powers of ten, which need typesetting."""
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(NullFormatter())


def _three_token_policies() -> tuple[np.ndarray, np.ndarray]:
    """Alpha and pi over the 156 answers of a random transformer, before and after a change."""
    model, tokenizer, answers = tiny_transformer(0)
    prompt = tokenizer.convert_tokens_to_ids(["0", "2"])
    behavior = answer_distribution(model, prompt, answers)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    return behavior, answer_distribution(model, prompt, answers)


def _error_over_sizes(
    bias: Axes, error: Axes, generator: np.random.Generator, repeats: int
) -> None:
    behavior, policy = _three_token_policies()
    behavior, policy = behavior / behavior.sum(), policy / policy.sum()
    exact = float(np.abs(policy - behavior).sum() / 2)
    log_ratios = np.log(policy / behavior)
    for name, estimator in {**ESTIMATORS, "Pinsker": _pinsker}.items():
        biases, errors = [], []
        for size in SIZES:
            drawn = generator.choice(len(behavior), (repeats, size), p=behavior)
            found = estimator(torch.tensor(log_ratios[drawn])).numpy()
            biases.append(found.mean() - exact)
            errors.append(np.sqrt(((found - exact) ** 2).mean()))
        bias.plot(SIZES, biases, color=COLOURS[name], label=name)
        error.plot(SIZES, errors, color=COLOURS[name], label=name)
        print(f"{name:>14}, n = 8: bias {biases[1]:+.4f}, rms error {errors[1]:.4f} of {exact:.4f}")
    error.plot(SIZES, 0.5 / np.sqrt(SIZES), color=INK, ls=":", label="1 / (2 sqrt n)")
    bias.axhline(0.0, color=INK, lw=1)
    bias.set(
        title=f"Bias, answers of three tokens (TV = {exact:.2f})",
        xscale="log",
        xlabel="completions",
        ylabel="mean estimate - TV",
    )
    error.set(
        title="Root-mean-square error, the same",
        xscale="log",
        yscale="log",
        xlabel="completions",
        ylabel="error",
    )
    bias.legend()
    error.legend()


def _binomial(trials: int, chance: float) -> np.ndarray:
    """The probability of each number of successes, 0 to `trials`."""
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(chance)
        + (trials - count) * math.log1p(-chance)
        for count in range(trials + 1)
    ]
    return np.exp(np.array(logs))


class _Flips:
    """Completions of `length` coin flips: heads with 1/2 under alpha, 1/2 + DRIFT under pi."""

    def __init__(self, length: int) -> None:
        self.length = length
        heads = np.arange(length + 1)
        self.behavior = _binomial(length, 0.5)
        self.policy = _binomial(length, 0.5 + DRIFT)
        self.log_ratios = heads * np.log(1 + 2 * DRIFT) + (length - heads) * np.log(1 - 2 * DRIFT)
        # Right is a rare number of heads under alpha: at least its 80th percentile.
        self.rewards = (self.behavior.cumsum() >= 0.8).astype(float)
        self.distance = float(np.abs(self.policy - self.behavior).sum() / 2)
        self.gain = float((self.policy - self.behavior) @ self.rewards)

    def draw(self, generator: np.random.Generator, repeats: int) -> np.ndarray:
        return generator.binomial(self.length, 0.5, (repeats, GROUP))


def _spread(axes: Axes, found: list[np.ndarray], name: str, colour: str) -> None:
    """The middle 80 % as a band and the mean as a line."""
    low, high = np.array([np.quantile(one, (0.1, 0.9)) for one in found]).T
    axes.fill_between(LENGTHS, low, high, color=colour, alpha=0.15, lw=0)
    axes.plot(LENGTHS, [np.median(one) for one in found], color=colour, label=name)


def _distance_over_lengths(axes: Axes, generator: np.random.Generator, repeats: int) -> None:
    worlds = [_Flips(length) for length in LENGTHS]
    drawn = [torch.tensor(one.log_ratios[one.draw(generator, repeats)]) for one in worlds]
    for name, estimator in ESTIMATORS.items():
        _spread(axes, [estimator(one).numpy() for one in drawn], name, COLOURS[name])
    kl = -0.5 * np.log((1 + 2 * DRIFT) * (1 - 2 * DRIFT))
    bounds = tv_pinsker(torch.tensor([kl * length for length in LENGTHS])).numpy()
    axes.plot(LENGTHS, bounds, color=COLOURS["Pinsker"], ls="--", label="Pinsker, exact KL")
    sums = np.minimum(1.0, DRIFT * np.array(LENGTHS))
    axes.plot(LENGTHS, sums, color=COLOURS["token sum"], ls="--", label="token sum")
    exact = [one.distance for one in worlds]
    axes.plot(LENGTHS, exact, color=INK, marker="o", ms=4, lw=0, label="exact TV")
    axes.set(
        title=f"Eight completions, TV of {DRIFT} at every token",
        xscale="log",
        ylim=(0, 1.6),
        xlabel="tokens in a completion",
        ylabel="median, and the middle 80 %",
    )
    axes.legend(ncols=2)
    last = drawn[-1]
    for name, estimator in ESTIMATORS.items():
        found = estimator(last).numpy()
        print(f"{name:>14}, 4096 tokens: median {np.median(found):.3f} of {exact[-1]:.3f}")


def _gain_over_lengths(axes: Axes, generator: np.random.Generator, repeats: int) -> None:
    worlds = [_Flips(length) for length in LENGTHS]
    for name, cap, colour in (
        ("ratio as it is", float("inf"), COLOURS["two-sided"]),
        ("ratio cut at 3", CAP, COLOURS["one-sided"]),
    ):
        found, exact = [], []
        for world in worlds:
            drawn = world.draw(generator, repeats)
            ratios = torch.tensor(world.log_ratios[drawn])
            found.append(expected_gain(ratios, torch.tensor(world.rewards[drawn]), cap=cap).numpy())
            exact.append(world.gain)
        _spread(axes, found, name, colour)
        spread = np.std(found[-1])
        print(f"gain, {name}, 4096 tokens: mean {np.mean(found[-1]):+.3f}, sd {spread:.3f}")
    axes.plot(LENGTHS, exact, color=INK, marker="o", ms=4, lw=0, label="exact gain")
    axes.set(
        title="J(pi) - J(alpha) from eight completions",
        xscale="log",
        xlabel="tokens in a completion",
        ylabel="median, and the middle 80 %",
    )
    axes.legend(loc="upper left")


def _selection(axes: Axes) -> None:
    """Mean of the estimated L of groups that pass the filter, over L: a sum over all counts."""
    rates = np.geomspace(1e-3, 0.95, 100)
    for size, line in ((4, ":"), (8, "-"), (16, "--"), (64, "-.")):
        counts = np.arange(1, size)
        deviation = np.sqrt(counts / size * (1 - counts / size))
        inflation = []
        for rate in rates:
            weights = _binomial(size, rate)[1:-1]
            mean = (weights @ (counts / size / deviation)) / weights.sum()
            inflation.append(mean / rate * np.sqrt(rate * (1 - rate)))
        axes.plot(rates, inflation, color=COLOURS["one-sided"], ls=line, label=f"G = {size}")
        if size == GROUP:
            for wanted in (0.01, 0.05, 0.1, 0.3):
                value = np.interp(wanted, rates, inflation)
                print(f"L of filtered groups of 8 over L, at J(alpha) = {wanted}: {value:.2f}")
    axes.axhline(1.0, color=INK, lw=1)
    axes.set(
        title="L over the truth, in groups that pass the filter",
        xscale="log",
        yscale="log",
        xlabel="J(alpha) on the prompt",
        ylabel="mean of the estimate / L",
    )
    axes.legend()


def _run(axes: Axes, steps: int = 200) -> None:
    """Exact bound and exact improvement at every step of BAPO on a table of 64 answers."""
    run = table_run(exact_recipe("bapo", steps=steps, groups=8))
    rows = []
    for step in range(1, steps + 1):
        batch = run.advance().composition.batch
        terms = [run.terms(entry, step, of_group=False) for entry in batch.entries]
        if terms:
            means = [
                np.mean([getattr(one, name) for one in terms])
                for name in ("improvement", "tight", "published")
            ]
            rows.append((step, *means))
    columns = np.array(rows).T
    axes.plot(columns[0], columns[1], color=INK, lw=1.2, label="improvement")
    axes.plot(columns[0], columns[2], color="#0072B2", lw=1.2, label="tight bound")
    axes.plot(columns[0], columns[3], color="#D55E00", lw=1.2, label="published bound")
    axes.axhline(0.0, color=INK, lw=1)
    axes.set(
        title="BAPO on a table: exact, mean over the batch",
        ylim=(-0.25, 0.06),
        xlabel="step",
        ylabel="J(pi) - J(pi_t) and its bounds",
    )
    axes.legend(loc="lower left")
    positive = [(column > 0).mean() for column in columns[1:]]
    names = ("improvement", "tight", "published")
    shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, positive, strict=True))
    print(f"share of steps above 0: {shares}")


if __name__ == "__main__":
    main()
