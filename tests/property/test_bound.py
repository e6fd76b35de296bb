"""The bound on policies that can be listed, where every expectation is a sum."""

import inspect
import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bapo.config import AdaptationSettings
from bapo.objective import (
    PUBLISHED,
    TIGHT,
    bound,
    group_bounds,
    improvement_bound,
    penalty_factor,
    tv_one_sided,
    worst_penalty_factor,
    worst_penalty_factors,
)
from bapo.types import Source
from tests.enumerable import (
    answer_distribution,
    deviation,
    exact_recipe,
    exact_terms,
    softmax,
    table_run,
    tiny_transformer,
    total_variation,
    transformer_run,
)

PRESETS = ["grpo", "grpo_delayed", "filtered", "dapo", "bapo", "bapo_no_retry", "bapo_no_reuse"]
ROUNDING = 1e-9
seeds = st.integers(0, 2**32 - 1)


@st.composite
def worlds(draw):
    """Three policies over 2 to 1000 answers, near or far, flat or sharp, and rewards in [0, 1]."""
    generator = np.random.default_rng(draw(seeds))
    size = draw(st.sampled_from([2, 3, 5, 40, 1000]))
    sharpness = draw(st.sampled_from([0.1, 1.0, 5.0, 20.0]))
    distance = draw(st.sampled_from([0.0, 0.01, 0.3, 2.0, 20.0]))
    base = generator.normal(0, sharpness, size)
    policies = [softmax(base + distance * generator.normal(0, 1, size)) for _ in range(3)]
    if draw(st.booleans()):
        rewards = (generator.random(size) < draw(st.sampled_from([0.02, 0.3, 0.9]))).astype(float)
        rewards[:2] = (0.0, 1.0)
    else:
        rewards = generator.random(size)
    return (*policies, rewards)


def library_bound(terms, form):
    """What the library makes of exact terms."""
    tensors = [
        torch.tensor(value, dtype=torch.float64)
        for value in (terms.surrogate, terms.normaliser, terms.tv_policy, terms.tv_behavior)
    ]
    surrogate, normaliser, policy_tv, behavior_tv = tensors
    factor = penalty_factor(normaliser)
    return float(improvement_bound(surrogate, factor, policy_tv, behavior_tv, form=form))


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_both_forms_hold_and_the_tight_one_is_never_looser(world):
    terms = exact_terms(*world)
    slack = ROUNDING / terms.normaliser
    tight, published = library_bound(terms, TIGHT), library_bound(terms, PUBLISHED)
    assert terms.improvement >= tight - slack
    assert terms.improvement >= published - slack
    assert tight >= published
    assert tight == pytest.approx(terms.tight, abs=slack)
    assert published == pytest.approx(terms.published, abs=slack)


@given(worlds(), st.floats(1e-6, 1.0))
@settings(max_examples=200, deadline=None)
def test_it_holds_for_any_normaliser_up_to_one_and_not_for_sigma_alone(world, normaliser):
    terms = exact_terms(*world, normaliser=normaliser)
    slack = ROUNDING / normaliser
    assert terms.improvement >= library_bound(terms, TIGHT) - slack
    # With s = 1 nothing is lost to K: the form that `GroupBounds.direct` has.
    direct = exact_terms(*world, normaliser=1.0)
    assert library_bound(direct, TIGHT) >= library_bound(terms, TIGHT) - slack


@given(worlds())
@settings(max_examples=200, deadline=None)
def test_the_published_form_never_promises_an_improvement(world):
    terms = exact_terms(*world)
    assert library_bound(terms, PUBLISHED) <= ROUNDING / terms.normaliser
    ceiling = terms.tv_policy - terms.tv_behavior
    assert library_bound(terms, TIGHT) <= ceiling + ROUNDING / terms.normaliser


@given(worlds(), st.integers(2, 16), seeds)
@settings(max_examples=200, deadline=None)
def test_it_holds_with_the_deviation_of_any_group_that_a_source_lets_in(world, size, seed):
    rate = np.random.default_rng(seed).integers(1, size) / size
    sigma = math.sqrt(rate * (1 - rate))
    terms = exact_terms(*world, normaliser=sigma)
    assert terms.improvement >= library_bound(terms, TIGHT) - ROUNDING / sigma
    worst = worst_penalty_factor(size, 0.0, 1.0)
    assert worst is not None
    assert terms.factor <= worst + ROUNDING


