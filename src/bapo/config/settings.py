"""Every setting of a run: its one default, its range and its meaning.

The paper's symbols stand in the texts; docs/algorithm.md has them in one table. Thresholds are
rates in [0, 1], so that they mean the same for every group size.
"""

from dataclasses import dataclass
from typing import Any

from bapo.config.fields import setting

TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model is trained and how it is loaded."""

    path: str = setting("", "a folder, a Hub name, or embedded:NAME")
    dtype: str = setting(
        "float32", "number type of the weights", choices=["float32", "bfloat16", "float16"]
    )
    device: str = setting("auto", "where it runs", choices=["auto", "cpu", "cuda"])
    threads: int = setting(
        0, "CPU threads of torch; 0 leaves it as it is, which is one a core", low=0, high=1024
    )
    quantization: str = setting(
        "none",
        "squeeze frozen weights when they are loaded, by bitsandbytes; trained through an adapter",
        choices=["none", "8bit", "4bit"],
    )
    trust_remote_code: bool = setting(
        False, "run Python code that comes with the model; only for models you trust"
    )


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """A LoRA adapter, trained in place of the model's own weights (docs/your-own.md)."""

    rank: int = setting(
        0, "rank of the adapter; 0 means none: all weights are trained", low=0, high=4096
    )
    alpha: float = setting(32.0, "what the adapter adds is scaled by alpha / rank", above=0)
    target_modules: tuple[str, ...] = setting(
        (), "names of the layers that get one; empty means every linear layer but the head"
    )
    dropout: float = setting(
        0.0, "only 0, as noise in log-probabilities would look like off-policyness"
    )


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Which task supplies prompts and a verifier; `options` are the task's own settings."""

    name: str = setting("", "name of the task, such as countdown, or dataset for your own data")
    options: dict[str, Any] = setting({}, "the task's own settings, see docs/tasks.md")
    strict: bool = setting(
        False,
        "stop before step 1 at the first row that cannot be used, instead of setting it aside",
    )
    max_bad_share: float = setting(
        0.1,
        "share of a data set's rows that may be set aside; with more, nothing is run",
        low=0,
        high=1,
    )
    blank_images: bool = setting(
        False, "show white pictures in place of the task's, for a blind baseline"
    )

    @property
    def bad_share_allowed(self) -> float:
        """The limit that holds: `max_bad_share`, or 0 where the recipe is strict."""
        return 0.0 if self.strict else self.max_bad_share


