import copy
import math

import numpy as np
import pytest
import torch

from bapo.errors import DataError, ModelError, RunStoppedError
from bapo.rollout.decoder import TokenDecoder, supports
from bapo.rollout.drawing import draw_tokens
from bapo.rollout.loading import Policy
from bapo.rollout.module_decoder import ModuleDecoder
from bapo.rollout.native import why_no_kernels
from bapo.types import FinishReason, Prompt, Rollout
from tests.rollout_models import (
    ARCHITECTURES,
    END,
    character_tokenizer,
    loaded_policy,
    tiny_engine,
    tiny_model,
    tiny_policy,
)

LLAMA3_ROTATION = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TEXTS = ["12+3=", "4*5", "(7-2)*8>", "9", "12+3=;0,1"]
PROMPTS = [Prompt(f"p{number}", text, {}) for number, text in enumerate(TEXTS)]


def sample(engine, prompts=PROMPTS, **changes) -> list[Rollout]:
    arguments = {"version": 0, "group_size": 4, "step": 3, "seed": 7, "temperature": 1.0}
    return engine.sample(prompts, **(arguments | changes))


def tokens(rollouts) -> list[list[list[int]]]:
    return [[one.token_ids.tolist() for one in rollout.completions] for rollout in rollouts]


def same_completions(left, right) -> bool:
    """Equal tokens, texts and reasons, and log-probabilities to 1e-5."""
    pairs = [
        (one, other)
        for a, b in zip(left, right, strict=True)
        for one, other in zip(a.completions, b.completions, strict=True)
    ]
    return all(
        one.token_ids.tolist() == other.token_ids.tolist()
        and (one.text, one.finish_reason) == (other.text, other.finish_reason)
        and np.abs(one.behavior_logps - other.behavior_logps).max() < 1e-5
        for one, other in pairs
    )


BY_HAND = ("torch",) if why_no_kernels() else ("torch", "native")
FAST_ARCHITECTURES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "llama with biases": {"attention_bias": True},
    "llama with scaled rotation": {"rope_parameters": LLAMA3_ROTATION},
    "llama with tied embeddings": {"tie_word_embeddings": True},
    "llama with one key head": {"num_key_value_heads": 1},
}


@pytest.mark.parametrize(
    ("architecture", "temperature", "decoder"),
    [(name, 1.0, "module") for name in ARCHITECTURES]
    + [(name, 1.0, by) for name in ("llama", "qwen2", "qwen3") for by in BY_HAND]
    + [("llama", 0.6, by) for by in ("module", *BY_HAND)],
)
def test_log_probs_equal_those_of_a_full_forward_pass(tmp_path, architecture, temperature, decoder):
    policy = loaded_policy(tmp_path, architecture)
    rollouts = sample(tiny_engine(policy, decoder=decoder), temperature=temperature)
    for rollout in rollouts:
        for one in rollout.completions:
            ids = np.concatenate([rollout.prompt_token_ids, one.token_ids]).astype(np.int64)
            with torch.no_grad():
                logits = policy.model(torch.from_numpy(ids)[None]).logits[0, :-1]
            logps = torch.log_softmax(logits / temperature, -1)
            picked = logps.gather(1, torch.from_numpy(ids)[1:, None])[:, 0].numpy()
            expected = picked[len(rollout.prompt_token_ids) - 1 :]
            assert np.abs(expected - one.behavior_logps).max() < 1e-4