@given(st.integers(2, 40), st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_worst_factor_of_a_source_is_the_largest_that_it_lets_in(size, c1, one, other, strict):
    c2, c3 = min(one, other), max(one, other)
    rule = "above_c1" if strict else "improved"
    chosen = AdaptationSettings(hard_threshold=c1, retry_accept=rule)
    found = worst_penalty_factors(chosen, size, (c2, c3))
    rates = [count / size for count in range(1, size)]
    admitted = {
        Source.FRESH: rates,
        Source.RETRIED: [rate for rate in rates if rate > (c1 if strict else 0)],
        Source.REUSED: [rate for rate in rates if c2 - 1e-9 <= rate <= c3 + 1e-9],
    }
    for source, inside in admitted.items():
        factors = [1 / math.sqrt(rate * (1 - rate)) - 1 for rate in inside]
        if factors:
            assert found[source] == pytest.approx(max(factors))
        else:
            assert found[source] is None


@pytest.mark.parametrize("seed", range(3))
def test_it_holds_between_transformers_with_answers_of_three_tokens(seed):
    model, tokenizer, answers = tiny_transformer(seed)
    generator = np.random.default_rng(seed)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    prompt = tokenizer.convert_tokens_to_ids(["0", "2"])

    def moved(distance):
        noise = torch.Generator().manual_seed(int(generator.integers(1 << 30)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                jump = torch.randn(parameter.shape, generator=noise)
                parameter.copy_(start[name] + distance * jump)
        found = answer_distribution(model, prompt, answers)
        assert found.sum() == pytest.approx(1.0)
        return found

    for distance in (0.01, 0.1, 1.0):
        policies = [moved(distance) for _ in range(3)]
        rewards = (generator.random(len(answers)) < 0.2).astype(float)
        terms = exact_terms(*policies, rewards)
        assert terms.improvement >= library_bound(terms, TIGHT)
        assert library_bound(terms, TIGHT) >= library_bound(terms, PUBLISHED)


# Which mistakes the checks above and the ones below would find: a formula takes the exact
# quantities of one world and gives what it claims as a lower bound.


def right_formula(q):
    return q["gain"] / q["sigma"] - (1 - q["sigma"]) / q["sigma"] * q["tv_pa"] - q["tv_ta"]


def built(*, sign_l=1, sign_k=1, sign_t=1, scale_l=1, scale_k=1, scale_t=1, **source):
    """The right formula with signs, factors or sources exchanged."""

    def formula(q):
        q = q | {name: q[other] for name, other in source.items()}
        factor = (1 - q["sigma"]) / q["sigma"]
        return (
            sign_l * scale_l * q["gain"] / q["sigma"]
            - sign_k * scale_k * factor * q["tv_pa"]
            - sign_t * scale_t * q["tv_ta"]
        )

    return formula


MUTANTS = {
    "sign of L": built(sign_l=-1),
    "sign of the first distance": built(sign_k=-1),
    "sign of the second distance": built(sign_t=-1),
    "L too large": built(scale_l=1.1),
    "L too small": built(scale_l=0.9),
    "factor of the first distance too small": built(scale_k=0.9),
    "factor of the first distance too large": built(scale_k=2),
    "factor of the second distance too small": built(scale_t=0.9),
    "factor of the second distance too large": built(scale_t=2),
    "no first distance": built(scale_k=0),
    "no second distance": built(scale_t=0),
    "the distances exchanged": built(tv_pa="tv_ta", tv_ta="tv_pa"),
    "pi to pi_t for the first distance": built(tv_pa="tv_pt"),
    "pi to pi_t for the second distance": built(tv_ta="tv_pt"),
    "pi to alpha for the second distance": built(tv_ta="tv_pa"),
    "pi_t to alpha for the first distance": built(tv_pa="tv_ta"),
    "L against pi_t": built(gain="gain_over_t"),
    "L of pi_t": built(gain="gain_of_t"),
    "K of another normaliser than L's": lambda q: (
        q["gain"] / q["sigma"]
        - (1 - q["sigma_policy"]) / q["sigma_policy"] * q["tv_pa"]
        - q["tv_ta"]
    ),
    "K = 1 / sigma": lambda q: (q["gain"] - q["tv_pa"]) / q["sigma"] - q["tv_ta"],
    "K = 1 - sigma": lambda q: q["gain"] / q["sigma"] - (1 - q["sigma"]) * q["tv_pa"] - q["tv_ta"],
    "K upside down": lambda q: (
        q["gain"] / q["sigma"] - q["sigma"] / (1 - q["sigma"]) * q["tv_pa"] - q["tv_ta"]
    ),
    "L not normalised": lambda q: (
        q["gain"] - (1 - q["sigma"]) / q["sigma"] * q["tv_pa"] - q["tv_ta"]
    ),
    "L over the variance": lambda q: (
        q["gain"] / q["sigma"] ** 2 - (1 - q["sigma"]) / q["sigma"] * q["tv_pa"] - q["tv_ta"]
    ),
}


def quantities(policy, proximal, behavior, rewards):
    value = {"p": policy @ rewards, "t": proximal @ rewards, "a": behavior @ rewards}
    return {
        "improvement": value["p"] - value["t"],
        "gain": value["p"] - value["a"],
        "gain_over_t": value["p"] - value["t"],
        "gain_of_t": value["t"] - value["a"],
        "sigma": deviation(behavior, rewards),
        "sigma_policy": deviation(policy, rewards),
        "tv_pa": total_variation(policy, behavior),
        "tv_ta": total_variation(proximal, behavior),
        "tv_pt": total_variation(policy, proximal),
    }


def random_worlds(count=300):
    generator = np.random.default_rng(0)
    for _ in range(count):
        base = generator.normal(0, 1, 12)
        distance = generator.choice([0.1, 1.0, 3.0])
        policies = [softmax(base + distance * generator.normal(0, 1, 12)) for _ in range(3)]
        yield quantities(*policies, (generator.random(12) < 0.4).astype(float) + 0.0)


def tight_worlds():
    """Worlds where nothing is lost: mass moves from wrong to right, by a for pi and b for pi_t."""
    rewards = np.array([1.0, 0.0])
    for right, a, b in [(0.3, 0.2, 0.1), (0.1, 0.05, 0.0), (0.25, 0.0, 0.5), (0.5, 0.3, 0.2)]:
        behavior = np.array([right, 1 - right])
        step = np.array([1.0, -1.0])
        yield quantities(behavior + a * step, behavior + b * step, behavior, rewards)


def complaints(formula):
    """What is wrong with a formula: where it is no bound, and where it gives something away."""
    found = []
    for world in random_worlds():
        if world["sigma"] > 0 and world["improvement"] < formula(world) - ROUNDING:
            found.append("not a lower bound")
            break
    for world in tight_worlds():
        if abs(world["improvement"] - formula(world)) > ROUNDING:
            found.append("not attained where mass moves from wrong to right")
            break
    return found


def test_the_right_formula_passes_the_check_that_finds_the_wrong_ones():
    assert complaints(right_formula) == []
    assert complaints(built()) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_sign_factor_or_source_is_found(name):
    assert complaints(MUTANTS[name])


def listed_group(policy, proximal, counts, rewards):
    """A group in which every answer stands as often as alpha gives it, so that means are exact."""
    behavior = counts / counts.sum()
    answers = np.repeat(np.arange(len(counts)), counts)
    ratios = [np.log(one / behavior)[answers] for one in (policy, proximal)]
    tensors = [torch.tensor(one)[None] for one in (*ratios, rewards[answers])]
    return behavior, tensors


@given(seeds, st.sampled_from([0.1, 1.0, 5.0]))
@settings(max_examples=100, deadline=None)
def test_a_group_that_lists_all_answers_gives_the_exact_terms(seed, distance):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 6, 9)
    rewards = np.round(generator.random(9) * np.array([0, 1] * 4 + [1]), 3)
    policy, proximal = (
        softmax(np.log(counts) + distance * generator.normal(0, 1, 9)) for _ in range(2)
    )
    behavior, tensors = listed_group(policy, proximal, counts, rewards)
    found = group_bounds(*tensors, cap=math.inf)
    expected = exact_terms(policy, proximal, behavior, rewards)
    slack = ROUNDING / expected.normaliser
    assert found.sigma.item() == pytest.approx(expected.normaliser)
    assert found.surrogate.item() == pytest.approx(expected.surrogate, abs=slack)
    assert found.factor.item() == pytest.approx(expected.factor)
    assert found.policy_tv.item() == pytest.approx(expected.tv_policy, abs=ROUNDING)
    assert found.behavior_tv.item() == pytest.approx(expected.tv_behavior, abs=ROUNDING)
    assert found.total().item() == pytest.approx(expected.tight, abs=slack)
    assert found.total(PUBLISHED).item() == pytest.approx(expected.published, abs=slack)
    truncated = group_bounds(*tensors, cap=1.5)
    assert truncated.total().item() <= found.total().item() + slack
    assert torch.equal(truncated.policy_tv, found.policy_tv)


def test_a_group_bound_with_its_sources_exchanged_is_another_one():
    counts, rewards = np.array([1, 2, 3]), np.array([1.0, 0.0, 0.0])
    policy, proximal = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.25, 0.5])
    behavior, (to_policy, to_proximal, scores) = listed_group(policy, proximal, counts, rewards)
    expected = exact_terms(policy, proximal, behavior, rewards).tight
    wrong = [
        group_bounds(to_proximal, to_policy, scores, cap=math.inf),
        group_bounds(-to_policy, to_proximal, scores, cap=math.inf),
        group_bounds(to_policy, -to_proximal, scores, cap=math.inf),
        group_bounds(to_policy, to_policy, scores, cap=math.inf),
        group_bounds(to_policy, to_proximal, 1 - scores, cap=math.inf),
    ]
    assert all(abs(one.total().item() - expected) > 1e-3 for one in wrong)
    swapped = replace(wrong[0], factor=torch.zeros(1, dtype=torch.float64))
    assert abs(swapped.total().item() - expected) > 1e-3
    right = group_bounds(to_policy, to_proximal, scores, cap=math.inf)
    assert right.total().item() == pytest.approx(expected)
    assert tv_one_sided(to_policy).item() == pytest.approx(total_variation(policy, behavior))


