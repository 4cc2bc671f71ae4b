"""The chat_template that other programs render: the same text and ids as our own prompts."""

import json
import random
from collections import Counter

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from vicuna.errors import UserError
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import PROMPT_TYPES, encode, prompt_ids, render, segments
from vicuna.prompt.tokenizer import TextTokenizer

PIECES = [
    *(
        "你好",
        "春天的花有哪些？",
        "What is a llama?",
        "🦙",
        "𠮷",
        "é",
        "\n",
        "\n\n",
        " ",
        "\t",
        "\u3000",
        "{{ x }}",
        "{% if %}",
    ),
    *("```cpp\nvector<int> x; a<b\n```", "User:", "Assistant:", "### Response:", "\\n", '"', "'", "$x^2$", "{content}"),
]
TURNLESS = ("text",)
SYSTEM = ("chat", "chat_eos", "chinese_alpaca")


@pytest.fixture(scope="module")
def hugging_face(tiny_base):
    """Another program's tokenizer of the tiny base."""
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def tokenizer(tiny_base) -> TextTokenizer:
    return TextTokenizer(tiny_base)


@pytest.fixture
def rendered(hugging_face):
    """rendered(prompt_type, messages): what the template makes of them, BOS cut off."""

    def render_by_jinja(prompt_type: str, messages: list[dict]) -> str:
        text = hugging_face.apply_chat_template(
            messages, chat_template=chat_template(prompt_type), tokenize=False, add_generation_prompt=True
        )
        assert text.startswith(hugging_face.bos_token)
        return text.removeprefix(hugging_face.bos_token)

    return render_by_jinja


def dialogues(prompt_type: str, count: int, least: int = 0) -> list[list[dict]]:
    """Random dialogues that a prompt type has place for."""
    draw = random.Random(f"{prompt_type}{count}")

    def text() -> str:
        return "".join(draw.choices(PIECES, k=draw.randint(least, 6)))

    found = []
    for _ in range(count):
        turns = 0 if prompt_type in TURNLESS else draw.randint(0, 4)
        messages = [{"role": role, "content": text()} for _ in range(turns) for role in ("user", "assistant")]
        messages.append({"role": "user", "content": text()})
        if prompt_type in SYSTEM and draw.random() < 0.5:
            messages.insert(0, {"role": "system", "content": text()})
        if draw.random() < 0.3:
            messages[-1]["input"] = text()
        found.append(messages)
    return found


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_the_template_renders_what_we_render(rendered, hugging_face, prompt_type):
    for messages in dialogues(prompt_type, 300):
        assert rendered(prompt_type, messages) == hugging_face.eos_token.join(segments(prompt_type, messages)), messages


@pytest.mark.parametrize("prompt_type", [name for name in PROMPT_TYPES if name != "chat_eos"])
def test_the_templates_ids_are_those_of_our_prompt(hugging_face, tokenizer, prompt_type):
    template = chat_template(prompt_type)
    for messages in dialogues(prompt_type, 60, least=1):
        text = hugging_face.apply_chat_template(messages, chat_template=template, tokenize=False)
        ids = hugging_face(text, add_special_tokens=False)["input_ids"]
        assert ids == prompt_ids(tokenizer, prompt_type, messages), messages


def test_turns_that_end_with_eos_differ_by_the_space_that_others_put_behind_it(hugging_face, tokenizer):
    template = chat_template("chat_eos")
    for messages in dialogues("chat_eos", 60, least=1):
        text = hugging_face.apply_chat_template(messages, chat_template=template, tokenize=False)
        expected = [tokenizer.bos_id]
        for segment in segments("chat_eos", messages):
            expected += [*tokenizer.encode(segment), tokenizer.eos_id]
        assert hugging_face(text, add_special_tokens=False)["input_ids"] == expected[:-1]


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_a_dialogue_with_its_answer_ends_as_it_is_trained(rendered, hugging_face, prompt_type):
    for messages in dialogues(prompt_type, 20):
        answered = [*messages, {"role": "assistant", "content": " 好的。\n"}]
        prompt = hugging_face.eos_token.join(segments(prompt_type, messages))
        assert rendered(prompt_type, answered) == f"{prompt} 好的。\n{hugging_face.eos_token}"


def test_the_answers_text_is_the_one_that_training_makes(rendered, tokenizer):
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "春风吹来。"}]
    example = encode(tokenizer, "instruct", messages, cutoff_len=500)
    assert tokenizer.decode_continuation(example.input_ids[1:]).lstrip(" ") + "</s>" == rendered("instruct", messages)


def test_hardly_any_text_has_the_ids_of_an_answer_that_is_tokenised_apart(shared):
    """Jinja's is the first; one space more is right where the answer begins with a word of the vocabulary."""
    tokenizer = TextTokenizer(shared / "tokenizers/llama")
    records = json.loads((shared / "instruct/llama-factory/alpaca_zh_demo.json").read_text(encoding="utf-8"))
    question = {"role": "user", "content": "你好"}
    text = render("chinese_alpaca", [question])
    same = Counter()
    for record in records:
        answer = {"role": "assistant", "content": record["output"]}
        trained = encode(tokenizer, "chinese_alpaca", [question, answer], 9999).input_ids[1:-1]
        same.update(space for space in ("", " ", "  ") if tokenizer.encode(text + space + record["output"]) == trained)

    assert (len(records), same) == (1000, {" ": 100})


def _messages(*roles: str) -> list[dict]:
    return [{"role": role, "content": "你好"} for role in roles]


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
@pytest.mark.parametrize(
    "roles",
    [
        ("system", "user"),
        ("user", "assistant", "user"),
        ("user", "user"),
        ("assistant", "user"),
        ("user", "system", "user"),
        ("system", "system", "user"),
        ("system",),
        ("tool",),
        ("user", "assistant", "assistant", "user"),
        ("user", "assistant", "user", "assistant", "user"),
    ],
)
def test_the_template_refuses_what_we_refuse(rendered, prompt_type, roles):
    messages = _messages(*roles)
    try:
        expected = render(prompt_type, messages)
    except UserError:
        with pytest.raises(TemplateError, match=r"messages must be|was trained"):
            rendered(prompt_type, messages)
    else:
        assert rendered(prompt_type, messages).replace("</s>", "") == expected


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_a_template_is_one_line_of_ascii(prompt_type):
    template = chat_template(prompt_type)
    assert template.isascii()
    assert "\n" not in template
