"""With w = 1 the loss is GRPO's: our numbers against those of TRL's own trainer.

TRL's real `compute_loss` runs on a tiny random model with batches made here; nothing is trained.
"""

import copy

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from bapo.config import ObjectiveSettings
from bapo.objective import (
    LossInputs,
    group_advantages,
    importance_weights,
    loss_normaliser,
    policy_loss,
    token_logps,
)

VOCABULARY = 23
AGGREGATION = {"grpo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean"}


@pytest.fixture
def model():
    """A llama of 16 x 2, weights large enough that its distributions are far from uniform."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return model


@pytest.fixture
def make_trainer(model, tmp_path):
    """Builds a GRPOTrainer around its own copy of the model; TRL patches the forward it gets."""

    def make(**settings):
        words = {"<pad>": 0, "<eos>": 1, "a": 2}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(words, unk_token="a")),
            pad_token="<pad>",
            eos_token="<eos>",
        )
        arguments = GRPOConfig(
            output_dir=str(tmp_path),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=4,
            num_generations=4,
            **settings,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(model),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["a"]}),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def ragged_batch(seed, rows, length):
    """Left-padded prompts, right-padded completions and advantages, as TRL's loss reads them."""
    generator = torch.Generator().manual_seed(seed)
    prompt_lengths = torch.randint(1, 6, (rows,), generator=generator)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[0] = length
    completion_mask = (torch.arange(length) < lengths[:, None]).long()
    scores = torch.rand(1, rows, generator=generator)
    return {
        "prompt_ids": torch.randint(2, VOCABULARY, (rows, 5), generator=generator),
        "prompt_mask": (torch.arange(5) >= 5 - prompt_lengths[:, None]).long(),
        "completion_ids": torch.randint(2, VOCABULARY, (rows, length), generator=generator),
        "completion_mask": completion_mask,
        "advantages": group_advantages(scores, scale=True, epsilon=1e-6).flatten(),
        "num_items_in_batch": completion_mask.sum(),
    }


def our_logps(model, batch, temperature):
    """Log-probabilities of the completions, through a plain forward pass and `token_logps`."""
    token_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=token_ids, attention_mask=attention).logits
    first = batch["prompt_ids"].size(1) - 1
    return token_logps(logits[:, first:-1], batch["completion_ids"], temperature)


def perturbed(logps, seed, scale):
    noise = torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed))
    return (logps + scale * noise).detach()


def assert_same_loss_and_gradient(trainer, batch, model, output):
    """Both to 1e-5, in every parameter, and neither trivially zero."""
    trl_loss = trainer.compute_loss(trainer.model, batch)
    trl_loss.backward()
    output.loss.backward()
    torch.testing.assert_close(output.loss, trl_loss, atol=1e-5, rtol=1e-5)
    pairs = list(zip(model.named_parameters(), trainer.model.named_parameters(), strict=True))
    for (name, ours), (trl_name, trls) in pairs:
        assert name == trl_name
        torch.testing.assert_close(ours.grad, trls.grad, atol=1e-5, rtol=1e-5, msg=name)
    assert max(ours.grad.abs().max() for (_, ours), _ in pairs) > 1e-2


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo"])
@pytest.mark.parametrize("old_logps", ["given", "not given"])
@pytest.mark.parametrize(
    ("rows", "length", "temperature", "clip_high"),
    [(8, 7, 1.0, 0.2), (8, 7, 0.6, 0.28), (4, 1, 1.3, 0.28), (2, 12, 1.0, 0.28), (16, 3, 0.9, 0.2)],
)
def test_loss_and_gradient_equal_trls(
    model, make_trainer, loss_type, old_logps, rows, length, temperature, clip_high
):
    trainer = make_trainer(
        loss_type=loss_type, temperature=temperature, epsilon=0.2, epsilon_high=clip_high
    )
    batch = ragged_batch(rows * length, rows, length)
    policy = our_logps(model, batch, temperature)
    proximal = policy.logps.detach()
    if old_logps == "given":
        proximal = batch["old_per_token_logps"] = perturbed(proximal, 1, 0.4)
    mask = batch["completion_mask"].bool()
    inputs = LossInputs(
        policy_logps=policy.logps,
        proximal_logps=proximal,
        behavior_logps=proximal,
        advantages=batch["advantages"],
        mask=mask,
        sampled_by_proximal=torch.ones(rows).bool(),
        entropy=policy.entropy,
    )
    settings = ObjectiveSettings(clip_high=clip_high, aggregation=AGGREGATION[loss_type])
    output = policy_loss(inputs, settings, loss_normaliser(mask, settings.aggregation))
    assert_same_loss_and_gradient(trainer, batch, model, output)
    metrics = trainer._metrics["train"]
    tokens = mask.sum()
    clipped_share = (output.sums["ratio_clipped"] / tokens).item()
    assert metrics["clip_ratio/region_mean"] == [pytest.approx(clipped_share, abs=1e-6)]
    assert metrics["entropy"] == [pytest.approx((output.sums["entropy"] / tokens).item(), abs=1e-5)]
    if old_logps == "given" and tokens > 8:
        assert clipped_share > 0.1


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("estimator", ["k3_weighted", "k3"])
def test_with_a_kl_to_the_sampling_policy_loss_and_gradient_equal_trls(
    model, make_trainer, loss_type, estimator
):
    """TRL weights its k3 by policy / old; with old = reference = behavior that is our weight."""
    trainer = make_trainer(loss_type=loss_type, use_bias_correction_kl=estimator == "k3_weighted")
    trainer.beta = 0.3  # set here, since the constructor would load a reference model
    batch = ragged_batch(5, 8, 6)
    policy = our_logps(model, batch, 1.0)
    behavior = perturbed(policy.logps, 2, 0.3)
    batch["old_per_token_logps"] = batch["ref_per_token_logps"] = behavior
    mask = batch["completion_mask"].bool()
    inputs = LossInputs(
        policy.logps, behavior, behavior, batch["advantages"], mask, torch.ones(8).bool()
    )
    settings = ObjectiveSettings(
        clip_high=0.2,
        importance_cap=1e6,
        aggregation=AGGREGATION[loss_type],
        kl_coefficient=0.3,
        kl_estimator=estimator,
    )
    output = policy_loss(inputs, settings, loss_normaliser(mask, settings.aggregation))
    assert_same_loss_and_gradient(trainer, batch, model, output)
    kl = (output.sums["kl_behavior"] / mask.sum()).item()
    assert trainer._metrics["train"]["kl"] == [pytest.approx(kl, rel=1e-4)]
    assert kl > 0.01


