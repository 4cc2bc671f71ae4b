"""The kind `judge`: which of two models answers better, by the word of a third that sees each pair in both orders.

A model wins a question where it is preferred in both orders; all else that can be read is a tie (Zheng et al., Judging
LLM-as-a-Judge with MT-Bench and Chatbot Arena, 2023, which also shows why: judges prefer what stands first). A reply
that has no decision is counted and never guessed.
"""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vicuna.crawling.client import MOST_FAILURES, as_they_come, ask, make_client, reply_text
from vicuna.errors import UserError
from vicuna.evaluation.answer_files import Answer, Answers, read_answers
from vicuna.evaluation.bootstrap import share_interval
from vicuna.evaluation.flags import OutputFlags
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.evaluation.judging import ORDERS, Tally, dialogue, read_decision, request
from vicuna.evaluation.markdown import table
from vicuna.evaluation.score_flags import JudgeFlags
from vicuna.log import log

if TYPE_CHECKING:
    from openai import AsyncOpenAI


def judge_answers(flags: JudgeFlags, output: OutputFlags) -> None:
    """Ask about each pair that is not judged yet, and write who won.

    Raises:
        UserError: answers that can not be compared, a judge that refuses or fails.
        Stopped: a signal; how much is judged.
    """
    first, second = read_pair(flags.answers)
    records = [number for number in first.rows if number in second.rows]
    if left_out := len(first.rows) + len(second.rows) - 2 * len(records):
        log.warning("WARNING %d answers have no other one to compare with, and are left out", left_out)
    client = make_client(flags.base_url, flags.key_variable, flags.retries, flags.timeout)
    names = ("base_url", "model", "language", "temperature", "max_tokens")
    settings = {"--answers": [first.model, second.model], **{f"--{name}": getattr(flags, name) for name in names}}
    contents = {f"--answers {one.model}": one.sha256 for one in (first, second)}
    asked = [number for number in records if _words(first.rows[number]) != _words(second.rows[number])]
    with open_journal(output, "judge", ("record", "order"), settings, contents) as journal:
        with journal.stopping(len(ORDERS) * len(asked), "replies of the judge are there"):
            problem = asyncio.run(_ask_all(flags, client, (first, second), asked, journal))
        tally = _tally(records, asked, journal)
        shown = describe(tally, first.model, second.model)
        journal.write(_results(tally, first.model, second.model), f"# Judged by {flags.model}\n\n{shown}\n")
    print(shown, flush=True)
    if problem:
        raise UserError(
            f"{len(ORDERS) * len(asked) - len(journal.lines)} calls failed, one with: {problem}. Their questions do "
            "not count yet; the same command asks them again."
        )


def read_pair(paths: list[str]) -> tuple[Answers, Answers]:
    """The answers of two models to the same questions.

    Raises:
        UserError: not two; a question that is not told, or another one.
    """
    found = read_answers(paths, "--answers")
    if len(found) != 2:
        raise UserError(f"--answers has {len(found)} models, {', '.join(one.model for one in found)}: expected two.")
    first, second = found
    for number in [number for number in first.rows if number in second.rows]:
        one, other = first.rows[number], second.rows[number]
        if not one.question:
            raise UserError(f"--answers {first.model}: record {number} does not say what was asked.")
        if one.question != other.question:
            raise UserError(
                f"record {number} is another question in {first.model} than in {second.model}: name answers to the "
                "same ones."
            )
    if not any(number in second.rows for number in first.rows):
        raise UserError(f"{first.model} and {second.model} have no question in common.")
    return first, second


