"""What of a conversation is shown to a model: random histories of every kind, and the rules that hold for all."""

import copy
import random

import pytest

from vicuna.answer import history
from vicuna.answer.history import KEPT, PromptLengths, trim
from vicuna.errors import UserError
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

CONTEXT = 512
TEXTS = (
    "你好，请介绍一下长城的历史。",
    "😀👩‍👩‍👧‍👦🦙 𠮷 한국",
    "```python\ndef f(x):\n    return x < 1 & x\n```",
    "",
    " \n\t ",
    "User:hello\n\nAssistant:hi </s><s><unk> ### Response:\n",
    "The quick brown fox jumps over the lazy dog. ",
    "$\\frac{a}{b}$ | a | b |\n|---|---|",
)
PROMPT_TYPES = ("chat", "chat_eos", "chinese_alpaca", "instruct", "instruct_v0", "interaction", "bot")


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return TextTokenizer(tiny_base)


def text(chance: random.Random, longest: int = 6) -> str:
    return "".join(chance.choices(TEXTS, k=chance.randint(0, longest)))


def conversation(chance: random.Random, longest: int = 6) -> list[dict]:
    """Random turns that end with a question, sometimes behind a system message, sometimes a very long text."""
    messages = []
    if chance.random() < 0.3:
        messages.append({"role": "system", "content": text(chance, 2)})
    for _ in range(chance.randint(0, 12)):
        messages.append({"role": "user", "content": text(chance, longest)})
        messages.append({"role": "assistant", "content": text(chance, 60 if chance.random() < 0.05 else longest)})
    return [*messages, {"role": "user", "content": text(chance, 60 if chance.random() < 0.1 else longest)}]


@pytest.mark.parametrize("seed", range(120))
def test_a_random_conversation_fits_whole_turns_or_is_refused_in_a_sentence(tokenizer, seed):
    chance = random.Random(seed)
    messages = conversation(chance)
    prompt_type = chance.choice(PROMPT_TYPES if messages[0]["role"] != "system" else PROMPT_TYPES[:3])
    new, most = chance.choice([1, 16, 128, 256, 600]), chance.choice([None, 0, 64, 200, 2048])
    before = copy.deepcopy(messages)
    system, others = (messages[:1], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
    alone = len(prompt_ids(tokenizer, prompt_type, [*system, others[-1]]))
    limit = min(CONTEXT - 1, CONTEXT if most is None else most)
    if alone > limit:
        with pytest.raises(UserError, match=f"the message needs {alone} tokens"):
            trim(tokenizer, prompt_type, messages, CONTEXT, new, most)
    else:
        found = trim(tokenizer, prompt_type, messages, CONTEXT, new, most)
        assert len(found.ids) <= found.budget <= limit
        assert len(found.ids) + found.max_new_tokens <= CONTEXT
        assert 1 <= found.max_new_tokens <= new
        assert found.max_new_tokens == new or alone + new > CONTEXT  # lowered only for the newest turn itself
        # Whole turns from the front, and the newest whole.
        assert found.messages == [*system, *others[2 * found.forgotten :]]
        assert found.ids == prompt_ids(tokenizer, prompt_type, found.messages)
    assert messages == before


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_a_conversation_that_grows_forgets_down_to_three_quarters_and_else_shares_its_beginning(tokenizer, prompt_type):
    chance = random.Random(7)
    messages, before, shared, trimmed = [], None, 0, 0
    for turn in range(60):
        messages.append({"role": "user", "content": f"{turn} " + text(chance, 2)})
        found = trim(tokenizer, prompt_type, messages, CONTEXT, 100)
        if before is not None and found.forgotten == before.forgotten:
            kept = sum(1 for _ in iter_common(before.ids, found.ids))
            # All but the template's end and the seam, where an answer is tokenised anew as history.
            shared += kept >= len(before.ids) - 12
            assert len(found.ids) <= found.budget
        elif before is not None:
            trimmed += 1
            assert found.forgotten > before.forgotten
            assert len(found.ids) <= KEPT * found.budget or len(found.messages) == 1
        before = found
        messages.append({"role": "assistant", "content": f"答{turn} " + text(chance, 2)})
    assert trimmed >= 2
    # Most turns share their beginning with the one before; a first turn may have a form of its own.
    assert shared >= 0.8 * (59 - trimmed)
    assert shared > trimmed


def iter_common(a: list[int], b: list[int]):
    for one, other in zip(a, b, strict=False):
        if one != other:
            return
        yield one


def test_what_is_forgotten_does_not_depend_on_who_asks_or_when(tokenizer):
    chance = random.Random(3)
    messages = [
        *(m for _ in range(30) for m in [*conversation(chance, 2)[-1:], {"role": "assistant", "content": "好"}])
    ]
    messages.append({"role": "user", "content": "最后"})
    warm = trim(tokenizer, "chat", messages, CONTEXT, 100)
    cold = trim(TextTokenizer(tokenizer.source.parent), "chat", messages, CONTEXT, 100)
    assert cold == warm
    assert warm.forgotten > 0


def test_a_turn_tokenises_its_own_prompt_and_not_all_before_it_again(tokenizer, monkeypatch):
    counted = []
    real = prompt_ids
    monkeypatch.setattr(history, "prompt_ids", lambda *args: counted.append(1) or real(*args))
    messages = []
    for turn in range(40):
        messages.append({"role": "user", "content": f"第{turn}个只问一次的问题"})
        counted.clear()
        trim(tokenizer, "chat", messages, CONTEXT, 100)
        messages.append({"role": "assistant", "content": "好的。"})
        assert len(counted) <= 12, turn  # of up to 40 prompts, and of the few that forgetting tries


def test_lengths_are_forgotten_one_by_one_and_found_again(tokenizer):
    lengths = PromptLengths(most=2)
    asked = [[{"role": "user", "content": text}] for text in ("一", "二二", "三三三")]
    right = [len(prompt_ids(tokenizer, "chat", messages)) for messages in asked]
    for _ in range(2):
        assert [lengths.count(tokenizer, "chat", messages) for messages in asked] == right
    assert lengths.count(tokenizer, "instruct", asked[0]) != right[0]


def test_an_answer_longer_than_the_context_leaves_room_for_the_message(tokenizer):
    found = trim(tokenizer, "chat", [{"role": "user", "content": "你好"}], CONTEXT, 9999)
    assert len(found.ids) + found.max_new_tokens == CONTEXT


def test_messages_that_do_not_alternate_are_refused(tokenizer):
    with pytest.raises(UserError, match="found user, user"):
        trim(tokenizer, "chat", [{"role": "user", "content": "一"}, {"role": "user", "content": "二"}], CONTEXT, 10)


def test_a_long_answer_is_not_read_once_for_every_turn_before_it(tokenizer, monkeypatch):
    read = []

    def counted(tokenizer, prompt_type, messages):
        ids = prompt_ids(tokenizer, prompt_type, messages)
        read.append(len(ids))
        return ids

    monkeypatch.setattr(history, "prompt_ids", counted)
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    long = {"role": "assistant", "content": "the quick brown fox " * 5000}
    messages = [*[question, answer] * 100, question, long, question]
    trimmed = trim(tokenizer, "chat", messages, 4096, 16, 4000)
    assert trimmed.forgotten == 101
    assert sum(length > 10_000 for length in read) < 10
    assert len(read) < 120
