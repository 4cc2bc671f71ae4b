"""Prompt types: dialogue -> text -> (input_ids, labels), and nothing else knows a prompt's wording.

A dialogue is a list of messages `{"role": "user" | "assistant" | "system", "content": str}`; a user message may
carry `input`, the second field of an instruction record. `render` builds the text up to the answer, for
training, for the pages and for exports alike, and `prompt_ids` its ids. Prompt and answer are tokenised apart, so
labels are exact.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NotRequired, Protocol, TypedDict

from vicuna.errors import UserError
from vicuna.prompt.own_template import ChatTemplate, Turn
from vicuna.prompt.rendering import BASE
from vicuna.prompt.traits import first_messages, tools_of
from vicuna.prompt.wordings import TEMPLATES

IGNORE_INDEX = -100  # what torch's cross entropy ignores by default


class Message(TypedDict):
    """One message.

    `input` is the optional second field of an instruction record, `learnt` false of an answer that is only context.
    The others are of dialogues for the base's own template: the thinking before an answer, functions that it calls
    (OpenAI's form), which call a message of role "tool" answers, and on the first message the functions there are.
    """

    role: str
    content: str
    input: NotRequired[str]
    learnt: NotRequired[bool]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    tools: NotRequired[list[dict[str, Any]]]


class Tokenizer(Protocol):
    """What `prompt_ids` and `encode` need of a tokenizer; `vicuna.prompt.tokenizer.TextTokenizer` is the real one."""

    eos_id: int
    beginning: list[int]
    chat: ChatTemplate | None

    def encode(self, text: str) -> list[int]:
        """Ids of a text's beginning, without BOS."""

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of text that follows other text."""

    def encode_rendering(self, text: str, continues: bool = False) -> list[int]:
        """Ids of what the base's own template wrote, control tokens among them."""

    def answer_end(self, prompt_type: str) -> int:
        """The id that ends an answer."""

    def with_settings(self, **changed: str) -> "Tokenizer":
        """The same, with other settings of the base's own template."""


PROMPT_TYPES = tuple(TEMPLATES)
ALL_PROMPT_TYPES = (*PROMPT_TYPES, BASE)
TRAIN_TURNS = ("last", "all")


def split_system(messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """The system message, if there is one, and the others."""
    count = 1 if messages and messages[0]["role"] == "system" else 0
    return messages[:count], messages[count:]


def unsupported(prompt_type: str, messages: Sequence[Message]) -> str:
    """What a prompt type has no place for in these messages, as the end of a sentence; "" when all fits.

    Of the base's own template it is known only when it is rendered.
    """
    if prompt_type == BASE:
        return ""
    template = TEMPLATES[prompt_type]
    system, others = split_system(messages)
    if any(message["role"] == "tool" or message.get("tool_calls") for message in others) or tools_of(messages):
        return (
            f"calls of functions, for which --prompt_type {prompt_type} has no place; use --prompt_type base with a "
            "base whose chat template knows tools"
        )
    if system and not template.takes_system:
        return f"a system message, for which --prompt_type {prompt_type} has no place; use chat or chat_eos"
    if len(others) > 2 and not template.turn:
        return f"several turns, but --prompt_type {prompt_type} has no earlier turns; use chat or instruct"
    return ""


def segments(prompt_type: str, messages: Sequence[Message], chat: ChatTemplate | None = None) -> list[str]:
    """The texts of the prompt that EOS ids stand between: one, unless the prompt type ends its turns with EOS.

    Args:
        chat: the base's own template, for the prompt type base.

    Raises:
        UserError: messages that do not alternate, or for which the prompt type has no place.
    """
    if not messages:
        return [""]
    if prompt_type == BASE:
        return [own_template(chat).prompt(messages)]
    template = TEMPLATES[prompt_type]
    system, others = split_system(messages)
    roles = [message["role"] for message in others]
    if roles != ["user", "assistant"] * (len(others) // 2) + ["user"]:
        raise UserError(
            "the messages of a prompt must be user, assistant, …, user, behind at most one of system; found "
            f"{', '.join(message['role'] for message in messages)}."
        )
    if problem := unsupported(prompt_type, messages):
        raise UserError(f"the prompt has {problem}.")
    *history, last = others
    preamble = f"{system[0]['content'].strip()}\n\n" if system and system[0]["content"].strip() else template.system
    turns = [
        template.turn.format(content=user["content"].strip(), answer=assistant["content"].strip())
        for user, assistant in zip(history[::2], history[1::2], strict=True)
    ]
    content, extra = last["content"], last.get("input", "")
    extra = extra if extra.strip() else ""  # a blank input is no input, as in training
    form = template.turn_last if turns or not template.user else template.turn_only
    if form:
        turns.append(form.format(content=(f"{content}\n{extra}" if extra else content).strip()))
        if template.eos_after_turns:
            return [preamble + turns[0], *(template.turn_end + turn for turn in turns[1:])]
        # The dialogue is one block; under `instruct` it stands where the instruction stands.
        block = template.turn_end.join(turns)
        return [preamble + (template.user.format(content=block) if template.user else block) + template.answer]
    if extra and template.system_with_input:
        preamble = template.system_with_input
    user = template.user_with_input if extra else template.user
    return [preamble + user.format(content=content, input=extra) + template.answer]


def with_tools(tokenizer: Tokenizer, messages: Sequence[Message]) -> Tokenizer:
    """The tokenizer with the functions that a dialogue says there are, where it says so."""
    return tokenizer.with_settings(tools=tools) if (tools := tools_of(messages)) else tokenizer


def own_template(chat: ChatTemplate | None) -> ChatTemplate:
    """The base's own template, for the prompt type base.

    Raises:
        UserError: the base declares none.
    """
    if chat is None:
        raise UserError(
            "--prompt_type base is the base's own chat template, and this base declares none (chat_template.jinja, or "
            "chat_template in tokenizer_config.json): take another, such as instruct or chat."
        )
    return chat


def render(prompt_type: str, messages: Sequence[Message], chat: ChatTemplate | None = None) -> str:
    """The prompt as text: everything up to the answer to the last user message. No messages give an empty prompt.

    Args:
        chat: the base's own template, for the prompt type base.

    Raises:
        UserError: see `segments`.
    """
    text = "".join(segments(prompt_type, messages, chat))
    return chat.unshield(text) if prompt_type == BASE and messages else text


def prompt_ids(tokenizer: Tokenizer, prompt_type: str, messages: Sequence[Message]) -> list[int]:
    """Ids of the prompt, BOS included where the base has one: the same in training, on the pages and in exports.

    Raises:
        UserError: see `segments`.
    """
    if prompt_type == BASE and messages:
        tokenizer = with_tools(tokenizer, messages)
        return tokenizer.encode_rendering(segments(prompt_type, messages, tokenizer.chat)[0])
    first, *further = segments(prompt_type, messages, tokenizer.chat)
    ids = [*tokenizer.beginning, *(tokenizer.encode(first) if first else [])]
    for segment in further:
        ids += [tokenizer.eos_id, *tokenizer.encode_continuation(segment)]
    return ids


def begun_ids(tokenizer: Tokenizer, prompt_type: str, messages: Sequence[Message], begun: str) -> list[int]:
    """Ids of the beginning of an answer to the last message, behind its prompt, as the whole answer has them.

    Raises:
        UserError: the base's own template does not write answers as they are.
    """
    if prompt_type != BASE:
        encode = tokenizer.encode if TEMPLATES[prompt_type].answer_apart else tokenizer.encode_continuation
        return encode(begun)
    tokenizer = with_tools(tokenizer, messages)
    turn = own_template(tokenizer.chat).turn([*messages, {"role": "assistant", "content": begun}])
    text = begun if begun in turn.answer else begun.strip()  # many templates strip what they are given
    if text not in turn.answer:
        raise UserError("the base's chat template does not write an answer as it is, so none can be begun for it.")
    written = turn.prompt + turn.answer[: turn.answer.index(text) + len(text)]  # perhaps with a block of thinking
    return tokenizer.encode_rendering(written.removeprefix(segments(prompt_type, messages, tokenizer.chat)[0]), True)


@dataclass(frozen=True)
class Encoded:
    """One training example.

    Attributes:
        input_ids, labels: T each.
        cut: the last answer lost its end to `cutoff_len`, and its EOS with it.
        shortened: earlier turns were dropped so that the last answer is whole.
    """

    input_ids: list[int]
    labels: list[int]
    cut: bool
    shortened: bool = False


def encode(
    tokenizer: Tokenizer,
    prompt_type: str,
    messages: Sequence[Message],
    cutoff_len: int,
    train_on_inputs: bool = False,
    train_turns: str = "last",
    turns: Sequence[Turn] = (),
) -> Encoded | None:
    """A dialogue that ends with the answer to learn, as ids and labels.

    Args:
        cutoff_len: longest example in tokens, BOS and EOS included. A longer dialogue loses whole turns, the oldest
            first. A last turn that is too long alone loses the end of its answer and its EOS with it, so that the
            model never learns to stop where the text was merely cut.
        train_on_inputs: label the prompt too (all but the first id, which nothing predicts).
        train_turns: "last" learns the last answer, "all" every one, with EOS behind each; of the base's own template
            only as far as a prompt begins with all that came before (see `encode_all`).
        turns: what the base's own template makes of the whole dialogue, where that is known.

    Returns:
        The example, or None where no token of the last answer is left within `cutoff_len`.
    """
    system, others = split_system(messages)
    tokenizer = with_tools(tokenizer, messages)
    starts = first_messages(others) or [0]

    @cache
    def parts(dropped: int) -> list[tuple[list[int], list[int]]]:
        kept = [*system, *others[starts[dropped] :]]
        if prompt_type == BASE:
            return _own_answers(tokenizer, kept, train_turns, turns if len(kept) == len(messages) else ())
        return (_every_answer if train_turns == "all" else _last_answer)(tokenizer, prompt_type, kept)

    def fits(dropped: int) -> bool:
        return sum(len(prompt) + len(answer) for prompt, answer in parts(dropped)) <= cutoff_len

    earlier = len(starts) - 1
    dropped = 0 if earlier and fits(0) else bisect_left(range(earlier), True, min(1, earlier), key=fits)
    pairs = parts(dropped)
    ids, labels = [], []
    for prompt, answer in pairs:
        ids += prompt
        ids += answer
        labels += [IGNORE_INDEX] * len(prompt)
        labels += answer
    answers = [message for message in others if message["role"] == "assistant"][-len(pairs) :]
    last = pairs[-1][1]
    if len(last) < 2 or cutoff_len <= len(ids) - len(last):
        return None
    if train_on_inputs:
        labels = [IGNORE_INDEX, *ids[1:]]
    at = 0
    for (prompt, answer), message in zip(pairs, answers, strict=True):
        start, at = at + len(prompt), at + len(prompt) + len(answer)
        if not message.get("learnt", True):
            labels[start:at] = [IGNORE_INDEX] * len(answer)
    return Encoded(ids[:cutoff_len], labels[:cutoff_len], len(ids) > cutoff_len, dropped > 0)


def encode_all(
    tokenizer: Tokenizer,
    prompt_type: str,
    messages: Sequence[Message],
    cutoff_len: int,
    train_on_inputs: bool = False,
    train_turns: str = "last",
) -> list[Encoded]:
    """The examples of a dialogue, as `encode` makes one: one, or under `--train_turns all` one for each answer to learn
    where the base's own template writes an earlier turn otherwise than it did as the last (Qwen3 drops its thinking).

    Returns:
        None of them where no token of an answer is left within `cutoff_len`.
    """
    options = (cutoff_len, train_on_inputs)
    own = own_template(with_tools(tokenizer, messages).chat) if prompt_type == BASE and train_turns == "all" else None
    turns, in_a_row = own.turns(messages) if own else ((), True)
    if in_a_row:
        rows = [encode(tokenizer, prompt_type, messages, *options, train_turns, turns)]
    else:
        ends = [at for at, one in enumerate(messages) if one["role"] == "assistant"]
        learnt = [(at, turn) for at, turn in zip(ends, turns, strict=True) if messages[at].get("learnt", True)]
        rows = [encode(tokenizer, prompt_type, messages[: at + 1], *options, turns=[turn]) for at, turn in learnt]
    return [one for one in rows if one is not None]


def _own_answers(
    tokenizer: Tokenizer, messages: Sequence[Message], train_turns: str, turns: Sequence[Turn]
) -> list[tuple[list[int], list[int]]]:
    """What leads to each answer, and the answer with its end, as the base's own template writes them."""
    chat = own_template(tokenizer.chat)
    turns = turns or (chat.turns(messages)[0] if train_turns == "all" else [chat.turn(messages)])
    found: list[tuple[list[int], list[int]]] = []
    before = Turn("", "")
    for turn in turns:
        lead = turn.prompt[len(before.prompt + before.answer) :]
        found.append((tokenizer.encode_rendering(lead, bool(found)), tokenizer.encode_rendering(turn.answer, True)))
        before = turn
    return found


def _last_answer(
    tokenizer: Tokenizer, prompt_type: str, messages: Sequence[Message]
) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer, EOS included. The ids decode to exactly prompt + answer: no dummy prefix is at the seam, but
    for answers that are texts of their own.
    """
    *prompt, answer = messages
    apart = not prompt or TEMPLATES[prompt_type].answer_apart
    as_text = tokenizer.encode if apart else tokenizer.encode_continuation
    return [(prompt_ids(tokenizer, prompt_type, prompt), [*as_text(answer["content"]), tokenizer.eos_id])]


def _every_answer(
    tokenizer: Tokenizer, prompt_type: str, messages: Sequence[Message]
) -> list[tuple[list[int], list[int]]]:
    """What leads to each answer, and the answer, EOS included; each tokenised apart."""
    texts = segments(prompt_type, messages[:-1])
    answers = [message["content"].strip() for message in messages if message["role"] == "assistant"]
    leads = [text.removesuffix(answer) for text, answer in zip(texts[:-1], answers[:-1], strict=True)] + texts[-1:]
    first, *further = (tokenizer.encode(leads[0]), *map(tokenizer.encode_continuation, leads[1:]))
    ends = [*answers[:-1], messages[-1]["content"]]
    return [
        (lead, [*tokenizer.encode_continuation(answer), tokenizer.eos_id])
        for lead, answer in zip([[*tokenizer.beginning, *first], *further], ends, strict=True)
    ]
