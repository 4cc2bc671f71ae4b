"""What a judge is asked, what of its reply counts, and what its decisions in both orders come to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vicuna.evaluation.bootstrap import Difference, Scores, paired_difference
from vicuna.prompt.templates import Message

REQUESTS = {
    "zh": """请比较两个助手对同一段对话的回答，判断哪一个更好。
看回答是否正确、切题、完整、清楚；先后次序、长短和语气不算。
先用一两句话说明理由，最后另起一行只写结论：A 更好写 [[A]]，B 更好写 [[B]]，一样好写 [[C]]。

【对话】
{question}

【A 的回答】
{a}

【B 的回答】
{b}

【你的判断】""",
    "en": """Compare the answers of two assistants to the same dialogue, and decide which is better.
What counts is whether an answer is correct, to the point, complete and clear; not its place, its length or its tone.
Give your reason in a sentence or two, then write the decision alone on the last line: [[A]] if A is better,
[[B]] if B is better, [[C]] if they are equally good.

[Dialogue]
{question}

[Answer of A]
{a}

[Answer of B]
{b}

[Your decision]""",
}
SPEAKERS = {
    "zh": {"user": "用户", "assistant": "助手", "system": "系统"},
    "en": {"user": "User", "assistant": "Assistant", "system": "System"},
}
EMPTY = {"zh": "（没有回答）", "en": "(no answer)"}
MARK = re.compile(r"\[\[\s*([ABC])\s*\]\]")
ORDERS = (1, 2)  # the first model is A, and then B


def request(question: Sequence[Message], answers: tuple[str, str], order: int, language: str) -> str:
    """The text of a call.

    Args:
        answers: of the first and the second model.
        order: 2 shows the second model's as A.
    """
    shown = dialogue(question, language)
    a, b = (one.strip() or EMPTY[language] for one in (answers if order == 1 else answers[::-1]))
    return REQUESTS[language].format(question=shown, a=a, b=b)


def dialogue(messages: Sequence[Message], language: str) -> str:
    """Messages as a judge is shown them."""
    return "\n".join(f"{SPEAKERS[language][one['role']]}: {_said(one)}" for one in messages)


def _said(message: Message) -> str:
    return "\n".join(filter(None, [message["content"], message.get("input", "")]))


def read_decision(reply: str, is_whole: bool = True) -> str | None:
    """A, B or C, as the last line says, or as it is said nowhere otherwise; None where that can not be read.

    Args:
        is_whole: the reply came to its end; of another one the decision is still to come.
    """
    _, thought, rest = reply.rpartition("</think>")
    if not is_whole or (not thought and "<think>" in reply):
        return None
    lines = [line for line in rest.splitlines() if line.strip()]
    for text in (lines[-1] if lines else "", rest):
        if len(found := set(MARK.findall(text))) == 1:
            return found.pop()
    return None


def score(decision: str, order: int) -> int:
    """1 where the second model's answer is the better one, -1 where the first's is, 0 for a tie."""
    return {"A": -1, "B": 1, "C": 0}[decision] * (1 if order == 1 else -1)


@dataclass
class Tally:
    """What the decisions come to.

    Attributes:
        first, second, ties: questions that a model has won, which takes both orders, and the others.
        identical: of the ties, those with the same answer twice, which no one is asked about.
        agreeing: questions on which both orders say the same; both: those that can be read in both.
        unreadable: replies without a decision; single: questions of which one or no reply can be read.
        at_a: decisions for the answer that stood first, of the `decided` ones that are no ties.
        scores: 1, 0 or -1 for each question, the second model's wins being 1.
    """

    first: int = 0
    second: int = 0
    ties: int = 0
    identical: int = 0
    agreeing: int = 0
    both: int = 0
    unreadable: int = 0
    single: int = 0
    at_a: int = 0
    decided: int = 0
    scores: list[int] = field(default_factory=list)

    def add(self, decisions: Mapping[int, str | None]) -> None:
        """Take in a question: the decision in each of the `ORDERS`."""
        readable = {order: one for order, one in decisions.items() if one is not None}
        self.unreadable += len(decisions) - len(readable)
        self.decided += sum(one != "C" for one in readable.values())
        self.at_a += sum(one == "A" for one in readable.values())
        if len(readable) < len(ORDERS):
            self.single += 1
            return
        found = [score(one, order) for order, one in readable.items()]
        self.both += 1
        self.agreeing += found[0] == found[1]
        self._count(found[0] if found[0] == found[1] else 0)

    def add_identical(self) -> None:
        self.identical += 1
        self._count(0)

    def _count(self, found: int) -> None:
        self.scores.append(found)
        self.first += found < 0
        self.second += found > 0
        self.ties += not found

    def advantage(self) -> Difference | None:
        """Wins less losses of the second model, by question, and its interval; None for fewer than two questions."""
        if len(self.scores) < 2:
            return None
        return paired_difference(Scores.of([0.0] * len(self.scores)), Scores.of(self.scores))
