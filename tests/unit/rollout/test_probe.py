import numpy as np
import pytest
import torch

from bapo.errors import StaleEngineError
from bapo.rollout import ScoreRow
from bapo.rollout.probe import check_engine, probe_rows
from bapo.types import Prompt
from tests.rollout_models import tiny_engine, tiny_model, tiny_policy

PROMPTS = [Prompt("a", "12+3=", {}), Prompt("b", "9", {}), Prompt("c", "(7-2)*8>", {})]


def learner_logps(model, rows) -> list[np.ndarray]:
    """One row at a time, so that nothing is padded."""
    scores = []
    for prompt, completion, _ in rows:
        ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
        with torch.no_grad():
            logps = torch.log_softmax(model(ids[None]).logits[0, :-1], -1)
        scores.append(logps.gather(1, ids[1:, None])[len(prompt) - 1 :, 0].numpy())
    return scores


def check(engine, model, version=0) -> float:
    rows = probe_rows(engine.encoder, PROMPTS, 8)
    return check_engine(engine, rows, learner_logps(model, rows), version=version, tolerance=1e-3)


def test_rows_are_the_prompts_split_behind_their_first_token():
    engine = tiny_engine()
    rows = probe_rows(engine.encoder, PROMPTS, 2)
    assert [(prompt.tolist(), completion.tolist()) for prompt, completion, _ in rows] == [
        ([3], [4, 12, 5, 16]),
        ([11], [11]),
    ]


def test_an_engine_with_the_learners_weights_passes():
    policy = tiny_policy()
    assert check(tiny_engine(policy), policy.model) < 1e-5


@pytest.mark.parametrize("token_budget", [16, 4096])
def test_scores_do_not_depend_on_how_rows_are_batched(token_budget):
    policy = tiny_policy()
    assert check(tiny_engine(policy, token_budget=token_budget), policy.model) < 1e-5


def test_scores_of_sampled_tokens_are_their_behavior_log_probs_at_the_temperature():
    engine = tiny_engine()
    rollouts = engine.sample(PROMPTS, version=0, group_size=3, step=1, seed=0, temperature=0.7)
    pairs = [(rollout, one) for rollout in rollouts for one in rollout.completions]
    rows = [ScoreRow(rollout.prompt_token_ids, one.token_ids) for rollout, one in pairs]
    for score, (_, one) in zip(engine.score(rows, version=0, temperature=0.7), pairs, strict=True):
        assert score.dtype == np.float32
        assert np.abs(score - one.behavior_logps).max() < 1e-4


def test_an_engine_with_older_weights_fails_loudly():
    engine = tiny_engine(tiny_policy(seed=0))
    with pytest.raises(StaleEngineError, match="policy version 0 differ from the learner's by up"):
        check(engine, tiny_model(seed=1))


def test_an_engine_whose_weights_were_tampered_with_fails_loudly():
    policy = tiny_policy()
    engine = tiny_engine(policy)
    held = {name: value.detach().clone() for name, value in policy.model.named_parameters()}
    held["lm_head.weight"][5] += 0.5
    engine.publish(0, held)
    with pytest.raises(StaleEngineError):
        check(engine, policy.model)


def test_scores_that_are_not_numbers_fail_loudly():
    policy = tiny_policy()
    engine = tiny_engine(policy)
    rows = probe_rows(engine.encoder, PROMPTS, 3)
    logps = learner_logps(policy.model, rows)
    logps[1][0] = np.nan
    with pytest.raises(StaleEngineError):
        check_engine(engine, rows, logps, version=0, tolerance=1e-3)


def test_a_probe_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        check_engine(tiny_engine(), [], [], version=0, tolerance=1e-3)
