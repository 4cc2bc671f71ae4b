"""Prompt types: dialogue -> text -> (input_ids, labels), and nothing else knows a prompt's wording.

A dialogue is a list of messages `{"role": "user" | "assistant" | "system", "content": str}`; a user message may
carry `input`, the second field of an instruction record. `render` builds the text up to the answer, for
training, for the pages and for exports alike, and `prompt_ids` its ids. Prompt and answer are tokenised apart, so
labels are exact.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NotRequired, Protocol, TypedDict

from vicuna.errors import UserError

IGNORE_INDEX = -100  # what torch's cross entropy ignores by default


class Message(TypedDict):
    """One message; `input` is the optional second field of an instruction record, `learnt` false of an answer that is
    only context.
    """

    role: str
    content: str
    input: NotRequired[str]
    learnt: NotRequired[bool]


class Tokenizer(Protocol):
    """What `prompt_ids` and `encode` need of a tokenizer; `vicuna.prompt.tokenizer.TextTokenizer` is the real one."""

    bos_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text's beginning, without BOS."""

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of text that follows other text."""


@dataclass(frozen=True)
class Template:
    """The fixed words of a prompt type, in the order in which they appear; "" where it has no such part."""

    system: str = ""
    system_with_input: str = ""
    user: str = ""
    user_with_input: str = ""
    turn: str = ""  # an earlier turn, of a prompt type that knows turns
    turn_end: str = ""  # what stands between a turn and the next
    turn_last: str = ""  # the last user message behind earlier turns
    turn_only: str = ""  # the only user message, where it looks like a turn of its own kind
    answer: str = ""  # what the answer follows
    takes_system: bool = False  # a system message replaces `system`
    eos_after_turns: bool = False
    answer_apart: bool = False  # an answer's ids are those of a text of its own, which begins with a dummy space


_INSTRUCT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_CHAT = Template(
    system="The following is a conversation between an AI assistant called Assistant and a human user called "
    "User. The assistant is intelligent, knowledgeable and polite to answer questions of user.\n\n",
    turn="User:{content}\n\nAssistant:{answer}",
    turn_end="\n\n",
    turn_last="User:{content}\n\nAssistant:",
    takes_system=True,
)
_INTERACTION = Template(
    system="The following is a conversation between an AI assistant called Assistant and a human user called User.\n\n",
    user="### Instruction:\n{content}\n\n",
    user_with_input="### Instruction:\n{content}\n\n### Input:\n{input}\n\n",
    turn="User:{content}\nAssistant:{answer}",
    turn_end="\n",
    turn_last="User:{content}",
    answer="### Response:",
)

# The wording is that of the published adapters, byte for byte; tests/prompt/golden holds copies to compare with.
TEMPLATES = {
    "instruct": Template(
        system=_INSTRUCT,
        system_with_input="Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n",
        user="### Instruction:\n{content}\n\n",
        user_with_input="### Instruction:\n{content}\n\n### Input:\n{input}\n\n",
        turn="User:{content}\n\nAssistant:{answer}",
        turn_end="\n\n",
        turn_last="User:{content}\n\nAssistant:",
        answer="### Response:\n",
    ),
    "chat": _CHAT,
    "chat_eos": replace(_CHAT, eos_after_turns=True),
    # What the original's pages sent to adapters trained on instructions.
    "instruct_v0": Template(
        system=_INSTRUCT,
        user="### Instruction:\n{content}\n\n",
        turn="User:{content}\nAssistant:{answer}",
        turn_end="\n",
        turn_last="User:{content}\nAssistant:",
        turn_only="\nUser:{content}\nAssistant:",
        answer="### Response:",
    ),
    "interaction": _INTERACTION,
    "bot": replace(
        _INTERACTION,
        system="The following is a conversation between an AI assistant called Bot and a human user called User.\n\n",
        turn="User:{content}\nBot:{answer}",
    ),
    # Chinese-LLaMA-Alpaca's: earlier turns look like the last, and its program for chats lets a system message replace
    # the sentence.
    "chinese_alpaca": Template(
        system=_INSTRUCT,
        user="### Instruction:\n{content}\n\n",
        user_with_input="### Instruction:\n{content}\n{input}\n\n",
        turn="{content}\n\n### Response: {answer}",
        turn_end="\n\n### Instruction:\n",
        turn_last="{content}",
        answer="### Response: ",
        takes_system=True,
        answer_apart=True,
    ),
    "text": Template(user="{content}", user_with_input="{content}\n{input}"),
}
PROMPT_TYPES = tuple(TEMPLATES)
TRAIN_TURNS = ("last", "all")


def split_system(messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """The system message, if there is one, and the others."""
    count = 1 if messages and messages[0]["role"] == "system" else 0
    return messages[:count], messages[count:]


def unsupported(prompt_type: str, messages: Sequence[Message]) -> str:
    """What a prompt type has no place for in these messages, as the end of a sentence; "" when all fits."""
    template = TEMPLATES[prompt_type]
    system, others = split_system(messages)
    if system and not template.takes_system:
        return f"a system message, for which --prompt_type {prompt_type} has no place; use chat or chat_eos"
    if len(others) > 2 and not template.turn:
        return f"several turns, but --prompt_type {prompt_type} has no earlier turns; use chat or instruct"
    return ""


def segments(prompt_type: str, messages: Sequence[Message]) -> list[str]:
    """The texts of the prompt that EOS ids stand between: one, unless the prompt type ends its turns with EOS.

    Raises:
        UserError: messages that do not alternate, or for which the prompt type has no place.
    """
    if not messages:
        return [""]
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


def render(prompt_type: str, messages: Sequence[Message]) -> str:
    """The prompt as text: everything up to the answer to the last user message. No messages give an empty prompt.

    Raises:
        UserError: see `segments`.
    """
    return "".join(segments(prompt_type, messages))


def prompt_ids(tokenizer: Tokenizer, prompt_type: str, messages: Sequence[Message]) -> list[int]:
    """Ids of the prompt, BOS included: the same in training, on the pages and in exports.

    Raises:
        UserError: see `segments`.
    """
    first, *further = segments(prompt_type, messages)
    ids = [tokenizer.bos_id, *(tokenizer.encode(first) if first else [])]
    for segment in further:
        ids += [tokenizer.eos_id, *tokenizer.encode_continuation(segment)]
    return ids


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
) -> Encoded | None:
    """A dialogue that ends with the answer to learn, as ids and labels.

    Args:
        cutoff_len: longest example in tokens, BOS and EOS included. A longer dialogue loses whole turns, the oldest
            first. A last turn that is too long alone loses the end of its answer and its EOS with it, so that the
            model never learns to stop where the text was merely cut.
        train_on_inputs: label the prompt too (all but BOS, which nothing predicts).
        train_turns: "last" learns the last answer, "all" every one, with EOS behind each.

    Returns:
        The example, or None where no token of the last answer is left within `cutoff_len`.
    """
    system, others = split_system(messages)

    def parts(dropped: int) -> list[tuple[list[int], list[int]]]:
        kept = [*system, *others[2 * dropped :]]
        return (_every_answer if train_turns == "all" else _last_answer)(tokenizer, prompt_type, kept)

    def fits(dropped: int) -> bool:
        return sum(len(prompt) + len(answer) for prompt, answer in parts(dropped)) <= cutoff_len

    earlier = max(0, (len(others) - 1) // 2)
    dropped = bisect_left(range(earlier), True, key=fits)
    pairs = parts(dropped)
    ids = [i for prompt, answer in pairs for i in (*prompt, *answer)]
    labels = [i for prompt, answer in pairs for i in (*[IGNORE_INDEX] * len(prompt), *answer)]
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
        for lead, answer in zip([[tokenizer.bos_id, *first], *further], ends, strict=True)
    ]
