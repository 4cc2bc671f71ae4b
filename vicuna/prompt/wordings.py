"""The wording of the prompt types: the fixed words of each, byte for byte, as the published adapters were trained."""

from dataclasses import dataclass, replace


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
