"""Policies whose every answer can be listed, so that expectations are sums and not estimates.

Nothing here uses `bapo.objective.bound`: this is what it is compared with. A distribution is a
vector of probabilities over the answers to one prompt, in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bapo.config import Recipe
from bapo.rollout import EmbeddedEngine, Policy, ScoreRow
from bapo.training import Learner, Loop, PromptStream, StepRecord
from bapo.types import BatchEntry, Completion, Group, Prompt, Rollout
from tests.builders import make_completion, make_prompt, make_verdict
from tests.listed_policy import ListedEngine, listed_loop, listed_recipe
from tests.rollout_models import END, character_tokenizer, tiny_model

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ExactTerms:
    """Everything that the bound is about, summed over all answers to one prompt.

    `normaliser` is what the advantage is divided by: sigma of the behavior policy unless another
    was asked for.
    """

    value_policy: float
    value_proximal: float
    value_behavior: float
    normaliser: float
    tv_policy: float
    tv_behavior: float

    @property
    def improvement(self) -> float:
        return self.value_policy - self.value_proximal

    @property
    def surrogate(self) -> float:
        return (self.value_policy - self.value_behavior) / self.normaliser

    @property
    def factor(self) -> float:
        return (1 - self.normaliser) / self.normaliser

    @property
    def tight(self) -> float:
        return self.surrogate - self.factor * self.tv_policy - self.tv_behavior

    @property
    def published(self) -> float:
        return self.surrogate - 2 * self.factor * self.tv_policy - 2 * self.tv_behavior


def total_variation(first: Array, second: Array) -> float:
    return float(np.abs(first - second).sum() / 2)


def deviation(distribution: Array, rewards: Array) -> float:
    mean = float(distribution @ rewards)
    return float(np.sqrt(distribution @ (rewards - mean) ** 2))


def exact_terms(
    policy: Array,
    proximal: Array,
    behavior: Array,
    rewards: Array,
    *,
    normaliser: float | None = None,
) -> ExactTerms:
    """The terms for pi, pi_t and alpha; all arguments are vectors over the answers."""
    return ExactTerms(
        value_policy=float(policy @ rewards),
        value_proximal=float(proximal @ rewards),
        value_behavior=float(behavior @ rewards),
        normaliser=deviation(behavior, rewards) if normaliser is None else normaliser,
        tv_policy=total_variation(policy, behavior),
        tv_behavior=total_variation(proximal, behavior),
    )


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


class SoftmaxTable(nn.Module):
    """A policy of one-token answers: a row of logits for each prompt, which is a token itself."""

    dtype = torch.float32
    config = None

    def __init__(self, logits: Array) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, input_ids: Tensor, use_cache: bool, logits_to_keep: int) -> Any:
        # The answer is read as an input too; what would follow it is never asked for.
        rows = input_ids.clamp(max=len(self.table) - 1)
        return _Output(self.table[rows[:, -logits_to_keep:]])


@dataclass(frozen=True)
class _Output:
    logits: Tensor


class SoftmaxTableEngine(ListedEngine):
    """Samples from the table, from the weights that it really holds."""

    def __init__(self, table: SoftmaxTable) -> None:
        self._table = table
        super().__init__(table)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        return [int(prompt.columns["row"])]

    def answers(
        self, prompts: Sequence[Prompt], version: int, group_size: int, step: int, seeds: list[int]
    ) -> list[list[Completion]]:
        logps = self._logps(version)
        groups = []
        for prompt, own in zip(prompts, seeds, strict=True):
            row = int(prompt.columns["row"])
            generator = np.random.default_rng([own, step, row])
            edges = np.exp(logps[row]).cumsum()
            drawn = np.searchsorted(edges / edges[-1], generator.random(group_size), side="right")
            groups.append(
                [
                    make_completion([answer], logps=[logps[row, answer]], text=str(answer))
                    for answer in drawn.tolist()
                ]
            )
        return groups

    def score(self, rows: Sequence[Any], *, version: int, temperature: float = 1.0) -> list[Any]:
        logps = self._logps(version)
        return [logps[prompt[0], completion] for prompt, completion, _ in rows]

    def _logps(self, version: int) -> Array:
        with self.weights.using(version), torch.no_grad():
            return torch.log_softmax(self._table.table.double(), dim=-1).numpy()


def enumerate_answers(vocabulary: int, length: int, end: int = END) -> list[tuple[int, ...]]:
    """Every completion of at most `length` tokens; shorter ones end with the end token."""
    others = [token for token in range(vocabulary) if token != end]
    ended = [(*head, end) for count in range(length) for head in product(others, repeat=count)]
    return ended + list(product(others, repeat=length))


def answer_distribution(
    model: nn.Module, prompt: Sequence[int], answers: Sequence[tuple[int, ...]]
) -> Array:
    """The probability of each answer, from full forward passes in one padded batch."""
    longest = max(len(answer) for answer in answers)
    padded = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers])
    counts = torch.tensor([len(answer) for answer in answers])
    asked = torch.tensor(prompt).expand(len(answers), -1)
    with torch.no_grad():
        logits = model(input_ids=torch.cat([asked, padded], dim=1), use_cache=False).logits
    logps = torch.log_softmax(logits[:, len(prompt) - 1 : -1].double(), dim=-1)
    chosen = logps.gather(-1, padded[..., None]).squeeze(-1)
    return (chosen * (torch.arange(longest) < counts[:, None])).sum(dim=1).exp().numpy()


@dataclass
class ExactRun:
    """The real loop, adaptation, objective and learner on a policy that can be listed.

    Attributes:
        loop: The real one.
        rewards: For each prompt id the reward of each answer.
        distributions: For each policy version since the start, each prompt's distribution.
    """

    loop: Loop
    rewards: Mapping[str, Array]
    measure: Any
    distributions: list[dict[str, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.distributions.append(self.measure())

    def advance(self) -> StepRecord:
        """One training step; afterwards its policy is the last of `distributions`."""
        record = self.loop.advance()
        self.distributions.append(self.measure())
        return record

    def terms(self, entry: BatchEntry, step: int, *, of_group: bool) -> ExactTerms:
        """The exact terms for one group of a step's batch.

        Args:
            entry: Of the step's batch.
            step: The step just done.
            of_group: Divide by the deviation of the group's own rewards and not by alpha's.
        """
        name = entry.group.prompt_id
        scores = np.array([verdict.score for verdict in entry.group.verdicts])
        return exact_terms(
            self.distributions[step][name],
            self.distributions[step - 1][name],
            self.distributions[entry.group.rollout.policy_version][name],
            self.rewards[name],
            normaliser=float(scores.std()) if of_group else None,
        )

    def value(self, version: int) -> float:
        """Mean over all prompts of the expected reward of a version."""
        held = self.distributions[version]
        return float(np.mean([held[name] @ self.rewards[name] for name in held]))


def exact_recipe(algorithm: str, *, steps: int, groups: int, **sections: Any) -> Recipe:
    """A preset with settings of the size of a table."""
    training = {
        "batch_groups": groups,
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        **sections.pop("training", {}),
    }
    return listed_recipe(algorithm=algorithm, seed=5, steps=steps, training=training, **sections)


def table_run(recipe: Recipe, *, prompts: int = 24, answers: int = 64, seed: int = 0) -> ExactRun:
    """A softmax table: most prompts hard, some half solved; one to three answers are right."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.0, 1.0, (prompts, answers))
    rewards = np.zeros((prompts, answers))
    for row in range(prompts):
        right = generator.choice(answers, 1 + row % 3, replace=False)
        rewards[row, right] = 1.0
        logits[row, right] += (0.0, 1.0, 3.0, 4.0)[row % 4]
    table = SoftmaxTable(logits)
    names = [f"p{row}" for row in range(prompts)]
    asked = [make_prompt(name, columns={"row": row}) for row, name in enumerate(names)]

    def measure() -> dict[str, Array]:
        return dict(zip(names, softmax(table.table.detach().double().numpy()), strict=True))

    def is_right(prompt: Prompt, completion: Completion) -> bool:
        return bool(rewards[int(prompt.columns["row"]), int(completion.text)])

    probe = [ScoreRow(np.array([0], np.int32), np.array([1], np.int32))]
    loop = _loop(recipe, table, SoftmaxTableEngine(table), asked, is_right, probe)
    return ExactRun(loop, dict(zip(names, rewards, strict=True)), measure)


