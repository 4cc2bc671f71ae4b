"""Prompts byte for byte, and the ids and labels that training makes of them."""

from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.prompt import IGNORE_INDEX, PROMPT_TYPES, Encoded, encode, render
from vicuna.tokenizer import TextTokenizer

GOLDEN = Path(__file__).parent / "golden"


def user(content: str, extra: str | None = None) -> dict:
    return {"role": "user", "content": content} | ({} if extra is None else {"input": extra})


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


HELLO = [user("你好"), assistant("你好！有什么可以帮你？")]
LLAMA = [user("What is a llama?"), assistant("An animal.")]
QUESTION = [user("写一句关于春天的话。")]
ANSWERS = [
    "春风吹来。",
    "Spring.",
    " a space first",
    '"quoted"',
    "# heading",
    "\nnew line",
    "🦙𠮷 é",
    "1+1=2",
    "\ttab  x",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base) -> TextTokenizer:
    return TextTokenizer(tiny_base)


@pytest.fixture(scope="module")
def plain(tiny_base):
    """SentencePiece itself, as any other tool would use it."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(tiny_base / "tokenizer.model"))


def answer_ids(example: Encoded) -> list[int]:
    return [label for label in example.labels if label != IGNORE_INDEX]


@pytest.mark.parametrize(
    ("name", "prompt_type", "messages"),
    [
        ("instruct", "instruct", [user("用一句话描述地球为什么是独一无二的。")]),
        ("instruct", "instruct", [user("用一句话描述地球为什么是独一无二的。", "")]),
        ("instruct_input", "instruct", [user("找出文中的人名。", "小明和小红昨天一起去了公园。")]),
        ("instruct_history", "instruct", [*HELLO, *LLAMA, user("它吃什么？")]),
        ("chat", "chat", [user("你好")]),
        ("chat", "chat", [user(" 你好\n")]),
        ("chat_history", "chat", [*HELLO, user("What is a llama?")]),
        ("chat_history", "chat", [user("你好\n"), assistant(" 你好！有什么可以帮你？ "), user(" What is a llama?")]),
    ],
)
def test_a_prompt_is_that_of_the_published_adapters_byte_for_byte(name, prompt_type, messages):
    assert render(prompt_type, messages).encode() == (GOLDEN / f"{name}.txt").read_bytes()


def test_the_text_prompt_type_adds_nothing():
    assert render("text", [user("题：春\n")]) == "题：春\n"
    assert render("text", [user("题", "春")]) == "题\n春"


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
@pytest.mark.parametrize(
    "text", ["{content}", "f'{x}' {{y}} {0}", "%s %d \\n", "User:\n\nAssistant:", "### Response:\n"]
)
def test_braces_and_template_words_of_a_user_stay_as_they_are(prompt_type, text):
    assert text.strip() in render(prompt_type, [user(text)])


@pytest.mark.parametrize(
    "messages",
    [
        [assistant("你好")],
        [user("a"), user("b")],
        [user("a"), assistant("b")],
        [{"role": "system", "content": "x"}, user("a")],
    ],
)
def test_messages_that_do_not_alternate_are_refused(messages):
    with pytest.raises(UserError, match="must be user, assistant, …, user; found"):
        render("chat", messages)


def test_a_dialogue_is_refused_by_the_prompt_type_without_turns():
    with pytest.raises(UserError, match="--prompt_type text has no earlier turns; use chat or instruct"):
        render("text", [*HELLO, user("x")])


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_labels_are_exactly_the_answer_and_eos(tokenizer, prompt_type):
    example = encode(tokenizer, prompt_type, [*QUESTION, assistant("春风吹来。")], 256)

    assert not example.cut
    assert answer_ids(example) == [*tokenizer.encode_continuation("春风吹来。"), tokenizer.eos_id]
    assert len(example.labels) == len(example.input_ids)
    first = example.labels.index(answer_ids(example)[0])
    assert example.labels[:first] == [IGNORE_INDEX] * first
    assert example.labels[first:] == example.input_ids[first:]


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_ids_decode_to_exactly_prompt_and_answer(tokenizer, plain, prompt_type, answer):
    example = encode(tokenizer, prompt_type, [*QUESTION, assistant(answer)], 512)

    assert example.input_ids[0] == tokenizer.bos_id
    assert example.input_ids[-1] == tokenizer.eos_id
    assert plain.decode(example.input_ids[1:-1]) == render(prompt_type, QUESTION) + answer
    assert tokenizer.decode_continuation(answer_ids(example)) == answer


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_plain_document_decodes_to_itself_and_is_learnt_whole(tokenizer, plain, answer):
    example = encode(tokenizer, "text", [assistant(answer)], 512)

    assert plain.decode(example.input_ids[1:-1]) == answer
    assert example.labels == [IGNORE_INDEX, *example.input_ids[1:]]


def test_an_example_as_long_as_the_cut_keeps_its_eos(tokenizer):
    messages = [*QUESTION, assistant("春风吹来，河边的柳树绿了。")]
    whole = encode(tokenizer, "instruct", messages, 512)
    exact = encode(tokenizer, "instruct", messages, len(whole.input_ids))

    assert exact == whole
    assert not exact.cut
    assert exact.input_ids[-1] == tokenizer.eos_id


def test_an_example_one_token_too_long_loses_only_its_eos(tokenizer):
    messages = [*QUESTION, assistant("春风吹来，河边的柳树绿了。")]
    whole = encode(tokenizer, "instruct", messages, 512)
    cut = encode(tokenizer, "instruct", messages, len(whole.input_ids) - 1)

    assert cut.cut
    assert cut.input_ids == whole.input_ids[:-1]
    assert cut.labels == whole.labels[:-1]
    assert tokenizer.eos_id not in cut.input_ids


def test_a_longer_answer_loses_its_end_and_never_its_prompt(tokenizer):
    messages = [*QUESTION, assistant("春风吹来，" * 50)]
    prompt = [tokenizer.bos_id, *tokenizer.encode(render("instruct", QUESTION))]
    cut = encode(tokenizer, "instruct", messages, len(prompt) + 5)

    assert cut.input_ids[: len(prompt)] == prompt
    assert answer_ids(cut) == tokenizer.encode_continuation("春风吹来，" * 50)[:5]


def test_a_row_with_room_for_one_answer_token_is_kept(tokenizer):
    prompt = [tokenizer.bos_id, *tokenizer.encode(render("instruct", QUESTION))]
    kept = encode(tokenizer, "instruct", [*QUESTION, assistant("春风吹来。")], len(prompt) + 1)

    assert len(answer_ids(kept)) == 1


def test_a_row_without_room_for_an_answer_token_is_left_out(tokenizer):
    prompt = [tokenizer.bos_id, *tokenizer.encode(render("instruct", QUESTION))]

    assert encode(tokenizer, "instruct", [*QUESTION, assistant("春风吹来。")], len(prompt)) is None


def test_a_row_without_an_answer_is_left_out(tokenizer):
    assert encode(tokenizer, "instruct", [*QUESTION, assistant("")], 512) is None


def test_train_on_inputs_labels_everything_but_bos(tokenizer):
    example = encode(tokenizer, "instruct", [*QUESTION, assistant("春风吹来。")], 512, train_on_inputs=True)

    assert example.labels == [IGNORE_INDEX, *example.input_ids[1:]]


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "a</s>b<s>c<unk>d", "<0x0A>", " </s> <s>"])
def test_control_words_in_a_users_text_never_become_control_ids(tokenizer, plain, text):
    example = encode(tokenizer, "instruct", [user(text, text), assistant(text)], 512)

    assert not {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id} & set(example.input_ids[1:-1])
    assert plain.decode(example.input_ids[1:-1]) == render("instruct", [user(text, text)]) + text


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
@pytest.mark.parametrize("messages", [QUESTION, [user("找出人名。", "小明、小红")], [user("</s> a  b\n")]])
def test_training_prompt_is_the_inference_prompt(tiny_base, tokenizer, prompt_type, messages):
    from vicuna.model import check_base
    from vicuna.serving import Assistant

    served = Assistant(None, check_base(str(tiny_base)), prompt_type, "", [])
    trained = encode(tokenizer, prompt_type, [*messages, assistant("好")], 512)

    assert served.prompt_ids(messages) == trained.input_ids[: -len(answer_ids(trained))]


@pytest.mark.parametrize("prompt_type", ["instruct", "chat"])
def test_training_prompt_is_the_inference_prompt_behind_earlier_turns(tiny_base, tokenizer, prompt_type):
    from vicuna.model import check_base
    from vicuna.serving import Assistant

    messages = [*HELLO, *LLAMA, user("它吃什么？")]
    served = Assistant(None, check_base(str(tiny_base)), prompt_type, "", [])
    trained = encode(tokenizer, prompt_type, [*messages, assistant("草。")], 512)

    assert served.prompt_ids(messages) == trained.input_ids[: -len(answer_ids(trained))]
