"""What the API says: OpenAI's bodies of answers, whole and in pieces, and of embeddings.

Pieces are told as server-sent events. Updates hold the whole answer so far, so what a client gets is what has been
added since the last piece.
"""

import base64
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vicuna.answer.detokenize import TextDelta
from vicuna.answer.stream import Update
from vicuna.api.calls import tell
from vicuna.api.error_body import APIError
from vicuna.api.parsing import CompletionRequest, EmbeddingRequest
from vicuna.log import log

BROKEN = "the server failed to answer; its log says why."
NOTICE_HEADER = "X-Vicuna-Notice"


class ChatFormat:
    """How /v1/chat/completions puts the answers to a request."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"
    parts: tuple[str, ...] = ("reasoning_content", "content")  # the texts of an answer

    def __init__(self, asked: CompletionRequest):
        self.asked = asked
        notices = [*asked.notices, asked.left_out] if asked.left_out else asked.notices
        self.headers = {NOTICE_HEADER: "; ".join(notices)} if notices else {}
        self.notices = {"notices": list(asked.notices)} if asked.notices else {}

    def body(self, updates: list[Update]) -> dict[str, Any]:
        """The finished answers."""
        choices = [_choice(i, *self._answer(update)) for i, update in enumerate(updates)]
        return {**self._envelope(self.whole), "choices": choices, "usage": self._usage(updates), **self.notices}

    async def chunks(self, growing: AsyncIterator[tuple[int, Update]]) -> AsyncIterator[dict[str, Any]]:
        """The answers as OpenAI streams them: pieces, the finish reason of each, and at last the usage if asked for."""
        head = self._envelope(self.part) | ({"usage": None} if self.asked.include_usage else {})
        count = len(self.asked.prompts) * self.asked.n
        steady = self.asked.chosen["num_beams"] == 1
        grown = [{name: TextDelta(steady) for name in self.parts} for _ in range(count)]
        latest: dict[int, Update] = {}
        notices = self.notices
        for i in range(count):
            if opening := self._opening():
                yield {**head, "choices": [_choice(i, opening, None)], **notices}
                notices = {}
        async for i, update in growing:
            latest[i] = update
            parts, calls = self._parts(update)
            for name, text in parts.items():
                if new := grown[i][name].new(text, bool(update.finish)):
                    yield {**head, "choices": [_choice(i, self._piece(name, new), None)]}
            for number, call in enumerate(calls):
                delta = {"delta": {"tool_calls": [{"index": number, **call}]}}
                yield {**head, "choices": [_choice(i, delta, None)]}
            if update.finish:
                yield {**head, "choices": [_choice(i, self._piece("", ""), _finish_reason(update, calls))]}
        if self.asked.include_usage:
            yield {**head, "choices": [], "usage": self._usage(list(latest.values()))}

    def _opening(self) -> dict[str, Any] | None:
        """What a stream begins with."""
        return {"delta": {"role": "assistant", "content": ""}}

    def _parts(self, update: Update) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """The texts of an answer by their names, as far as they are sure, and its calls."""
        told = tell(update, self.asked.prompt_end, self.asked.calling)
        return dict(zip(self.parts, (told.thought, told.content), strict=True)), told.calls

    def _answer(self, update: Update) -> tuple[dict[str, Any], str | None]:
        """A whole answer, and why it ended."""
        parts, calls = self._parts(update)
        content = None if calls and not parts["content"] else parts["content"]
        message = {"role": "assistant", "content": content, "refusal": None}
        message |= {"reasoning_content": thought} if (thought := parts["reasoning_content"]) else {}
        message |= {"tool_calls": calls} if calls else {}
        return {"message": message}, _finish_reason(update, calls)

    def _piece(self, name: str, text: str) -> dict[str, Any]:
        """A part of one."""
        return {"delta": {name: text} if text else {}}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return _envelope(self.prefix, kind, self.asked.model)

    def _usage(self, updates: list[Update]) -> dict[str, int]:
        prompt, new = sum(map(len, self.asked.prompts)), sum(update.tokens for update in updates)
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


class CompletionFormat(ChatFormat):
    """How /v1/completions does."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"
    parts = ("text",)

    def _opening(self) -> dict[str, Any] | None:
        return None

    def _parts(self, update: Update) -> tuple[dict[str, str], list[dict[str, Any]]]:
        return {"text": update.text}, []

    def _answer(self, update: Update) -> tuple[dict[str, Any], str | None]:
        return {"text": update.text}, update.finish_reason

    def _piece(self, name: str, text: str) -> dict[str, Any]:
        return {"text": text}


def completion_envelope(model: str) -> dict[str, Any]:
    """What stands around the choices of a completion."""
    return _envelope(CompletionFormat.prefix, CompletionFormat.whole, model)


def _envelope(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": prefix + uuid.uuid4().hex, "object": kind, "created": int(time.time()), "model": model}


def _finish_reason(update: Update, calls: list[dict[str, Any]]) -> str | None:
    return "tool_calls" if calls and update.finish_reason == "stop" else update.finish_reason


def _choice(i: int, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": i, **content, "logprobs": None, "finish_reason": finish}


def embeddings_body(asked: EmbeddingRequest, vectors: list[list[float]]) -> dict[str, Any]:
    """The vectors, as lists or in base64."""
    tokens = sum(map(len, asked.rows))
    data = [
        {"object": "embedding", "index": i, "embedding": _base64(vector) if asked.as_base64 else vector}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class EventStream(StreamingResponse):
    """Server-sent events from `chunks`, behind the last of which comes [DONE]; `at_end` is called however it ends."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], at_end: Callable[[], None], headers: dict[str, str]):
        # Nothing on the way is to gather pieces, or to keep them.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers}
        super().__init__(self._events(chunks), headers=headers)
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_end()

    async def _events(self, chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
        # The status has been sent, so an error becomes an event, behind which nothing is done.
        try:
            async for chunk in chunks:
                yield _event(chunk)
        except APIError as error:
            yield _event(error.body)
        except Exception:
            log.exception("an answer failed on its way")
            yield _event(APIError(500, BROKEN).body)
        else:
            yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