def with_uneven_vectors(policy: Policy) -> Policy:
    """Norms and biases are ones and zeros in a fresh model, and would hide that they are used."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.3, 0.4, len(parameter)))
    return policy


def errors(policy: Policy, rollouts: list[Rollout]) -> np.ndarray:
    """How far each log-probability is from that of a full forward pass in float64."""
    exact = copy.deepcopy(policy.model).double()
    found = []
    for rollout in rollouts:
        for one in rollout.completions:
            ids = np.concatenate([rollout.prompt_token_ids, one.token_ids]).astype(np.int64)
            with torch.no_grad():
                logps = torch.log_softmax(exact(torch.from_numpy(ids)[None]).logits[0, :-1], -1)
            picked = logps.gather(1, torch.from_numpy(ids)[1:, None])[:, 0].numpy()
            found.append(picked[len(rollout.prompt_token_ids) - 1 :] - one.behavior_logps)
    return np.abs(np.concatenate(found))


@pytest.mark.parametrize("decoder", BY_HAND)
def test_the_default_number_type_of_torch_changes_no_completion(decoder):
    engine = tiny_engine(decoder=decoder)
    expected = sample(engine)
    torch.set_default_dtype(torch.float64)
    try:
        found = sample(engine)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_completions(found, expected)


@pytest.mark.parametrize("decoder", BY_HAND)
@pytest.mark.parametrize("name", FAST_ARCHITECTURES)
def test_the_hand_written_decoder_gives_the_results_of_the_model_itself(name, decoder):
    different, own, of_module = 0, [], []
    for seed in range(3):
        changes = FAST_ARCHITECTURES[name] | {"seed": seed}
        policy = with_uneven_vectors(tiny_policy(name.split()[0], **changes))
        assert supports(policy.model)
        fast, slow = (
            sample(tiny_engine(policy, max_new_tokens=40, decoder=by), group_size=8)
            for by in (decoder, "module")
        )
        for one, other in zip(tokens(fast), tokens(slow), strict=True):
            different += sum(left != right for left, right in zip(one, other, strict=True))
        own.append(errors(policy, fast))
        of_module.append(errors(policy, slow))
    # A random number may lie where rounding decides: once in some 200,000 tokens.
    assert different <= 1
    # The module's own log-probabilities are up to 2.1e-5 from the exact ones here.
    assert np.concatenate(own).mean() < 1.2 * np.concatenate(of_module).mean()
    assert np.concatenate(own).max() < 2 * np.concatenate(of_module).max()


@pytest.mark.parametrize("name", ["gemma", "gemma3_text", "phi", "mistral", "gpt2"])
def test_the_hand_written_decoder_declines_other_architectures(name):
    assert not supports(tiny_model(name))


def test_the_hand_written_decoder_declines_what_would_change_the_arithmetic():
    assert not supports(tiny_model("llama", hidden_act="gelu"))
    assert not supports(tiny_model("llama", mlp_bias=True))
    assert not supports(tiny_model("qwen2", layer_types=["full_attention", "sliding_attention"]))
    assert not supports(tiny_model("llama").bfloat16())
    biased = tiny_model("llama")
    biased.lm_head.bias = torch.nn.Parameter(torch.ones(len(biased.lm_head.weight)))
    assert not supports(biased)
    assert not supports(tiny_model("llama", hidden_size=1032, num_hidden_layers=1))
    hooked = tiny_model("llama")
    hooked.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert not supports(hooked)
    adapted = tiny_model("llama")
    adapted.model.layers[0].self_attn.q_proj = torch.nn.Sequential(torch.nn.Linear(32, 32))
    assert not supports(adapted)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_a_completion_does_not_depend_on_what_shares_its_batch(architecture):
    policy = tiny_policy(architecture)
    engine = tiny_engine(policy)
    together = sample(engine)
    alone = [sample(engine, [prompt])[0] for prompt in PROMPTS]
    backwards = sample(engine, PROMPTS[::-1])[::-1]
    in_pieces = sample(tiny_engine(policy, token_budget=60))
    assert same_completions(together, alone)
    assert same_completions(together, backwards)
    assert same_completions(together, in_pieces)


def test_the_first_completions_of_a_larger_group_are_those_of_a_smaller_one():
    engine = tiny_engine()
    small, large = sample(engine, group_size=2), sample(engine, group_size=5)
    assert [group[:2] for group in tokens(large)] == tokens(small)


def test_dropping_ended_rows_changes_no_result():
    policy = tiny_policy()
    always = sample(tiny_engine(policy, max_new_tokens=40, compact_below=1.0), group_size=16)
    never = sample(tiny_engine(policy, max_new_tokens=40, compact_below=0.0), group_size=16)
    lengths = {len(one.token_ids) for rollout in always for one in rollout.completions}
    assert len(lengths) > 5
    assert same_completions(always, never)


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """How many rows went through the model, a number for each token step."""
    rows: list[int] = []
    for kind in (TokenDecoder, ModuleDecoder):

        def counted(self, store, tokens, positions, step=kind.step):
            rows.append(len(tokens))
            return step(self, store, tokens, positions)

        monkeypatch.setattr(kind, "step", counted)
    return rows


@pytest.fixture
def prefilled(monkeypatch) -> list[int]:
    """How many tokens of prompts, padding aside, went through the model each time rows began."""
    tokens: list[int] = []
    for kind in (TokenDecoder, ModuleDecoder):

        def counted(self, store, prompts, prompt_of_row, join=kind.join):
            tokens.append(prompts.ids.numel() - int(prompts.pads.sum()))
            return join(self, store, prompts, prompt_of_row)

        monkeypatch.setattr(kind, "join", counted)
    return tokens


def test_dropping_ended_rows_saves_decoded_tokens(decoded):
    policy = tiny_policy()
    dropping, keeping = (
        tiny_engine(policy, max_new_tokens=40, compact_below=share) for share in (1.0, 0.0)
    )
    made = sum(
        len(one.token_ids) - 1 for rollout in sample(dropping) for one in rollout.completions
    )
    assert sum(decoded) == made
    sample(keeping)
    assert sum(decoded) > 2 * made


@pytest.fixture
def unset_numbers_are_none():
    """Memory that was never written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("architecture", "decoder"),
    [(name, "module") for name in ARCHITECTURES]
    + [("llama", by) for by in BY_HAND if by == "native"],
)
def test_waiting_prompts_join_as_rows_end_and_change_no_result(
    prefilled, decoded, unset_numbers_are_none, architecture, decoder
):
    policy = tiny_policy(architecture)
    prompts = [Prompt(f"q{number}", TEXTS[number % 5], {}) for number in range(40)]
    results, steps, read, most = [], [], [], []
    for refill in (True, False):
        # A row of the shortest prompt needs 41 positions: at most 24 of the 160 rows fit.
        engine = tiny_engine(
            policy,
            max_new_tokens=40,
            token_budget=1000,
            compact_below=1.0,
            decoder=decoder,
            refill=refill,
            stop=("1", "4"),
        )
        # At this temperature completions have all lengths, whatever the model.
        results.append(sample(engine, prompts, temperature=2.0))
        steps.append(len(decoded))
        most.append(max(decoded))
        read.append(sum(prefilled))
        prefilled.clear()
        decoded.clear()
    assert same_completions(*results)
    assert steps[0] < 0.7 * steps[1]
    assert max(most) <= 24
    # No group is split by joining, so that no prompt is read more often.
    assert read[0] == read[1]


