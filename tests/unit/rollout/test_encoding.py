import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from bapo.errors import DataError, ModelError, SettingError
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.pictures import PictureReader
from bapo.tasks import open_image
from bapo.types import ChatMessage, Prompt
from tests.picture_models import figure_prompts, loaded_picture_policy
from tests.rollout_models import character_tokenizer

CHAT = Prompt("chat", (ChatMessage("user", "1+2"), ChatMessage("assistant", "3")), {})
TEMPLATE = (
    "{% for turn in messages %}{{ turn.role[0] }}({{ turn.content }}){% endfor %}"
    "{% if add_generation_prompt %}a({% endif %}"
)


def encoder(tokenizer=None, *, prompt_tokens=10, positions=None, new_tokens=5) -> PromptEncoder:
    return PromptEncoder(tokenizer or character_tokenizer(), prompt_tokens, positions, new_tokens)


def test_plain_text_is_taken_as_it_is():
    ids = encoder().encode(Prompt("p", "10 2\n", {}))
    assert ids.dtype == np.int32
    assert encoder().decode(ids) == "10 2\n"
    assert ids.tolist() == [3, 2, 22, 4, 23]


def test_a_start_token_is_kept_and_an_end_token_is_not_added():
    tokenizer = character_tokenizer()
    tokenizer.bos_token = "<pad>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 0), ("<eos>", 1)]
    )
    assert tokenizer("1")["input_ids"] == [0, 3, 1]
    assert encoder(tokenizer).encode(Prompt("p", "1", {})).tolist() == [0, 3]


def test_a_chat_goes_through_the_template_up_to_the_assistants_turn():
    tokenizer = character_tokenizer("123+u()a")
    tokenizer.chat_template = TEMPLATE
    made = encoder(tokenizer)
    assert made.decode(made.encode(CHAT)) == "u(1+2)a(3)a("


def test_a_chat_without_a_template_is_refused():
    with pytest.raises(ModelError, match="'chat' is a chat, but the model's tokenizer has no"):
        encoder().encode(CHAT)


def test_decoding_leaves_special_tokens_out():
    assert encoder().decode([3, 0, 4, 1]) == "12"


def test_prompts_that_fit_pass_the_check():
    encoder().check([Prompt("a", "1", {}), Prompt("b", "1" * 10, {})])


def test_long_prompts_are_refused_with_their_names_their_number_and_the_longest():
    prompts = [Prompt(f"p{size}", "1" * size, {}) for size in (3, 11, 12, 13, 14)]
    with pytest.raises(DataError) as caught:
        encoder().check(prompts)
    assert str(caught.value).startswith(
        "4 of 5 prompts are longer than 10 tokens (the longest has 14): 'p11', 'p12', 'p13' and "
        "others; "
    )


def test_the_models_positions_limit_prompts_too():
    made = encoder(positions=12, new_tokens=5)
    made.check([Prompt("fits", "1" * 7, {})])
    with pytest.raises(DataError, match="longer than 7 tokens"):
        made.check([Prompt("long", "1" * 8, {})])


def test_new_tokens_that_leave_no_room_for_a_prompt_are_refused():
    with pytest.raises(SettingError, match=r"'rollout\.max_new_tokens' is 12, but the model has"):
        encoder(positions=12, new_tokens=12)


def test_empty_prompts_and_an_empty_list_are_refused():
    with pytest.raises(DataError, match="1 of 2 prompts have no tokens: 'blank'"):
        encoder().check([Prompt("a", "1", {}), Prompt("blank", "", {})])
    with pytest.raises(DataError, match="There are no prompts"):
        encoder().check([])


THINKING = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}){% endif %}"


def chat_encoder(**values):
    tokenizer = character_tokenizer("123+u()a")
    tokenizer.chat_template = THINKING
    return PromptEncoder(tokenizer, 100, None, 5, chat_values=values)


def test_values_of_the_recipe_reach_the_chat_template():
    for values, text in (
        ({}, "u(1+2)a(3)a("),
        ({"enable_thinking": True}, "u(1+2)a(3)a("),
        ({"enable_thinking": False}, "u(1+2)a(3)a()"),
    ):
        made = chat_encoder(**values)
        assert made.decode(made.encode(CHAT)) == text


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt"])
def test_an_argument_that_is_not_the_templates_is_refused(name):
    with pytest.raises(SettingError, match=f"has the name '{name}', which is an argument of"):
        chat_encoder(**{name: False})


def test_values_reach_the_template_of_a_processor_too(tmp_path):
    policy = loaded_picture_policy(tmp_path, "llava")
    processor = policy.processor
    processor.chat_template += "{% if not enable_thinking | default(true) %}12{% endif %}"
    reader = PictureReader(processor, policy.model, open_image)
    (prompt, *_) = figure_prompts(1)
    for values, end in (({}, ">"), ({"enable_thinking": False}, ">12")):
        made = PromptEncoder(policy.tokenizer, 200, None, 5, reader, values)
        assert made.decode(made.encode(prompt)).endswith(end)
