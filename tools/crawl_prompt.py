"""Have a language model write instruction records, through any endpoint of OpenAI's form, and keep the good ones.

    OPENAI_API_KEY=… python tools/crawl_prompt.py records.jsonl --base_url https://api.example.com/v1 --model NAME
    python tools/crawl_prompt.py records.jsonl --base_url http://127.0.0.1:7860/v1 --model NAME --topics 天文 农业

Asks for --per_call records at a time. Each is written to the file as it comes, with instruction, input and output; what
is no such record, and near-duplicates, go to records.refused.jsonl with the reason. The same command goes on where it
stopped. The key is read from the environment and written nowhere.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna import log
from vicuna.args import at_least, check_seed, flag, parse
from vicuna.crawling.client import MOST_FAILURES, check_address
from vicuna.errors import UserError, ended_by_signals, run
from vicuna.foreign.paths import read_text

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from vicuna.crawling.collection import Collection

MOST_IN_VAIN = 20  # calls in a row that may bring nothing new


@dataclass
class CrawlFlags:
    """Whom to ask for what, and when to stop."""

    output: str = flag("", "file to write, .jsonl; the first word of the command line, too")
    base_url: str = flag("", "address of the endpoint, up to /v1")
    model: str = flag("", "the model's name there")
    topics: list[str] = flag([], "what the records are to be about; a name of a .txt file with one in each line counts")
    num_records: int = flag(100, "records that the file is to hold at the end")
    per_call: int = flag(20, "records asked for in one call")
    jobs: int = flag(4, "calls at a time")
    most_calls: int = flag(0, "calls of this run at most; 0 for no bound")
    most_similar: float = flag(70.0, "how like an earlier question a new one may be, of 100")
    temperature: float = flag(1.0, "of the model's sampling")
    max_tokens: int = flag(4096, "tokens of a reply")
    retries: int = flag(6, "times that a call is tried again after a rate limit, a server's error or a timeout")
    timeout: float = flag(120.0, "seconds that a call may take")
    price_prompt: float = flag(0.0, "price of a million tokens of requests, to show what the run costs")
    price_completion: float = flag(0.0, "price of a million tokens of replies")
    most_cost: float = flag(0.0, "stop asking once the run has cost that; 0 for no bound")
    key_variable: str = flag("OPENAI_API_KEY", "environment variable that holds the key")
    seed: int = flag(42, "of what is drawn for each call")

    def __post_init__(self) -> None:
        for name in ("num_records", "per_call", "jobs", "max_tokens"):
            at_least(f"--{name}", getattr(self, name), 1)
        for name in (
            "most_calls",
            "most_similar",
            "temperature",
            "retries",
            "price_prompt",
            "price_completion",
            "most_cost",
        ):
            at_least(f"--{name}", getattr(self, name), 0)
        at_least("--timeout", self.timeout, 0.1)
        check_seed(self.seed)
        if not self.output or not self.base_url or not self.model:
            lacking = next(name for name in ("output", "base_url", "model") if not getattr(self, name))
            raise UserError(f"--{lacking} is missing: expected FILE --base_url https://…/v1 --model NAME.")
        check_address(self.base_url)
        if self.most_cost and not (self.price_prompt or self.price_completion):
            raise UserError(f"--most_cost {self.most_cost:g} needs --price_prompt and --price_completion.")


@dataclass
class Spent:
    """What this run has asked and paid for."""

    calls: int = 0
    prompt: int = 0
    completion: int = 0
    uncounted: int = 0  # replies that did not say their tokens

    def cost(self, flags: CrawlFlags) -> float:
        return (self.prompt * flags.price_prompt + self.completion * flags.price_completion) / 1e6


def main(flags: CrawlFlags) -> None:
    """Check, then ask until the file holds enough."""
    log.set_up()
    topics = read_topics(flags.topics)
    from vicuna.crawling.client import make_client
    from vicuna.crawling.collection import open_collection

    client = make_client(flags.base_url, flags.key_variable, flags.retries, flags.timeout)

    spent = Spent()
    with ended_by_signals(), open_collection(Path(flags.output).expanduser(), flags.most_similar) as collection:
        before = len(collection)
        try:
            if before < flags.num_records:
                asyncio.run(crawl(flags, client, collection, topics, spent))
        finally:
            print_summary(flags, collection, before, spent)
    if len(collection) == before and before < flags.num_records:
        raise UserError("no call brought a record that can be used: see the reasons above.")


def read_topics(said: list[str]) -> list[str]:
    """The topics as given, and those in the files among them; our own where none are.

    Raises:
        UserError: a file without any.
    """
    from vicuna.crawling.prompts import TOPICS

    topics = []
    for one in said:
        if not one.endswith(".txt"):
            topics.append(one)
            continue
        try:
            lines = read_text(Path(one).expanduser()).splitlines()
        except UserError as error:
            raise UserError(f"--topics {error} Expected a topic a line.") from error
        if not any(map(str.strip, lines)):
            raise UserError(f"--topics {one} holds no topic; expected one in each line.")
        topics += [line.strip() for line in lines if line.strip()]
    return list(dict.fromkeys(topics)) or list(TOPICS)


async def crawl(
    flags: CrawlFlags, client: "AsyncOpenAI", collection: "Collection", topics: list[str], spent: Spent
) -> None:
    """Ask, --jobs calls at a time, until there are enough records or a bound is reached.

    Raises:
        UserError: calls that fail, or bring nothing, one after the other.
    """
    from tqdm import tqdm

    failures = in_vain = 0
    calls: set[asyncio.Task] = set()
    first = collection.calls
    with tqdm(total=flags.num_records, initial=len(collection), unit="record", disable=None, leave=False) as bar:
        while True:
            enough = len(collection) >= flags.num_records or (flags.most_cost and spent.cost(flags) >= flags.most_cost)
            while not enough and len(calls) < flags.jobs and spent.calls < (flags.most_calls or sys.maxsize):
                calls.add(asyncio.create_task(call(flags, client, first + spent.calls, topics)))
                spent.calls += 1
            if not calls:
                return
            done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                number, reply, problem = one.result()
                failures = failures + 1 if problem else 0
                if failures == MOST_FAILURES:
                    raise UserError(
                        f"{failures} calls in a row failed, the last with: {problem}. The {len(collection)} records of "
                        f"{flags.output} stand; the same command goes on."
                    )
                if problem:
                    log.log.warning("WARNING   call %d failed: %s", number, problem)
                    continue
                new = take(reply, number, flags, collection, spent)
                in_vain = 0 if new else in_vain + 1
                if in_vain == MOST_IN_VAIN:
                    raise UserError(
                        f"{in_vain} calls in a row brought nothing new: see why in the refused records; other --topics "
                        f"or another --model may. The {len(collection)} records of {flags.output} stand."
                    )
                bar.update(new)
                bar.set_postfix_str(f"{spent.prompt + spent.completion:,} tokens, cost {spent.cost(flags):.4f}")


async def call(flags: CrawlFlags, client: "AsyncOpenAI", number: int, topics: list[str]) -> tuple[int, Any, str]:
    """(number, reply, why it failed) of a call.

    Raises:
        UserError: asking again can not help.
    """
    from vicuna.crawling.client import ask
    from vicuna.crawling.prompts import request

    text = request(number, flags.seed, flags.per_call, topics)
    reply = await ask(client, flags.model, text, temperature=flags.temperature, max_tokens=flags.max_tokens)
    return number, *reply


def take(reply: Any, number: int, flags: CrawlFlags, collection: "Collection", spent: Spent) -> int:
    """Write what a reply holds; how many records were new."""
    from vicuna.crawling.client import reply_text
    from vicuna.crawling.replies import Refused, read_reply

    usage = getattr(reply, "usage", None)
    if usage and isinstance(usage.prompt_tokens, int) and isinstance(usage.completion_tokens, int):
        spent.prompt += usage.prompt_tokens
        spent.completion += usage.completion_tokens
    else:
        spent.uncounted += 1
    text = reply_text(reply)
    if not text.strip():
        collection.refuse(Refused("an empty reply", str(reply)[:400]), number)
        return 0
    records, refused = read_reply(text)
    for one in refused:
        collection.refuse(one, number)
    return sum(collection.add(record, number, flags.model) for record in records)


def print_summary(flags: CrawlFlags, collection: "Collection", before: int, spent: Spent) -> None:
    """What came of this run."""
    refused = ", ".join(f"{count} {reason}" for reason, count in collection.refused.most_common()) or "nothing"
    cost = f", cost {spent.cost(flags):.4f}" if flags.price_prompt or flags.price_completion else ""
    unknown = f", {spent.uncounted} replies without a count" if spent.uncounted else ""
    print(f"{flags.output}: {len(collection)} records, {len(collection) - before} of them new")
    print(f"  refused  {refused}")
    print(f"  asked    {spent.calls} calls, {spent.prompt:,} + {spent.completion:,} tokens{unknown}{cost}", flush=True)


def with_output(argv: list[str]) -> list[str]:
    """A file that stands first, without a flag, is --output."""
    return ["--output", *argv] if argv and not argv[0].startswith("-") else argv


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, CrawlFlags, argv=with_output(sys.argv[1:]))))