@pytest.mark.parametrize("name", ["roformer", "bart"])
def test_a_model_that_takes_no_positions_is_sampled_by_prompts_of_one_length(name):
    """It counts them from the start of its cache, where padding or joining would move them."""
    changes = {
        "roformer": {"is_decoder": True},
        "bart": {
            **{"is_decoder": True, "is_encoder_decoder": False, "d_model": 32, "init_std": 0.3},
            **{"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
        },
    }
    policy = tiny_policy(name, **changes[name])
    prompts = [Prompt(f"q{number}", TEXTS[number % 5], {}) for number in range(20)]
    engine = tiny_engine(policy, max_new_tokens=40, token_budget=500, stop=("1", "4"))
    rollouts = sample(engine, prompts, temperature=2.0)
    rows = [(one.prompt_token_ids, row) for one in rollouts for row in one.completions]
    for prompt, row in rows:
        ids = torch.from_numpy(np.concatenate([prompt, row.token_ids]).astype(np.int64))
        with torch.no_grad():
            logps = torch.log_softmax(policy.model(ids[None]).logits[0, :-1] / 2.0, -1)
        picked = logps.gather(1, ids[1:, None])[:, 0].numpy()[len(prompt) - 1 :]
        assert np.abs(picked - row.behavior_logps).max() < 1e-4


def test_prompts_too_long_to_be_read_together_are_read_in_parts(monkeypatch):
    engine = tiny_engine()
    expected = sample(engine)
    monkeypatch.setattr("bapo.rollout.decoder._READ_TOKENS", 20)
    assert same_completions(sample(engine), expected)


def test_the_groups_of_a_prompt_are_handed_over_as_soon_as_they_are_whole():
    engine = tiny_engine(max_new_tokens=40, token_budget=400)
    early: list[Rollout] = []
    rollouts = sample(engine, on_rollout=early.append)
    assert sorted(one.prompt.prompt_id for one in early) == ["p0", "p1", "p2", "p3", "p4"]
    assert all(any(one is other for other in rollouts) for one in early)


def test_a_group_that_ends_early_is_handed_over_while_others_are_sampled(decoded):
    steps: dict[str, int] = {}

    def note(rollout: Rollout) -> None:
        steps[rollout.prompt.prompt_id] = len(decoded)

    sample(tiny_engine(max_new_tokens=40), group_size=2, on_rollout=note)
    assert len(set(steps.values())) > 1
    assert min(steps.values()) < len(decoded)


def test_each_prompt_is_prefilled_once_per_batch(prefilled):
    sample(tiny_engine(), group_size=8)
    assert prefilled == [sum(len(text) for text in TEXTS)]


def test_the_same_seed_gives_the_same_tokens_and_log_probs_bit_for_bit():
    engine = tiny_engine()
    first, second = sample(engine), sample(engine)
    assert tokens(first) == tokens(second)
    for a, b in zip(first, second, strict=True):
        for one, other in zip(a.completions, b.completions, strict=True):
            assert one.behavior_logps.tobytes() == other.behavior_logps.tobytes()


def test_another_step_seed_index_or_prompt_id_gives_other_tokens():
    engine = tiny_engine()
    prompt = PROMPTS[0]
    base = tokens(sample(engine, [prompt]))[0]
    assert base != tokens(sample(engine, [prompt], step=4))[0]
    assert base != tokens(sample(engine, [prompt], seed=8))[0]
    assert base != tokens(sample(engine, [Prompt("other", prompt.content, {})]))[0]
    assert len({tuple(one) for one in base}) == 4


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_prompts_with_seeds_of_their_own_get_the_completions_of_separate_calls(architecture):
    """With the hand-written decoder and without; two prompts are given once with each seed."""
    engine = tiny_engine(tiny_policy(architecture), token_budget=400)
    again = [PROMPTS[1], PROMPTS[0]]
    together = sample(engine, [*PROMPTS, *again], seed=[7, 7, 7, 7, 7, 8, 8])
    assert same_completions(together, sample(engine) + sample(engine, again, seed=8))
    assert [rollout.prompt for rollout in together] == [*PROMPTS, *again]
    assert tokens(together)[1] != tokens(together)[5]


def test_prompts_with_seeds_of_their_own_share_token_steps(decoded):
    engine = tiny_engine(max_new_tokens=40)
    first, second = sample(engine, seed=7), sample(engine, seed=8)
    steps_of_both = len(decoded)
    decoded.clear()
    assert same_completions(sample(engine, PROMPTS * 2, seed=[7] * 5 + [8] * 5), first + second)
    assert len(decoded) < 0.6 * steps_of_both


def test_seeds_that_are_not_as_many_as_the_prompts_are_refused():
    with pytest.raises(ValueError, match="4 seeds for 5 prompts"):
        sample(tiny_engine(), seed=[7] * 4)


def test_sampling_leaves_the_global_generators_alone():
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample(tiny_engine())
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_token_frequencies_match_the_model_by_chi_squared(temperature):
    policy = tiny_policy(initializer_range=0.1)
    engine = tiny_engine(policy, max_new_tokens=1)
    count = 6000
    rollout = sample(engine, [PROMPTS[2]], group_size=count, temperature=temperature)[0]
    ids = torch.from_numpy(rollout.prompt_token_ids.astype(np.int64))[None]
    with torch.no_grad():
        logits = policy.model(ids).logits[0, -1].double()
    expected = torch.softmax(logits / temperature, -1).numpy() * count
    drawn = np.bincount([one.token_ids[0] for one in rollout.completions], minlength=len(expected))
    common = expected >= 5
    assert common.sum() >= 8
    statistic = ((drawn - expected)[common] ** 2 / expected[common]).sum()
    degrees = int(common.sum()) - 1
    # Five standard deviations of the chi-squared distribution above its mean.
    assert statistic < degrees + 5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("decoder", ["module", *BY_HAND])
def test_joint_frequencies_of_two_tokens_match_the_model_by_chi_squared(decoder):
    """The second token comes from the decode step, whose numbers must not repeat the first's."""
    policy = tiny_policy(initializer_range=0.1)
    engine = tiny_engine(policy, max_new_tokens=2, decoder=decoder)
    count = 12_000
    rollout = sample(engine, [PROMPTS[2]], group_size=count)[0]
    ids = torch.from_numpy(rollout.prompt_token_ids.astype(np.int64))
    with torch.no_grad():
        first = torch.softmax(policy.model(ids[None]).logits[0, -1].double(), -1)
        words = torch.arange(len(first))
        continued = torch.cat((ids.expand(len(words), -1), words[:, None]), dim=1)
        second = torch.softmax(policy.model(continued).logits[:, -1].double(), -1)
    expected = (first[:, None] * second * count).numpy()
    expected[END] = 0.0  # a completion that ended has no second token
    pairs = [one.token_ids for one in rollout.completions if one.token_ids[0] != END]
    drawn = np.zeros_like(expected)
    np.add.at(drawn, tuple(np.array(pairs).T), 1)
    common = expected >= 5
    assert common.sum() >= 200
    statistic = ((drawn - expected)[common] ** 2 / expected[common]).sum()
    degrees = int(common.sum())
    assert statistic < degrees + 5 * math.sqrt(2 * degrees)


def test_every_completion_ends_at_the_end_token_or_at_the_limit():
    rollouts = sample(tiny_engine(max_new_tokens=20), group_size=16)
    reasons = set()
    for one in (one for rollout in rollouts for one in rollout.completions):
        ids = one.token_ids.tolist()
        reasons.add(one.finish_reason)
        if one.finish_reason is FinishReason.STOP:
            assert ids[-1] == END
            assert END not in ids[:-1]
            assert len(ids) <= 20
        else:
            assert END not in ids
            assert len(ids) == 20
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


def test_records_have_the_shapes_types_and_stamps_that_the_rooms_expect():
    rollouts = sample(tiny_engine(), temperature=0.9)
    assert [rollout.prompt for rollout in rollouts] == PROMPTS
    for rollout in rollouts:
        assert (rollout.policy_version, rollout.step, rollout.temperature) == (0, 3, 0.9)
        assert rollout.prompt_token_ids.dtype == np.int32
        assert len(rollout.completions) == 4
        for one in rollout.completions:
            assert one.token_ids.dtype == np.int32
            assert one.behavior_logps.dtype == np.float32
            assert (one.behavior_logps <= 0).all()
            assert one.loss_mask.dtype == np.bool_
            assert one.loss_mask.all()
            assert one.token_ids.shape == one.behavior_logps.shape == one.loss_mask.shape


def test_a_stop_string_of_several_tokens_ends_a_completion_and_is_cut_from_its_text():
    policy = tiny_policy(initializer_range=0.1)
    free = sample(tiny_engine(policy, max_new_tokens=30), group_size=64)
    texts = [one.text for rollout in free for one in rollout.completions]
    stop = next(text[3:5] for text in texts if len(text) > 8)
    stopped = sample(tiny_engine(policy, max_new_tokens=30, stop=(stop,)), group_size=64)
    hits = 0
    pairs = zip(texts, (one for rollout in stopped for one in rollout.completions), strict=True)
    for text, one in pairs:
        place = text.find(stop)
        assert stop not in one.text
        assert one.text == (text if place < 0 else text[:place])
        if place >= 0:
            hits += 1
            assert one.finish_reason is FinishReason.STOP
            assert sum(token > END for token in one.token_ids) == place + len(stop)
    assert hits >= 1


def test_a_stop_string_that_is_a_special_token_ends_a_completion_as_an_end_token_does():
    """Decoded text has no special tokens, so that it could never be found there."""
    policy = tiny_policy(initializer_range=0.1)
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["7"]})
    mark = policy.tokenizer.convert_tokens_to_ids("7")
    stopped = sample(tiny_engine(policy, max_new_tokens=60, stop=("7", "8")), group_size=16)
    completions = [one for rollout in stopped for one in rollout.completions]
    assert all(mark not in one.token_ids[:-1] for one in completions)
    ended = [one for one in completions if one.token_ids[-1] == mark]
    assert len(ended) >= 1
    assert {one.finish_reason for one in ended} == {FinishReason.STOP}


