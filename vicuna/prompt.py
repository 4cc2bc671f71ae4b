"""Prompt types: dialogue -> text -> (input_ids, labels), and nothing else knows a prompt's wording.

A dialogue is a list of messages `{"role": "user" | "assistant" | "system", "content": str}`; a user message may
carry `input`, the second field of an instruction record. `render` builds the text up to the answer, for
training, for the pages and for exports alike. Prompt and answer are tokenised apart, so labels are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

from vicuna.errors import UserError

IGNORE_INDEX = -100  # what torch's cross entropy ignores by default


class Message(TypedDict):
    """One message; `input` is the optional second field of an instruction record."""

    role: str
    content: str
    input: NotRequired[str]


class Tokenizer(Protocol):
    """What `encode` needs of a tokenizer; `vicuna.tokenizer.TextTokenizer` is the real one."""

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
    turn_last: str = ""  # the last user message behind earlier turns
    answer: str = ""  # what the answer follows


# The wording is that of the published adapters, byte for byte; tests/golden holds copies to compare with.
TEMPLATES = {
    "instruct": Template(
        system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
        system_with_input="Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n",
        user="### Instruction:\n{content}\n\n",
        user_with_input="### Instruction:\n{content}\n\n### Input:\n{input}\n\n",
        turn="User:{content}\n\nAssistant:{answer}\n\n",
        turn_last="User:{content}\n\nAssistant:",
        answer="### Response:\n",
    ),
    "chat": Template(
        system="The following is a conversation between an AI assistant called Assistant and a human user called "
        "User. The assistant is intelligent, knowledgeable and polite to answer questions of user.\n\n",
        turn="User:{content}\n\nAssistant:{answer}\n\n",
        turn_last="User:{content}\n\nAssistant:",
    ),
    "text": Template(user="{content}", user_with_input="{content}\n{input}"),
}
PROMPT_TYPES = tuple(TEMPLATES)


def render(prompt_type: str, messages: Sequence[Message]) -> str:
    """The prompt: everything up to the answer to the last user message. No messages give an empty prompt.

    Raises:
        UserError: messages that do not alternate, or a dialogue for a prompt type without turns.
    """
    if not messages:
        return ""
    template = TEMPLATES[prompt_type]
    *history, last = messages
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(history) // 2) + ["user"]:
        raise UserError(f"the messages of a prompt must be user, assistant, …, user; found {', '.join(roles)}.")
    if history and not template.turn:
        raise UserError(f"--prompt_type {prompt_type} has no earlier turns; use chat or instruct for a dialogue.")
    turns = "".join(
        template.turn.format(content=user["content"].strip(), answer=assistant["content"].strip())
        for user, assistant in zip(history[::2], history[1::2], strict=True)
    )
    content, extra = last["content"], last.get("input", "")
    extra = extra if extra.strip() else ""  # a blank input is no input, as in training
    if template.turn_last and (turns or not template.user):
        # The dialogue is one block; under `instruct` it stands where the instruction stands.
        question = f"{content}\n{extra}" if extra else content
        block = turns + template.turn_last.format(content=question.strip())
        return template.system + (template.user.format(content=block) if template.user else block) + template.answer
    system = template.system_with_input if extra and template.system_with_input else template.system
    user = template.user_with_input if extra else template.user
    return system + user.format(content=content, input=extra) + template.answer


@dataclass(frozen=True)
class Encoded:
    """One training example: ids and labels, T each, and whether `cutoff_len` cut the answer."""

    input_ids: list[int]
    labels: list[int]
    cut: bool


def encode(
    tokenizer: Tokenizer,
    prompt_type: str,
    messages: Sequence[Message],
    cutoff_len: int,
    train_on_inputs: bool = False,
) -> Encoded | None:
    """A dialogue that ends with the answer to learn, as ids and labels.

    Args:
        cutoff_len: longest example in tokens, BOS and EOS included. A longer one loses the end of its answer
            and its EOS with it, so that the model never learns to stop where the text was merely cut.
        train_on_inputs: label the prompt too (all but BOS, which nothing predicts).

    Returns:
        The example, or None where no token of the answer is left within `cutoff_len`.
    """
    prompt = render(prompt_type, messages[:-1])
    answer = messages[-1]["content"]
    if prompt:
        prompt_ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        # No dummy prefix at the seam: the ids decode to exactly prompt + answer.
        answer_ids = tokenizer.encode_continuation(answer)
    else:
        prompt_ids, answer_ids = [tokenizer.bos_id], tokenizer.encode(answer)
    ids = [*prompt_ids, *answer_ids, tokenizer.eos_id]
    cut = len(ids) > cutoff_len
    if not answer_ids or cutoff_len <= len(prompt_ids):
        return None
    hidden = 1 if train_on_inputs else len(prompt_ids)
    labels = [IGNORE_INDEX] * hidden + ids[hidden:]
    return Encoded(ids[:cutoff_len], labels[:cutoff_len], cut)