def test_truncated_importance_weights_and_unscaled_advantages_equal_trls(model, make_trainer):
    """TRL's whole path from sampled tokens and their log-probabilities to the loss.

    Only its generation and its reward call are replaced, by given tokens and given scores.
    """
    trainer = make_trainer(
        loss_type="dapo",
        scale_rewards="none",
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=1.5,
        temperature=0.8,
    )
    trainer.use_vllm = True  # what switches the correction on; vLLM itself is not called
    sampled = ragged_batch(9, 4, 6)
    mask = sampled["completion_mask"].bool()
    lengths = mask.sum(1).tolist()
    prompts = [
        ids[kept.bool()].tolist()
        for ids, kept in zip(sampled["prompt_ids"], sampled["prompt_mask"], strict=True)
    ]
    proximal = our_logps(model, sampled, 0.8).logps.detach()
    behavior = perturbed(proximal, 3, 0.7)
    completions = [
        row[:n].tolist() for row, n in zip(sampled["completion_ids"], lengths, strict=True)
    ]
    stored = [row[:n].tolist() for row, n in zip(behavior, lengths, strict=True)]
    texts = ["a"] * 4
    scores = torch.tensor([[1.0, 0.0, 0.25, 0.0]])
    trainer._generate = lambda _: (prompts, completions, None, texts, stored, {}, None, None)
    trainer._calculate_rewards = lambda *_: scores.T
    batch = trainer._generate_and_score_completions([{"prompt": "a"}] * 4)

    importance = importance_weights(
        proximal, behavior, mask, sampled_by_proximal=torch.zeros(4).bool(), cap=1.5
    )
    torch.testing.assert_close(
        importance.weights[mask], batch["importance_sampling_ratio"][mask], atol=1e-5, rtol=1e-5
    )
    assert 0.1 < importance.truncated[mask].float().mean() < 0.9
    advantages = group_advantages(scores, scale=False, epsilon=1e-6).flatten()
    torch.testing.assert_close(advantages, batch["advantages"])

    inputs = LossInputs(
        policy_logps=our_logps(model, sampled, 0.8).logps,
        proximal_logps=proximal,
        behavior_logps=behavior,
        advantages=advantages,
        mask=mask,
        sampled_by_proximal=torch.zeros(4).bool(),
    )
    settings = ObjectiveSettings(clip_high=0.2, importance_cap=1.5)
    output = policy_loss(inputs, settings, loss_normaliser(mask, "token_mean"))
    batch["num_items_in_batch"] = mask.sum()
    assert_same_loss_and_gradient(trainer, batch, model, output)