def test_the_earliest_of_several_stop_strings_wins():
    policy = tiny_policy(initializer_range=0.1)
    free = sample(tiny_engine(policy, max_new_tokens=30), group_size=16)
    stopped = sample(tiny_engine(policy, max_new_tokens=30, stop=("1", "2", "3")), group_size=16)
    for a, b in zip(free, stopped, strict=True):
        for one, other in zip(a.completions, b.completions, strict=True):
            ends = [place for mark in "123" if (place := one.text.find(mark)) >= 0]
            assert other.text == (one.text[: min(ends)] if ends else one.text)


def test_completions_longer_than_one_block_of_random_numbers_are_the_same_in_any_batch():
    policy = tiny_policy(initializer_range=0.02)
    engine = tiny_engine(policy, max_new_tokens=100)
    together = sample(engine, group_size=32)
    alone = sample(engine, PROMPTS[1:2], group_size=32)
    assert max(len(one.token_ids) for one in together[1].completions) > 64
    assert same_completions(together[1:2], alone)


def test_one_new_token_and_one_completion_are_enough():
    rollout = sample(tiny_engine(max_new_tokens=1), PROMPTS[:1], group_size=1)[0]
    assert [len(one.token_ids) for one in rollout.completions] == [1]


def test_no_prompts_give_no_rollouts():
    assert sample(tiny_engine(), []) == []


