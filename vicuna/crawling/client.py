"""Any endpoint of OpenAI's form, asked one call after another or several at a time: retries, rate limits, the key.

The key is read from the environment and written nowhere. What a server refuses for good ends the program, what may go
better the next time is said and left to who asked.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vicuna.errors import UserError, first_line
from vicuna.files.proxies import without_proxies

if TYPE_CHECKING:
    from openai import AsyncOpenAI

HERE = {"127.0.0.1", "localhost", "::1"}
MOST_FAILURES = 5  # calls in a row that may fail, each after its retries


def check_address(base_url: str) -> None:
    """See that an endpoint's address is one.

    Raises:
        UserError: it is not.
    """
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
        raise UserError(f"--base_url {base_url} is no address; expected such as http://127.0.0.1:7860/v1.")


def make_client(base_url: str, key_variable: str, retries: int, timeout: float) -> "AsyncOpenAI":
    """A client that waits and tries again by itself.

    Args:
        timeout: seconds that a call may take.

    Raises:
        UserError: no key, or a proxy that it can not use.
    """
    from openai import AsyncOpenAI

    here = urlsplit(base_url).hostname in HERE
    key = os.environ.get(key_variable) or ("none" if here else "")
    if not key:
        raise UserError(
            f"{key_variable} is not set: put the key of {base_url} into it, or name another variable by --key_variable."
        )
    try:
        with without_proxies() if here else nullcontext():
            return AsyncOpenAI(base_url=base_url, api_key=key, max_retries=retries, timeout=timeout)
    except (ValueError, ImportError) as error:
        raise UserError(f"the proxy that this shell sets can not be used ({first_line(error)}): unset it.") from error


async def ask(
    client: "AsyncOpenAI", model: str, asked: str | Sequence[Mapping[str, str]], **settings: Any
) -> tuple[Any, str]:
    """(reply, "") to a text, or (None, why the call failed).

    Args:
        asked: the text, or all messages of a conversation, the last of them the user's.
        settings: of the request, such as temperature and max_tokens.

    Raises:
        UserError: asking again can not help.
    """
    import openai

    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    try:
        reply = await client.chat.completions.create(model=model, messages=messages, **settings)
    except openai.APIStatusError as error:
        said = f"status {error.status_code}, {first_line(error)[:300].rstrip('.')}"
        if error.status_code < 500 and error.status_code not in (408, 409, 429):
            raise UserError(
                f"{str(client.base_url).rstrip('/')} refuses the request: {said}. Look at --model, --base_url, key."
            ) from error
        return None, said
    except (openai.OpenAIError, ValueError) as error:
        return None, first_line(error)[:300]
    return reply, ""


def reply_text(reply: Any) -> str:
    """What a reply says, "" where it is none."""
    choices = getattr(reply, "choices", None)
    text = choices[0].message.content if choices and choices[0].message else None
    return text if isinstance(text, str) else ""


async def as_they_come(calls: Iterable[Awaitable[Any]], jobs: int) -> AsyncIterator[Any]:
    """The results of calls, `jobs` at a time, each as soon as it is there; one that raises ends the others."""
    waiting, running = iter(calls), set()
    try:
        while True:
            while len(running) < jobs and (call := next(waiting, None)) is not None:
                running.add(asyncio.ensure_future(call))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                yield one.result()
    finally:
        for one in running:
            one.cancel()