# The same with the library's own source: each change of a sign, a factor or a source is made in
# `bapo.objective.bound` itself, and the checks must then fail.

SOURCE_MUTANTS = {
    "sign of the first distance": ("surrogate - form * factor", "surrogate + form * factor"),
    "sign of the second distance": ("policy_tv - form * behavior_tv", "policy_tv + behavior_tv"),
    "no K": ("form * factor * policy_tv", "form * policy_tv"),
    "K of the second distance": ("- form * behavior_tv", "- form * factor * behavior_tv"),
    "K too large": ("(1.0 - sigma) / sigma", "(1.0 + sigma) / sigma"),
    "K upside down": ("(1.0 - sigma) / sigma", "sigma / (1.0 - sigma)"),
    "the tight factor too small": ("TIGHT = 1.0", "TIGHT = 0.9"),
    "the tight factor too large": ("TIGHT = 1.0", "TIGHT = 2.0"),
    "the published factor": ("PUBLISHED = 2.0", "PUBLISHED = 1.0"),
    "L of pi_t": ("expected_gain(policy_log_ratio", "expected_gain(proximal_log_ratio"),
    "L not normalised": ("rewards, cap=cap) / known", "rewards, cap=cap)"),
    "L without alpha's part": ("torch.expm1(log_ratio.double())", "log_ratio.double().exp()"),
    "L of the wrong answers": ("gain * exact, 0.0", "gain * (1.0 - exact), 0.0"),
    "pi_t for the first distance": (
        "policy_tv=tv_one_sided(policy_log_ratio)",
        "policy_tv=tv_one_sided(proximal_log_ratio)",
    ),
    "pi for the second distance": (
        "behavior_tv=tv_one_sided(proximal_log_ratio)",
        "behavior_tv=tv_one_sided(policy_log_ratio)",
    ),
    "the ratio the other way round": (
        "policy_tv=tv_one_sided(policy_log_ratio)",
        "policy_tv=tv_one_sided(-policy_log_ratio)",
    ),
    "variance for deviation": (".mean(dim=-1).sqrt()", ".mean(dim=-1)"),
}