def test_a_prompt_that_is_too_long_or_empty_is_refused_by_name():
    engine = tiny_engine()
    with pytest.raises(DataError, match=r"'long'.*'rollout.max_prompt_tokens'"):
        sample(engine, [*PROMPTS, Prompt("long", "1" * 65, {})])
    with pytest.raises(DataError, match="1 of 6 prompts have no tokens: 'nothing'"):
        sample(engine, [*PROMPTS, Prompt("nothing", "", {})])


def test_weights_that_are_not_finite_stop_the_run():
    policy = tiny_policy()
    engine = tiny_engine(policy)
    broken = {name: value.clone() for name, value in policy.model.named_parameters()}
    broken["model.norm.weight"][0] = float("nan")
    engine.publish(1, broken)
    with pytest.raises(RunStoppedError, match="not finite"):
        sample(engine, version=1)


def test_an_architecture_whose_state_is_no_cache_of_keys_is_refused():
    policy = tiny_policy()
    policy.model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="linear_attention"):
        tiny_engine(policy)


def test_draw_tokens_inverts_the_cumulative_distribution():
    logits = torch.log(torch.tensor([[0.25, 0.0, 0.5, 0.25]])).expand(6, 4)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1.0], dtype=torch.float64)
    drawn, logps = draw_tokens(logits, uniforms, 1.0)
    assert drawn.tolist() == [0, 0, 2, 2, 3, 3]
    assert torch.allclose(logps.exp(), torch.tensor([0.25, 0.25, 0.5, 0.5, 0.25, 0.25]))


