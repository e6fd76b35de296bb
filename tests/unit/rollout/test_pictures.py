"""Image-text models: encoded, sampled and scored as transformers itself would read them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bapo.errors import DataError, ModelError
from bapo.rollout import PictureReader, ScoreRow
from bapo.rollout.module_decoder import ModuleDecoder
from bapo.rollout.processors import picture_token_ids
from bapo.tasks import open_image
from bapo.types import IMAGE_MARK, ImageKind, ImageReference, Prompt
from tests.picture_models import (
    ARCHITECTURES,
    figure_prompts,
    loaded_picture_policy,
    picture_engine,
)
from tests.rollout_models import tiny_engine


@pytest.fixture(scope="module", params=ARCHITECTURES)
def policy(request, tmp_path_factory):
    return loaded_picture_policy(tmp_path_factory.mktemp(request.param), request.param)


def sampled(engine, prompts, group_size=3, temperature=0.9):
    return engine.sample(
        prompts, version=0, group_size=group_size, step=1, seed=0, temperature=temperature
    )


def own_forward(policy, prompt, ids, completion):
    """Log-probabilities by transformers alone: its processor's inputs, its own positions."""
    text = policy.processor.tokenizer.decode(ids)
    given = {"input_ids": torch.tensor([[*ids, *completion]])}
    if prompt.images:
        image_token = policy.processor.image_token
        for run in sorted(_runs(text, image_token), key=len, reverse=True):
            text = text.replace(run, image_token)
        read = policy.processor(
            text=[text], images=[[open_image(one) for one in prompt.images]], return_tensors="pt"
        )
        assert read["input_ids"][0].tolist() == list(ids)
        given |= {key: value for key, value in read.items() if key not in given}
        given.pop("attention_mask")
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in given:
                more = torch.zeros((1, len(completion)), dtype=given[name].dtype)
                given[name] = torch.cat((given[name], more), dim=1)
    with torch.no_grad():
        logits = policy.model(**given, use_cache=False).logits[0, len(ids) - 1 : -1]
    logps = torch.log_softmax(logits / 0.9, dim=-1)
    return logps.gather(1, torch.tensor(completion)[:, None])[:, 0].numpy()


def _runs(text, token):
    """The tokens of each picture as the text shows them; Idefics3 has more than one kind."""
    around = "<fake_token_around_image>"
    if around in text:
        start, end = text.index(around), text.rindex(around) + len(around)
        return [text[start:end]]
    start, end = text.index(token), text.rindex(token) + len(token)
    return [text[start:end]]


def test_the_samplers_log_probabilities_are_those_of_transformers_own_forward_pass(policy):
    rollouts = sampled(picture_engine(policy), figure_prompts(4))
    assert len({len(one.prompt_token_ids) for one in rollouts}) > 1  # some are padded
    for rollout in rollouts:
        for one in rollout.completions:
            expected = own_forward(
                policy, rollout.prompt, rollout.prompt_token_ids, one.token_ids.tolist()
            )
            np.testing.assert_allclose(one.behavior_logps, expected, atol=2e-5)


def test_scores_of_whole_rows_are_those_of_the_sampler(policy):
    engine = picture_engine(policy)
    rollouts = sampled(engine, figure_prompts(4))
    rows = [
        ScoreRow(rollout.prompt_token_ids, one.token_ids, rollout.prompt.images)
        for rollout in rollouts
        for one in rollout.completions
    ]
    made = [one.behavior_logps for rollout in rollouts for one in rollout.completions]
    for score, logps in zip(engine.score(rows, version=0, temperature=0.9), made, strict=True):
        np.testing.assert_allclose(score, logps, atol=2e-5)