def bound_module(monkeypatch, old="", new=""):
    """`bapo.objective.bound` with one change in its source."""
    source = inspect.getsource(bound)
    assert not old or source.count(old) >= 1
    module = types.ModuleType("changed_bound")
    monkeypatch.setitem(sys.modules, "changed_bound", module)
    exec(
        compile(source.replace(old, new) if old else source, "changed_bound", "exec"), vars(module)
    )
    return module


def is_right_on_listed_groups(module):
    """Whether both forms of a group that lists all answers are the exact ones."""
    generator = np.random.default_rng(3)
    for _ in range(20):
        counts = generator.integers(1, 6, 9)
        rewards = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        policy, proximal = (softmax(np.log(counts) + generator.normal(0, 1, 9)) for _ in range(2))
        behavior, tensors = listed_group(policy, proximal, counts, rewards)
        expected = exact_terms(policy, proximal, behavior, rewards)
        found = module.group_bounds(*tensors, cap=math.inf)
        totals = (found.total().item(), found.total(module.PUBLISHED).item())
        if totals != pytest.approx((expected.tight, expected.published), abs=1e-9):
            return False
    return True


def test_the_source_as_it_is_passes(monkeypatch):
    assert is_right_on_listed_groups(bound_module(monkeypatch))


@pytest.mark.parametrize("name", SOURCE_MUTANTS)
def test_a_wrong_sign_factor_or_source_in_the_library_is_found(name, monkeypatch):
    assert not is_right_on_listed_groups(bound_module(monkeypatch, *SOURCE_MUTANTS[name]))