def test_draw_tokens_never_draws_a_token_of_probability_zero():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, 3)
    drawn, logps = draw_tokens(logits, torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0)
    assert drawn.tolist() == [1, 1]
    assert logps.tolist() == [0.0, 0.0]


def test_draw_tokens_in_parts_equals_the_whole(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((7, 11), generator=generator)
    uniforms = torch.rand(7, generator=generator, dtype=torch.float64)
    whole = draw_tokens(logits, uniforms, 0.7)
    monkeypatch.setattr("bapo.rollout.drawing._DRAW_NUMBERS", 22)
    parts = draw_tokens(logits, uniforms, 0.7)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_a_large_vocabulary_is_searched_in_blocks_with_the_same_result(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn((500, 1000), generator=generator)
    logits[:, ::3] = -math.inf
    uniforms = torch.rand(500, generator=generator, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1.0])
    in_blocks = draw_tokens(logits, uniforms, 0.7)
    monkeypatch.setattr("bapo.rollout.drawing._BLOCK", 1000)
    whole = draw_tokens(logits, uniforms, 0.7)
    assert torch.equal(in_blocks[0], whole[0])
    assert torch.equal(in_blocks[1], whole[1])
    assert (in_blocks[0] % 3 > 0).all()


def test_the_vocabulary_may_be_larger_than_the_tokenizer():
    policy = tiny_policy(initializer_range=0.02, vocab_size=len(character_tokenizer()) + 40)
    rollouts = sample(tiny_engine(policy, stop=("1",)))
    drawn = {token for group in tokens(rollouts) for row in group for token in row}
    assert max(drawn) >= len(character_tokenizer())
