"""The least time that this machine needs for a training step, and how near a step comes to it.

    python -m benchmarks.floor --size 0.8M

The machine's ceilings are measured first, on the threads that torch has: the rate of matrix
products at each shape of the model, the rate at which arrays of the sizes in question are read,
the time of the smallest operation. From them and the work of a step (tokens and bytes, counted
below) follows the least time of each phase; the phase's real seconds come from a run of our own,
and the share is least over real. What the floor leaves out is everything that is not a matrix
product, a read of keys and values, or a pass of the optimizer over its state: norms, activations,
softmax, drawing, Python.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bapo.config import ModelSettings
from bapo.rollout import load_policy
from benchmarks.compare_with_trl import countdown_prompts, run_side
from benchmarks.sizes import SHAPES, model_of

# Of a token step, and of a pass of the learner; the faster of the two counts.
_ROWS = (256, 2048)
_BYTES = 4
# AdamW reads weight, gradient and two moments and writes all but the gradient; clipping reads the
# gradient once more.
_OPTIMIZER_PASSES = 8
# Weight, gradient and two moments.
_STATE = 4
UPDATES = 2
_MEASURED_AGAIN = 4
_PAUSE = 2.0


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do.

    Attributes:
        flops: Multiplications and additions a second in matrix products, by (inputs, outputs).
        keys: Bytes read a second from an array as large as the keys and values of a token step; a
            small one stays in a cache.
        state: Bytes read a second from an array as large as weights and optimizer state.
        operation: Seconds of an operation on one number.
    """

    flops: dict[tuple[int, int], float]
    keys: float
    state: float
    operation: float

    def or_better(self, other: "Ceilings") -> "Ceilings":
        """What the machine was seen to do at one time or the other."""
        return Ceilings(
            flops={shape: max(rate, other.flops[shape]) for shape, rate in self.flops.items()},
            keys=max(self.keys, other.keys),
            state=max(self.state, other.state),
            operation=min(self.operation, other.operation),
        )


