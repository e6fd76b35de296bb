"""The C functions of a token step against the same arithmetic in torch, in float64."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bapo.errors import ModelError
from bapo.rollout import native
from bapo.rollout.native import kernels, why_no_kernels
from bapo.rollout.native_decoder import NativeCache
from bapo.types import Prompt
from tests.rollout_models import tiny_engine, tiny_policy

needs_compiler = pytest.mark.skipif(bool(why_no_kernels()), reason=why_no_kernels())


@pytest.fixture
def unbuilt():
    """Whatever is built or refused here is forgotten, before and after."""
    native._built.cache_clear()
    yield
    native._built.cache_clear()


def numbers(*shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))) * scale


@needs_compiler
@pytest.mark.parametrize("width", [1, 7, 16, 129])
def test_norms_are_those_of_float64(width):
    states, out = numbers(5, width), torch.empty(5, width)
    kernels().normalise(states, 1e-6, out)
    exact = states.double() / (states.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert (out - exact).abs().max() < 1e-6


@needs_compiler
def test_activations_are_those_of_float64_over_the_whole_range():
    gate = torch.cat([torch.linspace(-200, 200, 2001), torch.linspace(-2, 2, 2001)])[None]
    joined, out = torch.cat([gate, torch.ones_like(gate)], dim=1), torch.empty_like(gate)
    kernels().gated_activation(joined, out)
    exact = functional.silu(gate.double())
    assert ((out - exact).abs() <= 1e-6 * exact.abs() + 1e-30).all()


@needs_compiler
def test_what_is_not_a_number_stays_none():
    states, out = torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), torch.empty(2, 2)
    kernels().normalise(states, 1e-6, out)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    activated = torch.empty(2, 1)
    kernels().gated_activation(torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]), activated)
    assert activated[0].isnan()
    assert activated[1].isfinite()


def prompts_of(layers, count, heads, width, size):
    """Keys and values of each layer, `(count, heads, width, size)`."""
    states = [numbers(2, count, heads, width, size) + number for number in range(layers)]
    return [one[0] for one in states], [one[1] for one in states]


def rotated(states, angles):
    """`(..., D)` with the two of a pair side by side, turned by `(D / 2,)` angles."""
    turned = torch.view_as_complex(states.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@needs_compiler
@pytest.mark.parametrize("size", [6, 16, 24, 32, 64, 128])
@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2), (3, 1)])
def test_attention_is_that_of_float64_while_rows_come_and_go(size, heads, key_heads):
    """Two layers, fifty tokens: room is doubled twice, rows leave, others join with new prompts."""
    begun = {
        0: (5, torch.tensor([0, 3, 1]), [0, 0, 1, 2, 2, 2]),
        11: (8, torch.tensor([2, 0]), [1]),
    }
    left = {7: [5, 1, 2, 3, 4], 20: [5, 1, 2], 45: [5]}  # a last row takes the place of another
    cache = NativeCache(2, (heads, key_heads, size), 50)
    angles = torch.rand(80, size // 2, generator=torch.Generator().manual_seed(1)).double()
    table = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1).float().contiguous()
    seen: list[list[list[tuple]]] = []  # of each row, layer and position: key and value
    rows: list[int] = []
    generator = torch.Generator().manual_seed(2)
    for token in range(50):
        if token in begun:
            width, pads, prompt_of_row = begun[token]
            keys, values = prompts_of(2, len(pads), key_heads, width, size)
            cache.join(keys, values, pads, prompt_of_row)
            rows += range(len(seen), len(seen) + len(prompt_of_row))
            for prompt in prompt_of_row:
                told = range(int(pads[prompt]), width)
                seen.append(
                    [
                        [(k[prompt, :, at].double(), v[prompt, :, at].double()) for at in told]
                        for k, v in zip(keys, values, strict=True)
                    ]
                )
        if token in left:
            after = [row for row in left[token] if row in rows] + [row for row in rows if row > 5]
            targets = [place for place, row in enumerate(after) if rows[place] != row]
            sources = [rows.index(after[place]) for place in targets]
            cache.keep(len(after), torch.tensor(targets), torch.tensor(sources))
            rows = after
        positions = torch.tensor([10 + row + token for row in rows])
        for number in range(2):
            qkv = torch.randn(len(rows), (heads + 2 * key_heads) * size, generator=generator)
            out = torch.empty(len(rows), heads * size)
            given = qkv.double().view(len(rows), -1, size)
            kernels().attend(cache.layer(number), qkv, table, positions, out)
            for place, row in enumerate(rows):
                turn = angles[positions[place]]
                key = rotated(given[place, heads : heads + key_heads], turn)
                seen[row][number].append((key, given[place, heads + key_heads :]))
                keys, values = (
                    torch.stack(one, dim=1) for one in zip(*seen[row][number], strict=True)
                )
                queries = rotated(given[place, :heads], turn).view(key_heads, -1, size)
                exact = torch.softmax(queries @ keys.transpose(1, 2), -1) @ values
                got = out[place].view_as(exact)
                assert (got - exact).abs().max() < 2e-5 * (1 + exact.abs().max())
        cache.advance()


@needs_compiler
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [1, 2, 21, 127, 128, 129, 1000, 150_001])
def test_drawn_tokens_and_their_log_probs_are_those_of_float64(vocabulary, temperature):
    """Even and steep distributions; a third of the tokens is impossible in half of the rows."""
    rows = 6 if vocabulary > 1000 else 400
    logits = numbers(rows, vocabulary) * torch.linspace(0, 12, rows)[:, None]
    logits[::2, ::3] = -torch.inf if vocabulary > 1 else 0.0
    uniforms = torch.rand(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    uniforms[:2], uniforms[2:4] = 0.0, math.nextafter(1.0, 0.0)
    tokens, logps = kernels().draw(logits, uniforms, temperature)
    exact = torch.log_softmax(logits.double() / temperature, dim=-1)
    picked = exact.gather(1, tokens[:, None])[:, 0]
    ends = exact.exp().cumsum(-1).gather(1, tokens[:, None])[:, 0]
    # Half of float32's last place, and the sum's own error; torch's is up to 1e-5 here.
    assert ((logps - picked).abs() < 2e-7 + 6e-8 * picked.abs()).all()
    assert (ends > uniforms - 2e-7).all()
    assert (ends - picked.exp() <= uniforms + 2e-7).all()
    assert picked.isfinite().all()


@needs_compiler
def test_drawing_inverts_the_cumulative_distribution_and_passes_impossible_tokens_over():
    logits = torch.log(torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])).expand(7, 6).contiguous()
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 0.0, 1.0]).double()
    uniforms[5] = math.nextafter(1.0, 0.0)
    tokens, logps = kernels().draw(logits, uniforms, 1.0)
    assert tokens.tolist() == [1, 1, 3, 3, 4, 4, 4]
    assert torch.allclose(logps.exp(), torch.tensor([0.25, 0.25, 0.5, 0.5, 0.25, 0.25, 0.25]))
    long = torch.full((3, 1000), -torch.inf)
    long[:, [200, 700]] = 0.0  # whole blocks of impossible tokens before, between and behind
    tokens, logps = kernels().draw(long, torch.tensor([0.0, 0.5, 1.0]).double(), 1.0)
    assert tokens.tolist() == [200, 700, 700]
    assert logps.tolist() == pytest.approx([math.log(0.5)] * 3)


@needs_compiler
def test_every_temperature_is_drawn_at():
    logits = torch.tensor([[1.0, 3.0, 2.0, -3e38]]).expand(4, 4).contiguous()
    uniforms = torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    for tiny in (1e-3, 1e-30):
        tokens, logps = kernels().draw(logits, uniforms, tiny)
        assert (tokens.tolist(), logps.tolist()) == ([1] * 4, [0.0] * 4)
    tokens, logps = kernels().draw(logits[:, :3].contiguous(), uniforms, 1e30)
    assert tokens.tolist() == [0, 0, 1, 2]
    assert logps.tolist() == pytest.approx([-math.log(3)] * 4)


@needs_compiler
@pytest.mark.parametrize("vocabulary", [1, 21, 300])
@pytest.mark.parametrize("broken", ["nan", "inf", "all -inf"])
def test_logits_that_are_not_finite_give_such_log_probs_in_their_row_alone(vocabulary, broken):
    for place in {0, vocabulary // 2, vocabulary - 1}:
        logits = numbers(3, vocabulary)
        if broken == "all -inf":
            logits[1] = -torch.inf
        else:
            logits[1, place] = float(broken)
        for uniform in (0.0, 0.5, math.nextafter(1.0, 0.0)):
            uniforms = torch.full((3,), uniform, dtype=torch.float64)
            tokens, logps = kernels().draw(logits, uniforms, 1.0)
            assert logps.isfinite().tolist() == [True, False, True]
            assert ((tokens >= 0) & (tokens < vocabulary)).all()


@needs_compiler
def test_drawing_does_not_depend_on_the_number_of_threads():
    logits, before = numbers(37, 500, scale=3.0), torch.get_num_threads()
    uniforms = torch.rand(37, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    try:
        torch.set_num_threads(1)
        tokens, logps = kernels().draw(logits, uniforms, 0.9)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            again = kernels().draw(logits, uniforms, 0.9)
            assert torch.equal(again[0], tokens)
            assert torch.equal(again[1], logps)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_only_the_native_decoder_draws_in_c(monkeypatch):
    draw, drawn = native.Kernels.draw, []

    def counted(self, logits, uniforms, temperature):
        drawn.append(len(logits))
        return draw(self, logits, uniforms, temperature)

    monkeypatch.setattr(native.Kernels, "draw", counted)
    for decoder, found in (("native", [3]), ("torch", []), ("module", [])):
        drawn.clear()
        engine = tiny_engine(max_new_tokens=2, decoder=decoder)
        engine.sample(
            [Prompt("p", "1", {})], version=0, group_size=3, step=1, seed=0, temperature=1.0
        )
        assert drawn[:1] == found


@needs_compiler
def test_completions_do_not_depend_on_the_number_of_threads():
    policy = tiny_policy()
    prompts = [Prompt(f"p{number}", "12+3=" * (number % 3 + 1), {}) for number in range(6)]
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            engine = tiny_engine(policy, decoder="native", max_new_tokens=40)
            rollouts = engine.sample(
                prompts, version=0, group_size=8, step=1, seed=0, temperature=1.0
            )
            made.append([one for rollout in rollouts for one in rollout.completions])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*made, strict=True):
        assert np.array_equal(one.token_ids, other.token_ids)
        assert np.abs(one.behavior_logps - other.behavior_logps).max() < 1e-5


def test_without_a_compiler_torch_takes_over_and_asking_for_c_is_refused(monkeypatch, unbuilt):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert why_no_kernels() == "there is no C compiler 'no-such-compiler'"
    assert tiny_engine().decoder == "torch"
    with pytest.raises(ModelError, match="no C compiler 'no-such-compiler'; install a C compiler"):
        tiny_engine(decoder="native")


def test_a_compiler_that_fails_is_quoted(monkeypatch, unbuilt, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert why_no_kernels() == f"the C compiler '{broken}' fails: out of luck"


def test_a_compiler_that_hangs_is_ended_with_what_it_started_and_said(
    monkeypatch, unbuilt, tmp_path
):
    hanging, started = tmp_path / "cc", tmp_path / "started"
    hanging.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {started}\nwait\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("CC", str(hanging))
    monkeypatch.setattr(native, "_BUILD_SECONDS", 0.5)
    assert why_no_kernels() == f"the C compiler '{hanging}' took longer than 0.5 seconds"
    assert tiny_engine().decoder == "torch"
    child = Path(f"/proc/{started.read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


@needs_compiler
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_cc_is_none(monkeypatch, unbuilt, empty):
    monkeypatch.setenv("CC", empty)
    assert why_no_kernels() == ""


def test_a_cc_that_is_no_command_is_quoted(monkeypatch, unbuilt):
    monkeypatch.setenv("CC", "gcc 'unclosed")
    assert why_no_kernels() == "CC is no command, gcc 'unclosed: No closing quotation"


@needs_compiler
def test_without_a_temporary_folder_torch_takes_over(monkeypatch, unbuilt, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert "No such file or directory" in why_no_kernels()
    assert tiny_engine().decoder == "torch"


@needs_compiler
def test_what_c_would_misread_is_not_handed_over():
    states, out = torch.ones(4, 6), torch.empty(4, 6)
    for wrong in (states.double(), torch.ones(6, 4).t(), torch.ones(4, 12)[:, :6]):
        with pytest.raises(AssertionError):
            kernels().normalise(wrong, 1e-6, out)
    with pytest.raises(AssertionError):
        kernels().gated_activation(states, out)
    uniforms = torch.rand(4, dtype=torch.float64)
    for wrong in (
        (states.double(), uniforms),
        (torch.ones(6, 4).t(), uniforms),
        (states, uniforms.float()),
        (states, uniforms[:3]),
        (states, torch.rand(4, 2, dtype=torch.float64)[:, 0]),
    ):
        with pytest.raises(AssertionError):
            kernels().draw(*wrong, 1.0)


@needs_compiler
def test_a_row_without_room_for_its_newest_token_is_not_attended():
    cache = NativeCache(1, (1, 1, 4), 1)
    cache.join(*prompts_of(1, 1, 1, 3, 4), torch.tensor([0]), [0])
    arguments = (torch.ones(1, 12), torch.ones(2, 4), torch.tensor([1]), torch.empty(1, 4))
    kernels().attend(cache.layer(0), *arguments)
    cache.advance()
    with pytest.raises(AssertionError):
        kernels().attend(cache.layer(0), *arguments)


@needs_compiler
def test_prompts_that_no_row_continues_are_let_go_and_the_others_found_again():
    pads, heads, size = torch.tensor([0, 2, 1, 0]), 2, 4
    caches = []
    for rows in ([0, 1, 2, 3], [3, 1]):
        caches.append(NativeCache(2, (heads, heads, size), 4))
        caches[-1].join(*prompts_of(2, 4, heads, 5, size), pads, rows)
    caches[0].keep(2, torch.tensor([0]), torch.tensor([3]))
    table, positions = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.zeros(3, dtype=torch.int64)
    found = []
    for cache in caches:
        cache.join(*prompts_of(2, 1, heads, 7, size), torch.tensor([1]), [0])
        assert [len(one) for layer in caches[0]._prompts for one in layer] == [heads * 17] * 4
        out = torch.empty(3, heads * size)
        kernels().attend(cache.layer(1), numbers(3, 3 * heads * size), table, positions, out)
        found.append(out)
    assert torch.equal(*found)


@needs_compiler
def test_the_room_of_rows_that_ended_is_given_to_rows_that_join():
    cache = NativeCache(1, (1, 1, 4), 8)
    cache.join(*prompts_of(1, 4, 1, 3, 4), torch.zeros(4, dtype=torch.int64), [0, 1, 2, 3])
    cache.keep(3, torch.tensor([1]), torch.tensor([3]))
    before = cache._own[0][0].data_ptr()
    cache.join(*prompts_of(1, 1, 1, 5, 4), torch.tensor([0]), [0])
    assert cache._own[0][0].data_ptr() == before
    assert sorted(cache._of_row["place"].tolist()) == [0, 1, 2, 3]


@needs_compiler
def test_a_model_that_no_decoder_knows_is_run_by_its_module_or_refused():
    policy = tiny_policy("gpt2")
    assert tiny_engine(policy).decoder == "module"
    for asked in ("native", "torch"):
        with pytest.raises(ModelError, match=f"'rollout.decoder' is {asked}.*GPT2LMHeadModel"):
            tiny_engine(policy, decoder=asked)


@needs_compiler
def test_building_leaves_no_file_behind(monkeypatch, tmp_path, unbuilt):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kernels()
    assert list(tmp_path.iterdir()) == []
