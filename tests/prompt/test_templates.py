"""Prompts byte for byte, and the ids and labels that training makes of them."""

from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.prompt.templates import IGNORE_INDEX, PROMPT_TYPES, TEMPLATES, Encoded, encode, prompt_ids, render, segments
from vicuna.prompt.tokenizer import TextTokenizer

GOLDEN = Path(__file__).parent / "golden"


def user(content: str, extra: str | None = None) -> dict:
    return {"role": "user", "content": content} | ({} if extra is None else {"input": extra})


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


HELLO = [user("你好"), assistant("你好！有什么可以帮你？")]
SYSTEM = {"role": "system", "content": "你是一位耐心的老师。"}
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
        ("chat_history", "chat", [{**SYSTEM, "content": " "}, *HELLO, user("What is a llama?")]),
        ("chat_system", "chat", [SYSTEM, *HELLO, user("What is a llama?")]),
        ("chat", "chat_eos", [user("你好")]),
        ("chat_eos_history", "chat_eos", [*HELLO, user("What is a llama?")]),
        ("instruct_v0", "instruct_v0", [user("你好")]),
        ("instruct_v0_history", "instruct_v0", [*HELLO, user("What is a llama?")]),
        ("interaction", "interaction", [user("你好")]),
        ("interaction_input", "interaction", [user("找出文中的人名。", "小明和小红昨天一起去了公园。")]),
        ("interaction_history", "interaction", [*HELLO, user("What is a llama?")]),
        ("chinese_alpaca", "chinese_alpaca", [user("你好")]),
        ("chinese_alpaca_input", "chinese_alpaca", [user("找出文中的人名。", "小明和小红昨天一起去了公园。")]),
        ("chinese_alpaca_history", "chinese_alpaca", [*HELLO, user("What is a llama?")]),
        ("chinese_alpaca_system", "chinese_alpaca", [{**SYSTEM, "content": "请用古文回答。"}, user("你好")]),
        ("bot", "bot", [user("你好")]),
        ("bot_history", "bot", [*HELLO, user("What is a llama?")]),
    ],
)
def test_a_prompt_is_that_of_the_published_adapters_byte_for_byte(name, prompt_type, messages):
    assert "</s>".join(segments(prompt_type, messages)).encode() == (GOLDEN / f"{name}.txt").read_bytes()


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
        [user("a"), {"role": "system", "content": "x"}],
        [{"role": "system", "content": "x"}],
        [{"role": "system", "content": "x"}, {"role": "system", "content": "y"}, user("a")],
    ],
)
def test_messages_that_do_not_alternate_are_refused(messages):
    with pytest.raises(UserError, match="must be user, assistant, …, user, behind at most one of system; found"):
        render("chat", messages)


def test_a_dialogue_is_refused_by_the_prompt_type_without_turns():
    with pytest.raises(UserError, match="--prompt_type text has no earlier turns; use chat or instruct"):
        render("text", [*HELLO, user("x")])


@pytest.mark.parametrize("prompt_type", [name for name in PROMPT_TYPES if not TEMPLATES[name].takes_system])
def test_a_system_message_is_refused_by_a_prompt_type_without_a_place_for_it(prompt_type):
    with pytest.raises(UserError, match=f"a system message, for which --prompt_type {prompt_type} has no place"):
        render(prompt_type, [SYSTEM, user("你好")])


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_labels_are_exactly_the_answer_and_eos(tokenizer, prompt_type):
    example = encode(tokenizer, prompt_type, [*QUESTION, assistant("春风吹来。")], 256)

    assert not example.cut
    apart = TEMPLATES[prompt_type].answer_apart
    as_text = tokenizer.encode if apart else tokenizer.encode_continuation
    assert answer_ids(example) == [*as_text("春风吹来。"), tokenizer.eos_id]
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
    space = " " * TEMPLATES[prompt_type].answer_apart
    assert plain.decode(example.input_ids[1:-1]) == render(prompt_type, QUESTION) + space + answer
    text = tokenizer.decode_continuation(answer_ids(example))
    assert text == space + answer
    assert tokenizer.without_dummy(text) == answer or not space


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


def served_as(base, prompt_type):
    from vicuna.answer.assistant import Assistant, Choice
    from vicuna.answer.hf_engine import HFEngine
    from vicuna.model.base import check_base

    engine = HFEngine(check_base(str(base)), None, {})
    return Assistant(engine, "tiny", "32 bit", {"": Choice("", prompt_type)})


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
@pytest.mark.parametrize("messages", [QUESTION, [user("找出人名。", "小明、小红")], [user("</s> a  b\n")]])
def test_training_prompt_is_the_inference_prompt(tiny_base, tokenizer, prompt_type, messages):
    served = served_as(tiny_base, prompt_type)
    trained = encode(tokenizer, prompt_type, [*messages, assistant("好")], 512)

    assert served.prompt_ids(messages) == trained.input_ids[: -len(answer_ids(trained))]


# --- dialogues ----------------------------------------------------------------------------------------------------

WITH_TURNS = [name for name in PROMPT_TYPES if TEMPLATES[name].turn]
DIALOGUES = [
    [*HELLO, user("它吃什么？"), assistant("草。")],
    [*HELLO, *LLAMA, user("它吃什么？"), assistant("草。")],
    [user("</s> a  b"), assistant("</s>"), user("<s>"), assistant("# x\n\ny")],
    [user(" 你好\n"), assistant("\n你好 "), user("User:\n\nAssistant:"), assistant("Assistant:")],
]


