import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

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


def test_many_prompts_are_encoded_as_each_by_itself(monkeypatch):
    """Plain texts, one of them empty, among chats; two texts and the start token at a time."""
    monkeypatch.setattr("bapo.rollout.encoding._TEXTS_AT_ONCE", 2)
    tokenizer = character_tokenizer("123+u()a")
    tokenizer.chat_template = TEMPLATE
    tokenizer.bos_token = "<pad>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 0)]
    )
    made = encoder(tokenizer)
    contents = ["1", CHAT.content, "12+3", "", "3", "2", CHAT.content]
    prompts = [Prompt(f"p{n}", content, {}) for n, content in enumerate(contents)]
    expected = [
        tokenizer.encode(content) if isinstance(content, str) else made.encode(CHAT).tolist()
        for content in contents
    ]
    assert [len(ids) for ids in expected] == [2, 12, 5, 1, 2, 2, 12]
    together = made.encode_all(prompts)
    assert [ids.tolist() for ids in together] == expected
    assert all(ids.dtype == np.int32 for ids in together)
    assert [made.encode(prompt).tolist() for prompt in prompts] == expected
    assert made.encode_all([]) == []


def test_each_prompt_is_named_with_a_fault_of_its_own():
    texts = {"fits": "1", "empty": "", "long": "1" * 11, "fits too": "1" * 10}
    found = encoder().faults([Prompt(name, text, {}) for name, text in texts.items()])
    assert list(found) == ["empty", "long"]
    assert found["empty"].startswith("its prompt has no tokens")
    assert found["long"].startswith("its prompt has 11 tokens, more than the 10 that fit")


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


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, as in byte-level BPE, and a merged one."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "\u0120t"])}
    backend = Tokenizer(models.BPE(vocabulary, [("\u0120", "t")]))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces with a mark for the space, and tokens of single bytes, as in sentencepiece."""
    pieces = ["<unk>", "\u2581", "\u2581a", "b", ".", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words and ends of words, whose decoder puts spaces between them."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "one", "##s", "."])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True)


@pytest.mark.parametrize(
    "make", [character_tokenizer, byte_tokenizer, piece_tokenizer, word_tokenizer]
)
def test_texts_are_those_of_transformers(make):
    """Half characters, special and other added tokens, and tokens behind the vocabulary."""
    tokenizer = make()
    tokenizer.add_special_tokens({"eos_token": "<end>", "additional_special_tokens": ["<turn>"]})
    tokenizer.add_tokens(["<think>", AddedToken("tool", lstrip=True, rstrip=True)])
    generator, highest = np.random.default_rng(0), len(tokenizer) + 3
    rows = [generator.integers(0, highest, size).astype(np.int32) for size in (0, 1, 2, 7, 400)]
    rows += [generator.integers(0, highest, 3).astype(np.int32) for _ in range(300)]
    expected = [
        tokenizer.decode(row.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for row in rows
    ]
    made = encoder(tokenizer)
    assert made._decodes_alone
    assert made.decode_all(rows) == expected
    assert made.decode_all([row.tolist() for row in rows]) == expected


class ShoutingTokenizer(PreTrainedTokenizerFast):
    def _decode(self, *args, **kwargs):
        return super()._decode(*args, **kwargs).upper() + "!"


def test_a_tokenizer_with_a_decoding_of_its_own_is_asked_for_it():
    backend = word_tokenizer().backend_tokenizer
    assert encoder(ShoutingTokenizer(tokenizer_object=backend)).decode([1, 2]) == "ONES!"
    patched = PreTrainedTokenizerFast(tokenizer_object=backend)
    patched._decode = lambda *_, **__: "patched"
    assert encoder(patched).decode([1, 2]) == "patched"


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