def test_a_picture_in_several_rows_is_seen_once_and_every_row_learns_from_it(policy, monkeypatch):
    prompts = figure_prompts(3)
    rollouts = sampled(picture_engine(policy), prompts)
    reader = PictureReader(policy.processor, policy.model, open_image)
    rows = [(rollout.prompt.images, rollout.prompt_token_ids) for rollout in rollouts]
    width = max(len(ids) for _, ids in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    for line, (_, row) in zip(ids, rows, strict=True):
        line[: len(row)] = torch.from_numpy(row)
    seen = []
    real = policy.model.get_image_features

    def counted(pixel_values, **others):
        seen.append(len(pixel_values))
        return real(pixel_values, **others)

    def gradients(number):
        """Of a loss that reads every row `number` times."""
        inputs = reader.inputs(rows * number, width).arguments
        logits = policy.model(input_ids=ids.repeat(number, 1), use_cache=False, **inputs).logits
        policy.model.zero_grad()
        (logits.softmax(dim=-1)[:, -1, 3].sum() / number).backward()
        return {
            name: value.grad.clone()
            for name, value in policy.model.named_parameters()
            if value.grad is not None
        }

    apart = gradients(1)
    monkeypatch.setattr(policy.model, "get_image_features", counted)
    together = gradients(3)
    once = reader.inputs(rows, width).arguments["pixel_values"]
    assert seen == [len(once)]
    assert apart.keys() == together.keys()
    assert any("vision" in name or "visual" in name for name in apart)
    for name, value in apart.items():
        np.testing.assert_allclose(together[name], value, atol=1e-4 * float(value.abs().max() + 1))


def test_a_completion_does_not_depend_on_what_else_is_sampled(policy):
    prompts = figure_prompts(4)
    together = sampled(picture_engine(policy), prompts)
    engine = picture_engine(policy)
    for prompt, expected in zip(prompts, together, strict=True):
        (alone,) = sampled(engine, [prompt])
        texts = [[one.text for one in rollout.completions] for rollout in (alone, expected)]
        assert texts[0] == texts[1]


def test_prompts_with_pictures_join_rows_that_are_live_and_change_no_completion(
    policy, monkeypatch
):
    prompts = figure_prompts(7)
    together = sampled(picture_engine(policy, max_new_tokens=24), prompts, temperature=3.0)
    beside, join = [], ModuleDecoder.join

    def counted(self, store, joining, prompt_of_row):
        beside.append(len(store._first))
        return join(self, store, joining, prompt_of_row)

    monkeypatch.setattr(ModuleDecoder, "join", counted)
    longest = max(len(one.prompt_token_ids) for one in together)
    engine = picture_engine(policy, max_new_tokens=24, token_budget=8 * (longest + 24))
    for one, other in zip(together, sampled(engine, prompts, temperature=3.0), strict=True):
        for left, right in zip(one.completions, other.completions, strict=True):
            assert left.token_ids.tolist() == right.token_ids.tolist()
            np.testing.assert_allclose(left.behavior_logps, right.behavior_logps, atol=2e-5)
    assert any(beside)


def test_the_picture_decides_what_is_sampled(policy):
    engine = picture_engine(policy)
    shown = figure_prompts(2)[1]
    blank = replace(shown, images=tuple(replace(one, blank=True) for one in shown.images))
    (seen,), (unseen,) = sampled(engine, [shown]), sampled(engine, [blank])
    assert len(seen.prompt_token_ids) == len(unseen.prompt_token_ids)
    first = [rollout.completions[0].behavior_logps[0] for rollout in (seen, unseen)]
    assert abs(first[0] - first[1]) > 1e-4


def test_pixels_that_left_the_cache_are_made_again_bit_for_bit(policy):
    prompts = figure_prompts(4)[1:-1]
    rows = [(one.images, picture_engine(policy).encoder.encode(one)) for one in prompts]
    width = max(len(ids) for _, ids in rows)
    wide, narrow = (
        PictureReader(policy.processor, policy.model, open_image, cache_bytes=size)
        for size in (1 << 29, 1)
    )
    first = wide.inputs(rows, width).arguments
    for _ in range(2):
        again = narrow.inputs(rows, width).arguments
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert len(narrow._cache) == 1


def test_no_token_of_a_picture_is_ever_written(policy):
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        shares = policy.model(input_ids=ids).logits.softmax(dim=-1)
    assert float(shares[..., list(picture_token_ids(policy.processor))].max()) == 0.0
    np.testing.assert_allclose(shares.sum(dim=-1), 1.0, atol=1e-5)


def test_what_is_wrong_with_a_prompt_is_said_before_anything_is_sampled(policy, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    encoder = picture_engine(policy).encoder
    good = figure_prompts(2)[1]
    missing = ImageReference(ImageKind.FILE, str(tmp_path / "none.png"))
    broken = ImageReference(ImageKind.FILE, str(tmp_path / "broken.png"))
    prompts = [
        replace(good, prompt_id="missing", images=(missing,)),
        replace(good, prompt_id="broken", images=(broken,)),
        Prompt("bare", f"{policy.processor.image_token}1+2=", {}),
        replace(good, prompt_id="two marks", content=f"{IMAGE_MARK}{IMAGE_MARK}x?"),
        good,
    ]
    faults = encoder.faults(prompts)
    assert list(faults) == ["missing", "broken", "bare", "two marks"]
    assert faults["missing"] == (
        f"the picture '{tmp_path / 'none.png'}' cannot be read: there is no such file; replace it "
        "or remove the row"
    )
    assert "it is no picture of a known kind" in faults["broken"]
    assert "holds the model's own token for a picture" in faults["bare"]
    assert "cannot read the picture" in faults["two marks"]


def test_a_model_of_text_alone_refuses_pictures():
    with pytest.raises(ModelError, match="shows a picture, but the model reads text alone"):
        tiny_engine().encoder.encode(figure_prompts(2)[1])


def test_a_chat_without_a_template_is_refused(policy):
    encoder = picture_engine(policy).encoder
    template = policy.processor.chat_template
    policy.processor.chat_template = policy.processor.tokenizer.chat_template = None
    try:
        with pytest.raises(ModelError, match="has no chat template"):
            encoder.encode(figure_prompts(2)[0])
    finally:
        policy.processor.chat_template = template


def test_a_picture_that_is_gone_is_an_error_of_its_own():
    with pytest.raises(DataError, match="cannot be read: there is no such file"):
        open_image(ImageReference(ImageKind.FILE, "nowhere/figure.png"))