def describe(tally: Tally, first: str, second: str) -> str:
    """The table, and how far the judge can be trusted."""
    total = len(tally.scores)
    rows = [(first, *map(str, (tally.first, tally.ties, tally.second))),
            (second, *map(str, (tally.second, tally.ties, tally.first)))]  # fmt: skip
    lines = [table(("model", "wins", "ties", "losses"), rows), ""]
    if one := tally.advantage():
        said = (
            "better" if one.low > 0 else "worse" if one.high < 0 else "neither better nor worse, as far as can be told"
        )
        lines.append(
            f"{second} is {said}: wins less losses {100 * one.value:+.1f} % of {total} questions, 95 % interval "
            f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]."
        )
    low, high = share_interval(tally.at_a, tally.decided)
    lines.append(f"The two orders agree on {_share(tally.agreeing, tally.both)}; where they do not, it is a tie.")
    lines.append(
        f"The answer that stood first was preferred in {_share(tally.at_a, tally.decided)} decisions for one, 95 % "
        f"interval [{100 * low:.0f}, {100 * high:.0f}] %"
        f"{': the judge is biased by the place.' if low > 0.5 or high < 0.5 else '.'}"
    )
    if tally.identical:
        lines.append(f"{tally.identical} of the ties are the same answer twice, which nobody was asked about.")
    lines.append(
        f"{tally.unreadable} replies have no decision that can be read; {tally.single} questions do not count for it."
    )
    return "\n".join(lines)


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.0f} %)" if of else "0 of 0"


def _words(one: Answer) -> tuple[str, ...]:
    """What is compared to tell whether two answers are the same."""
    return one.answer.strip(), *(message["content"] for message in one.said)


async def _ask_all(
    flags: JudgeFlags, client: "AsyncOpenAI", pair: tuple[Answers, Answers], asked: list[int], journal: Journal
) -> str:
    """Ask for what is not in the journal; why one of the calls failed, "" where none did.

    Raises:
        UserError: calls that fail one after the other.
    """
    todo = [(number, order) for number in asked for order in ORDERS if (number, order) not in journal]
    calls = (_judge(flags, client, pair, number, order) for number, order in todo)
    problem, in_a_row = "", 0
    with tqdm(total=len(ORDERS) * len(asked), initial=len(ORDERS) * len(asked) - len(todo), desc="Judging",
              unit="reply", disable=None, leave=False) as bar:  # fmt: skip
        async for line, why in as_they_come(calls, flags.jobs):
            in_a_row = in_a_row + 1 if why else 0
            if in_a_row == MOST_FAILURES:
                raise UserError(
                    f"{in_a_row} calls in a row failed, the last with: {why}. The {len(journal.lines)} replies in "
                    f"{journal.folder} stand; the same command goes on."
                )
            if why:
                problem = why
                continue
            journal.add(line)
            bar.update()
    return problem


async def _judge(
    flags: JudgeFlags, client: "AsyncOpenAI", pair: tuple[Answers, Answers], number: int, order: int
) -> tuple[dict[str, Any], str]:
    """The line of a reply, or why there is none."""
    one, other = (answers.rows[number] for answers in pair)
    text = request(one.question, (_shown(one, flags), _shown(other, flags)), order, flags.language)
    reply, problem = await ask(client, flags.model, text, temperature=flags.temperature, max_tokens=flags.max_tokens)
    if problem:
        return {}, problem
    said = reply_text(reply)
    whole = bool(said) and reply.choices[0].finish_reason != "length"
    return {"record": number, "order": order, "decision": read_decision(said, whole), "reply": said}, ""


def _shown(one: Answer, flags: JudgeFlags) -> str:
    """An answer, in a later turn behind what the model has said before."""
    if not one.said:
        return one.answer
    return dialogue([*one.said, {"role": "assistant", "content": one.answer}], flags.language)


def _tally(records: list[int], asked: list[int], journal: Journal) -> Tally:
    found, pairs = Tally(), set(asked)
    for number in records:
        if number not in pairs:
            found.add_identical()
        elif all((number, order) in journal for order in ORDERS):
            found.add({order: journal[number, order]["decision"] for order in ORDERS})
    return found


def _results(tally: Tally, first: str, second: str) -> dict[str, Any]:
    low, high = share_interval(tally.at_a, tally.decided)
    counts = {name: value for name, value in asdict(tally).items() if name != "scores"}
    one = tally.advantage()
    interval = [one.value, one.low, one.high] if one else None
    return {"first_model": first, "second_model": second, **counts, "advantage_of_second": interval,
            "at_a_interval": [low, high]}  # fmt: skip