@dataclass(frozen=True, slots=True)
class AdaptationSettings:
    """How each training batch is rebuilt (docs/algorithm.md, One step)."""

    delay_behavior: bool = setting(
        True, "sample fresh prompts from a delayed copy of the policy; off is on-policy, v = 1"
    )
    behavior_sync_every: int = setting(
        5, "v: steps between copies of the policy into the behavior policy; 1 is on-policy", low=1
    )
    filter_fresh: bool = setting(True, "drop fresh groups that are all right or all wrong (X1)")
    max_resample_rounds: int = setting(
        0,
        "extra rounds of fresh prompts drawn while informative groups are missing",
        low=0,
        high=100,
    )
    when_short: str = setting(
        "train",
        "with fewer than B groups after all sources: train on what there is, or skip the update",
        choices=["train", "skip"],
    )
    retry: bool = setting(True, "keep a hard buffer and ask its prompts again (X2)")
    retry_every: int = setting(5, "m: steps between retries of the hard prompts", low=1)
    hard_threshold: float = setting(
        0.125, "c1: a prompt is hard while its correctness rate is at most this", low=0, high=0.99
    )
    hard_capacity: int | None = setting(
        None,
        "prompts in the hard buffer, oldest evicted first; empty means training.batch_groups",
        low=1,
    )
    max_retries: int = setting(
        8,
        "failed retries after which a never solved prompt is retired and reported as suspect",
        low=1,
    )
    retry_accept: str = setting(
        "above_c1",
        "when a retried group with mixed rewards enters the batch: rate above c1 (paper), "
        "or above the rate the prompt had (released code)",
        choices=["above_c1", "improved"],
    )
    reuse: bool = setting(True, "keep a reuse buffer and draw missing groups from it (X3)")
    reuse_window: int = setting(3, "steps for which a group stays in the reuse buffer", low=1)
    reuse_retried: bool = setting(False, "let retried groups enter the reuse buffer")
    max_buffer_megabytes: float = setting(
        2048.0,
        "size of both buffers together, in memory and in a checkpoint, in millions of bytes; "
        "beyond it the oldest groups are dropped from the reuse buffer",
        above=0,
    )
    band: str = setting(
        "rising",
        "how the reuse band [c2, c3] follows the policy's strength r: rising (paper), fixed, "
        "or falling (released code)",
        choices=["rising", "fixed", "falling"],
    )
    reuse_low_range: tuple[float, float] = setting(
        (0.0, 0.375), "c2 at r = 0 and at r = 1, for the rising band", low=0, high=1
    )
    reuse_high_range: tuple[float, float] = setting(
        (0.25, 0.5), "c3 at r = 0 and at r = 1, for the rising band", low=0, high=1
    )
    reuse_fixed: tuple[float, float] = setting(
        (0.125, 0.25),
        "c2 and c3 of the fixed band, and of the falling band at its strong end",
        low=0,
        high=1,
    )
    reuse_falling_start: tuple[float, float] = setting(
        (0.5, 0.625), "c2 and c3 of the falling band at its weak end", low=0, high=1
    )
    reuse_falling_rates: tuple[float, float] = setting(
        (0.2, 0.8), "r at the weak and at the strong end of the falling band", low=0, high=1
    )
    band_half_life: float = setting(
        5.0, "steps after which a fresh correctness rate counts half in r", above=0
    )

    max_tv: float = setting(
        1.0,
        "groups whose estimated distance TV(pi_t, alpha) is above this are refused, reused ones "
        "first, and replaced; 1 refuses none",
        low=0,
        high=1,
    )
    adaptive_staleness: bool = setting(
        False,
        "steer v, the reuse window and importance_cap to hold target_tv; the values set are where "
        "they start",
    )
    target_tv: float = setting(
        0.2, "the distance TV(pi_t, alpha) that adaptive_staleness holds", above=0, high=1
    )
    staleness_widest: float = setting(
        4.0,
        "adaptive_staleness steers between 1 and this many times the values set; for "
        "importance_cap also down to the value over it, and not below 1",
        low=1,
        high=100,
    )

    @property
    def sync_every(self) -> int:
        """The v that holds: `behavior_sync_every`, or 1 without a delay."""
        return self.behavior_sync_every if self.delay_behavior else 1

    @property
    def widest_window(self) -> int:
        """Steps for which the reuse buffer keeps groups: all that the window may come to."""
        widest = self.staleness_widest if self.adaptive_staleness else 1.0
        return int(widest * self.reuse_window)


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """The loss (docs/algorithm.md, The objective)."""

    clip_low: float = setting(0.2, "the ratio is clipped at 1 - clip_low", low=0, high=1)
    clip_high: float = setting(0.28, "the ratio is clipped at 1 + clip_high", low=0, high=10)
    importance_cap: float = setting(
        3.0, "w_max: truncation of the importance weight proximal / behavior", low=1
    )
    aggregation: str = setting(
        "token_mean",
        "mean over all tokens of the mini-batch, or over each completion first",
        choices=["token_mean", "sequence_mean"],
    )
    scale_advantage: bool = setting(True, "divide advantages by the group's standard deviation")
    advantage_epsilon: float = setting(1e-6, "added to the standard deviation", above=0)
    kl_coefficient: float = setting(0.0, "beta: weight of the KL to the behavior policy", low=0)
    kl_estimator: str = setting(
        "k3_weighted",
        "k3 weighted by the truncated ratio to the behavior policy, or the unweighted k3",
        choices=["k3_weighted", "k3"],
    )
    mask_truncated: bool = setting(
        False,
        "leave completions that were cut off at rollout.max_new_tokens out of the loss (DAPO's "
        "overlong filtering); they still count in their group's mean",
    )
    enforce_bound: bool = setting(
        False,
        "shorten every update as far as is needed to stay in the trust region",
    )
    trust_region: float = setting(
        0.2,
        "largest mean distance over the batch, TV(pi, alpha) and TV(pi, pi_t) alike, that "
        "enforce_bound lets an update end at",
        above=0,
        high=1,
    )
    bound_after_update: bool = setting(
        False,
        "measure the bound where the step ends, on every group, by one more forward pass; off "
        "measures it on the last mini-batch, before its update, for nothing",
    )


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How completions are sampled."""

    group_size: int = setting(8, "G: completions per prompt", low=2, high=1024)
    temperature: float = setting(1.0, "temperature of the sampling distribution", above=0, high=10)
    max_prompt_tokens: int = setting(1024, "longer prompts are refused before the start", low=1)
    max_new_tokens: int = setting(256, "tokens sampled at most per completion", low=1)
    stop: tuple[str, ...] = setting((), "texts that end a completion, besides the end token")
    chat_template_kwargs: dict[str, Any] = setting(
        {}, "values for the model's chat template, such as {enable_thinking: false}"
    )
    token_budget: int = setting(
        32768, "cache positions, prompt and new tokens together, in one sampling batch", low=16
    )
    refill: bool = setting(
        True,
        "waiting prompts join a batch as rows end, and retried "
        "prompts are sampled with fresh ones where the weights are the same",
    )
    decoder: str = setting(
        "auto",
        "what runs token steps: native (by hand, small operations in C, built when first used), "
        "torch (by hand), module (the model's own code), auto (the first of them that can)",
        choices=["auto", "native", "torch", "module"],
    )
    probe_tolerance: float = setting(
        1e-3,
        "largest difference in log-probability between engine and learner after a sync",
        above=0,
    )


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """How completions are verified."""

    verifier: str = setting("", "module:function or file.py:function; empty means the task's own")
    correct_at: float = setting(
        1.0, "a score of at least this is correct, where scores are returned"
    )
    completions_as: str = setting(
        "text",
        "how the verifier gets answers to chat prompts: as text, or as messages, as TRL gives them",
        choices=["text", "messages"],
    )
    answer_after: str = setting(
        "",
        "the verifier sees what follows the last of this text, such as </think>; an answer without "
        "it is wrong; empty means that all is seen",
    )
    overlong_tokens: int = setting(
        0,
        "tokens before rollout.max_new_tokens over which a penalty on the score grows (DAPO's soft "
        "overlong punishment); 0 means none",
        low=0,
    )
    overlong_penalty: float = setting(
        1.0, "the penalty at rollout.max_new_tokens; what is correct does not change", above=0
    )
    overlap: bool = setting(True, "a group is verified while others are still being sampled")
    timeout_seconds: float = setting(5.0, "wall-clock limit for one completion", above=0)
    workers: int = setting(2, "verifier processes", low=1, high=256)
    memory_megabytes: int = setting(2048, "address space of each verifier process", low=64)
    recycle_after: int = setting(
        20_000, "completions after which a verifier process is replaced by a new one", low=1
    )
    pass_environment: tuple[str, ...] = setting(
        (), "names of environment variables that verifiers may see, such as an API key of a judge"
    )
    max_invalid_share: float = setting(
        0.5,
        "share of a step's groups with a verdict that is not ok, or of an evaluation's verdicts, "
        "above which the run stops itself",
        low=0,
        high=1,
    )


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How the policy is updated."""

    batch_groups: int = setting(32, "B: prompts drawn per step, groups per batch", low=1)
    updates_per_step: int = setting(
        2, "optimizer updates per step; each takes an equal share of the batch's groups", low=1
    )
    learning_rate: float = setting(1e-6, "AdamW's peak learning rate", above=0)
    weight_decay: float = setting(
        0.1, "AdamW's weight decay, of all trained weights, norms and biases too", low=0
    )
    adam_beta1: float = setting(0.9, "AdamW's decay of the first moment", low=0, high=0.9999)
    adam_beta2: float = setting(0.999, "AdamW's decay of the second moment", low=0, high=0.99999)
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", low=0)
    schedule: str = setting(
        "constant", "the learning rate after the warm-up", choices=["constant", "linear", "cosine"]
    )
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0)
    micro_batch_tokens: int | None = setting(
        None,
        "tokens, prompts and padding included, in one forward and backward pass; empty means 2048 "
        "on a CPU, where more do not stay in its caches, and 16384 elsewhere",
        low=16,
    )
    share_prompts: bool = setting(
        True,
        "compute a group's prompt once for as many of its completions as pays, where the model "
        "gives the same numbers with it",
    )
    native_layers: bool = setting(
        True,
        "in float32 on a CPU, use C for norms, rotations, activations and shared prompts",
    )
    gradient_checkpointing: bool = setting(
        False,
        "keep only each layer's input for the backward pass and compute the rest again: less "
        "memory for about a third more time",
    )
    max_nonfinite_steps: int = setting(
        5,
        "skipped steps in a row, for a loss or gradient that is not finite, that stop the run",
        low=1,
    )
    mixed_precision: str = setting(
        "no",
        "autocast of sampling and learning alike; weights stay as loaded",
        choices=["no", "bf16"],
    )
    checkpoint_every: int = setting(50, "steps between checkpoints; 0 means none", low=0)
    keep_checkpoints: int = setting(2, "checkpoints kept, newest first", low=1)


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is measured on held-out and on training prompts."""

    every: int = setting(10, "steps between held-out evaluations; 0: start and end", low=0)
    prompts: int = setting(256, "held-out prompts", low=1, high=100_000)
    samples: int = setting(4, "K: completions per held-out prompt", low=1, high=1024)
    training_prompts: int = setting(
        256,
        "training prompts sampled before and after the run, for the report; 0 means none",
        low=0,
    )
    training_samples: int = setting(
        8,
        "completions per training prompt; a prompt is unsolved if all are wrong",
        low=1,
        high=1024,
    )
    temperature: float = setting(1.0, "sampling temperature of evaluations", above=0, high=10)
    examples: int = setting(8, "completions kept as text per evaluation", low=0)


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """Where metrics go besides metrics.jsonl."""

    trackers: tuple[str, ...] = setting(
        (), "where metrics are sent too, through accelerate", choices=TRACKERS
    )
    project: str = setting("bapo", "project name given to the trackers")