@dataclass(frozen=True)
class Shape:
    """A model, as its work is counted.

    Attributes:
        layers: How many.
        hidden: Size of the hidden state.
        heads: Query heads times their size.
        key_heads: Key heads times their size.
        inner: Of the MLP.
        vocabulary: Tokens.
        parameters: Numbers.
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    parameters: int

    @property
    def products(self) -> list[tuple[int, int]]:
        """The (inputs, outputs) of every product of a layer."""
        return [
            (self.hidden, self.heads + 2 * self.key_heads),
            (self.heads, self.hidden),
            (self.hidden, self.inner),
            (self.hidden, self.inner),
            (self.inner, self.hidden),
        ]


@dataclass(frozen=True)
class Work:
    """The tokens of a step.

    Attributes:
        groups: Prompts.
        completions: Rows.
        prompt: Tokens of a prompt, mean.
        completion: Tokens of a completion, mean.
        token_steps: Times that the model is run for a token, most tokens of any completion.
        scored: Rows whose proximal log-probabilities are computed.
        updates: Optimizer updates.
    """

    groups: int
    completions: int
    prompt: float
    completion: float
    token_steps: int
    scored: int
    updates: int


def shape_of(model: str) -> Shape:
    """The shape of a model in save_pretrained format, or of an embedded one."""
    policy = load_policy(ModelSettings(path=model))
    config: Any = policy.model.config
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads * config.head_dim,
        key_heads=config.num_key_value_heads * config.head_dim,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        parameters=sum(value.numel() for value in policy.model.parameters()),
    )


def best_seconds(run: Callable[[], object], times: int = 30) -> float:
    """The shortest of several runs."""
    run()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


@torch.inference_mode()
def ceilings(shape: Shape, work: Work) -> Ceilings:
    """Measures the machine at a model's shapes and a step's sizes."""
    flops: dict[tuple[int, int], float] = {}
    for inputs, outputs in {*shape.products, (shape.hidden, shape.vocabulary)}:
        rates = []
        for rows in _ROWS:
            left, right = torch.randn(rows, inputs), torch.randn(inputs, outputs)
            out = torch.empty(rows, outputs)
            seconds = best_seconds(lambda a=left, b=right, c=out: torch.mm(a, b, out=c))
            rates.append(2 * rows * inputs * outputs / seconds)
        flops[inputs, outputs] = max(rates)
    small = torch.ones(1)
    return Ceilings(
        flops=flops,
        keys=read_rate(held_bytes(shape, work)),
        state=read_rate(_STATE * _BYTES * shape.parameters),
        operation=best_seconds(lambda: small.add_(1.0), 1000),
    )


def read_rate(size: float) -> float:
    """Bytes a second, read again and again from an array of so many bytes."""
    numbers = torch.ones(max(1024, int(size) // _BYTES))
    return _BYTES * numbers.numel() / best_seconds(numbers.sum)


def held_bytes(shape: Shape, work: Work) -> float:
    """Keys and values that a token step reads half-way, in all layers."""
    positions = work.completions * work.completion / 2 + work.groups * work.prompt
    return 2 * shape.key_heads * _BYTES * shape.layers * positions


def body_seconds(shape: Shape, able: Ceilings, tokens: float) -> float:
    """The products of all layers for so many tokens."""
    a_layer = sum(2 * i * o / able.flops[i, o] for i, o in shape.products)
    return tokens * shape.layers * a_layer


def head_seconds(shape: Shape, able: Ceilings, tokens: float) -> float:
    """The logits of so many tokens."""
    flops = 2 * shape.hidden * shape.vocabulary
    return tokens * flops / able.flops[shape.hidden, shape.vocabulary]


def attention_seconds(shape: Shape, able: Ceilings, pairs: float) -> float:
    """Scores and values of so many pairs of a query and a key, in products."""
    fastest = max(able.flops.values())
    return pairs * shape.layers * 4 * shape.heads / fastest


def phases(shape: Shape, able: Ceilings, work: Work) -> dict[str, float]:
    """The least seconds of each phase of a step.

    A prompt is counted once per group in every phase: its keys and values do not depend on what is
    sampled.
    """
    prompts = work.groups * work.prompt
    sampled = work.completions * work.completion
    within = work.completion * (work.prompt + work.completion / 2)
    pairs = work.completions * within + work.groups * work.prompt**2 / 2
    position = 2 * shape.key_heads * _BYTES * shape.layers
    weights = _BYTES * (shape.parameters - shape.vocabulary * shape.hidden)
    keys = position * (
        work.completions * work.completion**2 / 2 + work.token_steps * work.groups * work.prompt
    )
    prefill = body_seconds(shape, able, prompts) + head_seconds(shape, able, work.groups)
    products = body_seconds(shape, able, sampled) + head_seconds(shape, able, sampled)
    # Weights that fit no cache are read at every token step, whatever the number of rows.
    decode = max(products, work.token_steps * weights / able.state) + keys / able.keys
    forward = (
        body_seconds(shape, able, prompts + sampled)
        + head_seconds(shape, able, sampled)
        + attention_seconds(shape, able, pairs)
    )
    optimizer = work.updates * _OPTIMIZER_PASSES * _BYTES * shape.parameters / able.state
    return {
        "prefill": prefill,
        "decode": decode,
        "proximal": forward * work.scored / work.completions,
        "forward": forward,
        "backward": 2 * forward,
        "optimizer": optimizer,
    }


def work_of(
    model: str, metrics: Sequence[dict[str, Any]], prompts: int, group_size: int, limit: int
) -> Work:
    """The work of a run's mean step.

    Args:
        model: Its tokenizer counts the prompts' tokens.
        metrics: Of the run's steps.
        prompts: Prompts a step.
        group_size: Completions per prompt.
        limit: New tokens at most.
    """
    tokenizer: Any = load_policy(ModelSettings(path=model)).tokenizer
    lengths = [len(tokenizer(one.content)["input_ids"]) for one in countdown_prompts(prompts)]
    forward = statistics.fmean(line["forward_tokens"] for line in metrics)
    backward = statistics.fmean(line["backward_tokens"] for line in metrics)
    rows = prompts * group_size
    return Work(
        groups=prompts,
        completions=rows,
        prompt=statistics.fmean(lengths),
        completion=statistics.fmean(line["completion_tokens_mean"] for line in metrics),
        token_steps=limit,
        scored=round(rows * forward / max(backward, 1.0)),
        updates=UPDATES,
    )


def measure(model: str, prompts: int, group_size: int, limit: int, words: Sequence[str]) -> Any:
    """The floor of a step and what a real one took.

    Returns:
        Ceilings, and for each phase its least and its real seconds.
    """
    shape = shape_of(model)
    metrics = run_side("bapo", [*words, "--model", model, f"--updates={UPDATES}"])["metrics"]
    work = work_of(model, metrics, prompts, group_size, limit)
    # Other work on the machine slows it for seconds at a time.
    able = ceilings(shape, work)
    for _ in range(_MEASURED_AGAIN):
        time.sleep(_PAUSE)
        able = able.or_better(ceilings(shape, work))
    least = phases(shape, able, work)

    def real(name: str) -> float:
        return statistics.median(line[f"seconds_{name}"] for line in metrics)

    return {
        "gigaflops": sorted(rate / 1e9 for rate in able.flops.values()),
        "gigabytes": [able.state / 1e9, able.keys / 1e9],
        "operation_microseconds": able.operation * 1e6,
        "least": least,
        "shape": asdict(shape),
        "phases": {
            "rollout": (least["prefill"] + least["decode"], real("rollout")),
            "proximal": (least["proximal"], real("proximal")),
            "update": (
                least["forward"] + least["backward"] + least["optimizer"],
                real("update"),
            ),
            "whole step": (
                sum(least.values()),
                statistics.median(line["seconds"] for line in metrics),
            ),
        },
    }


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=list(SHAPES), default="0.8M")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in vars(given).items()]
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(given.size, Path(folder))
        kept = [word for word in words if not word.startswith("--size")]
        found = measure(model, given.prompts, given.group_size, given.new_tokens, kept)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
