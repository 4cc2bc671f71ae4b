"""How the questions of a domain are asked: under one instruction for the whole set, several, or none.

One instruction for all teaches the model to answer as a doctor where it is told to be one, and leaves the rest of what
it can do alone; docs/en/domains.md has the comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from vicuna.prompt.templates import Message


@dataclass(frozen=True)
class Asked:
    """How a set is asked.

    Attributes:
        instructions: the first is the one for all; the others are drawn from beside it where they are mixed.
        asker: stands in front of each question.
    """

    instructions: tuple[str, ...]
    asker: str


DOCTOR = Asked(
    (
        "扮演一个专业的医生并回答病人的问题。",
        "你是一名经验丰富的医生，请回答下面的问题。",
        "请从医学的角度回答病人的提问。",
        "有病人向你咨询，请给出专业的建议。",
        "阅读病人的描述，告诉他应该怎么做。",
        "请解答下面这个健康问题。",
    ),
    "病人：",
)
LAWYER = Asked(
    (
        "扮演一个专业的律师并回答客户的问题。",
        "你是一名经验丰富的律师，请回答下面的问题。",
        "请从法律的角度回答客户的提问。",
        "有客户向你咨询，请给出专业的意见。",
        "阅读客户的描述，告诉他有哪些权利和办法。",
        "请解答下面这个法律问题。",
    ),
    "客户：",
)
JUDGE = Asked(
    (
        "扮演一个专业的法官，根据案情写出罪名、相关法条和刑期。",
        "阅读下面的案情，给出罪名、法条和刑期。",
        "请根据刑法判断下面的案件。",
        "分析案情，列出判决的要点。",
    ),
    "案情：",
)


def ask(messages: Sequence[Message], asked: Asked, how: str, draw: Random) -> list[Message]:
    """A dialogue with its first question put as the set is asked.

    Args:
        how: one, mixed, or none, which leaves the question as it is.
    """
    if how == "none":
        return list(messages)
    first = next(i for i, one in enumerate(messages) if one["role"] == "user")
    one = messages[first]
    question = "\n".join(part for part in (one["content"], one.get("input", "").strip()) if part)
    instruction = asked.instructions[0] if how == "one" else draw.choice(asked.instructions)
    new: Message = {"role": "user", "content": instruction, "input": f"{asked.asker}{question}"}
    return [*messages[:first], new, *messages[first + 1 :]]