def transformer_run(recipe: Recipe, *, prompts: int = 6, seed: int = 0) -> ExactRun:
    """A random one-layer llama over six tokens, answers of at most three, the embedded engine."""
    model, tokenizer, answers = tiny_transformer(seed)
    generator = np.random.default_rng(seed)
    texts = ["".join(generator.choice(list("0123"), 3)) + str(row % 4) for row in range(prompts)]
    names = [f"p{row}" for row in range(prompts)]
    asked = [make_prompt(name, content=text) for name, text in zip(names, texts, strict=True)]
    held = {
        name: (generator.random(len(answers)) < share).astype(np.float64)
        for name, share in zip(names, np.linspace(0.02, 0.3, prompts), strict=True)
    }
    place = {answer: index for index, answer in enumerate(answers)}

    def measure() -> dict[str, Array]:
        return {
            prompt.prompt_id: answer_distribution(
                model, tokenizer.convert_tokens_to_ids(list(prompt.content)), answers
            )
            for prompt in asked
        }

    def is_right(prompt: Prompt, completion: Completion) -> bool:
        return bool(held[prompt.prompt_id][place[tuple(completion.token_ids.tolist())]])

    engine = EmbeddedEngine.of_policy(Policy(model, tokenizer, "tiny"), recipe.rollout)
    probe = [ScoreRow(np.array([2, 3], np.int32), np.array([4, 5], np.int32))]
    return ExactRun(_loop(recipe, model, engine, asked, is_right, probe), held, measure)


def tiny_transformer(seed: int) -> tuple[Any, Any, list[tuple[int, ...]]]:
    """Model, tokenizer and all 156 answers."""
    tokenizer = character_tokenizer("0123")
    model = tiny_model(
        seed=seed, vocab_size=len(tokenizer), num_hidden_layers=1, initializer_range=0.4
    )
    return model, tokenizer, enumerate_answers(len(tokenizer), 3)


def _loop(
    recipe: Recipe, model: Any, engine: Any, prompts: list[Prompt], is_right: Any, probe: Any
) -> Loop:
    learner = Learner(
        model,
        pad_token_id=0,
        objective=recipe.objective,
        training=recipe.training,
        steps=recipe.steps,
        sampler_tolerance=1e-3,
        accelerator=Accelerator(cpu=True),
    )

    def verify(rollouts: Sequence[Rollout]) -> list[Group]:
        return [
            Group(one, tuple(make_verdict(is_right(one.prompt, each)) for each in one.completions))
            for one in rollouts
        ]

    return listed_loop(
        recipe,
        engine=engine,
        learner=learner,
        stream=PromptStream(prompts, seed=recipe.seed, smallest=recipe.training.batch_groups),
        verify=verify,
        probe=probe,
        tolerance=1e-4,
    )