def held_at_every_step(run, steps):
    """Asserts both forms, with alpha's deviation and the group's own; gives how many it checked."""
    checked = 0
    for step in range(1, steps + 1):
        batch = run.advance().composition.batch
        for entry in batch.entries:
            for of_group in (False, True):
                if of_group and entry.group.correctness_rate in (0.0, 1.0):
                    continue  # no normaliser: without the filter such groups enter
                terms = run.terms(entry, step, of_group=of_group)
                slack = ROUNDING / terms.normaliser
                assert terms.improvement >= library_bound(terms, TIGHT) - slack
                assert terms.improvement >= library_bound(terms, PUBLISHED) - slack
                assert library_bound(terms, TIGHT) >= library_bound(terms, PUBLISHED)
                checked += 1
    return checked


def sources_of(run, steps):
    return {entry.source for _ in range(steps) for entry in run.advance().composition.batch.entries}


@pytest.mark.parametrize("preset", PRESETS)
def test_it_holds_at_every_step_of_a_short_run(preset):
    run = table_run(exact_recipe(preset, steps=30, groups=6))
    assert held_at_every_step(run, 30) > 100
    assert run.value(30) > run.value(0)


def test_the_checked_run_of_bapo_has_groups_of_all_three_sources():
    assert sources_of(table_run(exact_recipe("bapo", steps=30, groups=6)), 30) == set(Source)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_it_holds_at_every_one_of_200_steps_on_a_table_of_1000_answers(preset):
    run = table_run(exact_recipe(preset, steps=200, groups=8), answers=1000)
    assert held_at_every_step(run, 200) > 400
    assert run.value(200) > run.value(0) + 0.1


def transformer_recipe(preset, steps):
    return exact_recipe(
        preset,
        steps=steps,
        groups=2,
        rollout={"max_new_tokens": 3, "max_prompt_tokens": 8},
        training={"learning_rate": 1e-3},
    )


def test_it_holds_at_every_step_of_a_short_run_of_a_transformer():
    assert held_at_every_step(transformer_run(transformer_recipe("bapo", 15)), 15) > 20


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_it_holds_at_every_one_of_200_steps_of_a_transformer(preset):
    run = transformer_run(transformer_recipe(preset, 200), prompts=4)
    assert held_at_every_step(run, 200) > 100
    assert run.value(200) > run.value(0) + 0.1