def with_system(prompt_type: str, messages: list[dict]) -> list[dict]:
    return [SYSTEM, *messages] if TEMPLATES[prompt_type].takes_system else messages


@pytest.mark.parametrize("prompt_type", WITH_TURNS)
@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_training_prompt_is_the_inference_prompt_behind_earlier_turns(tiny_base, tokenizer, prompt_type, dialogue):
    dialogue = with_system(prompt_type, dialogue)
    served = served_as(tiny_base, prompt_type)
    trained = encode(tokenizer, prompt_type, dialogue, 1024)

    assert served.prompt_ids(dialogue[:-1]) == trained.input_ids[: -len(answer_ids(trained))]
    as_text = tokenizer.encode if TEMPLATES[prompt_type].answer_apart else tokenizer.encode_continuation
    assert answer_ids(trained) == [*as_text(dialogue[-1]["content"]), tokenizer.eos_id]


@pytest.mark.parametrize(("prompt_type", "turns"), [*((name, "last") for name in WITH_TURNS), ("chat_eos", "all")])
@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_a_dialogue_decodes_to_exactly_its_text(tokenizer, plain, prompt_type, turns, dialogue):
    dialogue = with_system(prompt_type, dialogue)
    example = encode(tokenizer, prompt_type, dialogue, 1024, train_turns=turns)

    space = " " * TEMPLATES[prompt_type].answer_apart
    assert plain.decode(example.input_ids[1:]) == render(prompt_type, dialogue[:-1]) + space + dialogue[-1]["content"]


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_ids_have_eos_behind_each_answer_of_chat_eos_and_nowhere_else(tokenizer, dialogue):
    answers = sum(message["role"] == "assistant" for message in dialogue)
    for turns in ("last", "all"):
        ids = encode(tokenizer, "chat_eos", dialogue, 1024, train_turns=turns).input_ids
        assert (ids.count(tokenizer.eos_id), ids.count(tokenizer.bos_id)) == (answers, 1)
    assert prompt_ids(tokenizer, "chat_eos", dialogue[:-1]).count(tokenizer.eos_id) == answers - 1
    assert tokenizer.eos_id not in prompt_ids(tokenizer, "chat", dialogue[:-1])


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_all_turns_label_exactly_every_answer_and_its_eos(tokenizer, dialogue):
    example = encode(tokenizer, "chat_eos", dialogue, 1024, train_turns="all")
    *earlier, last = [message["content"] for message in dialogue if message["role"] == "assistant"]

    assert answer_ids(example) == [
        i for answer in [*(text.strip() for text in earlier), last] for i in
        [*tokenizer.encode_continuation(answer), tokenizer.eos_id]
    ]  # fmt: skip
    assert all(label in (IGNORE_INDEX, i) for i, label in zip(example.input_ids, example.labels, strict=True))


def test_train_on_inputs_labels_everything_but_bos_in_a_dialogue_too(tokenizer):
    for turns in ("last", "all"):
        example = encode(tokenizer, "chat_eos", DIALOGUES[1], 1024, train_on_inputs=True, train_turns=turns)
        assert example.labels == [IGNORE_INDEX, *example.input_ids[1:]]


# --- dialogues that are too long ----------------------------------------------------------------------------------

LONG = [
    one
    for i in range(9)
    for one in (user(f"第{i}个问题：春天有什么？"), assistant(f"第{i}个回答：花和燕子。" * (i % 3 + 1)))
]


@pytest.mark.parametrize(("prompt_type", "turns"), [*((name, "last") for name in WITH_TURNS), ("chat_eos", "all")])
def test_the_oldest_turns_are_dropped_until_the_rest_fits(tokenizer, prompt_type, turns):
    dialogue = with_system(prompt_type, LONG)
    head = dialogue[: len(dialogue) - len(LONG)]
    whole = encode(tokenizer, prompt_type, dialogue, 10_000, train_turns=turns)
    seen = set()
    for cutoff_len in range(len(whole.input_ids), 150, -7):
        example = encode(tokenizer, prompt_type, dialogue, cutoff_len, train_turns=turns)
        # The longest ending of the dialogue that fits, found by trying all of them.
        kept = next(
            kept
            for start in range(0, len(LONG), 2)
            if len((kept := encode(tokenizer, prompt_type, [*head, *LONG[start:]], 10_000, False, turns)).input_ids)
            <= cutoff_len
        )
        assert (example.input_ids, example.labels, example.cut) == (kept.input_ids, kept.labels, False)
        assert example.shortened == (len(kept.input_ids) < len(whole.input_ids))
        seen.add(len(kept.input_ids))
    assert len(seen) > 3


@pytest.mark.parametrize(("prompt_type", "turns"), [("chat", "last"), ("chat_eos", "last"), ("chat_eos", "all")])
def test_a_last_turn_too_long_alone_loses_its_end_and_its_eos(tokenizer, prompt_type, turns):
    last = [user("春天有什么？"), assistant("花和燕子。" * 50)]
    prompt = prompt_ids(tokenizer, prompt_type, [SYSTEM, last[0]])
    example = encode(tokenizer, prompt_type, [SYSTEM, *LONG, *last], len(prompt) + 9, train_turns=turns)

    assert example.input_ids[: len(prompt)] == prompt
    assert answer_ids(example) == tokenizer.encode_continuation(last[1]["content"])[:9]
    assert (example.cut, example.shortened) == (True, True)
    assert encode(tokenizer, prompt_type, [SYSTEM, *LONG, *last], len(prompt), train_turns=turns) is None
