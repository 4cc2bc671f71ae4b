"""Refusals and failures in OpenAI's form: whatever is wrong with a request is raised as one, wherever it is found.

A body names fields of requests alone. The flag that would help is for who runs the server, and goes to its log.
"""

from typing import Any

from starlette.responses import JSONResponse

from vicuna.errors import UserError
from vicuna.log import log
from vicuna.sentences import Sentence

# Slow bodies and a full queue: the same request can succeed later. OpenAI's client would send those with 500 again too.
WORTH_ANOTHER_TRY = (408, 429)

# Sentences that name what a page shows -> the same for a program, and what the server's log says beside.
FOR_PROGRAMS = {
    "message_beyond_memory": (
        "the messages need {tokens} tokens, and this server takes {memory} of a conversation: shorten them.",
        "a request was refused: its messages need {tokens} tokens, more than --max_memory {memory}; a "
        "larger one makes room, as far as the context goes",
    ),
    "out_of_memory": (
        "out of memory while answering: lower max_tokens or num_beams, or shorten the messages.",
        "a request ran out of memory; a lower --max_memory or --context keeps requests shorter, and lower --bits leave "
        "more room",
    ),
}


def said_to_programs(error: UserError) -> str:
    """What an error says, in words of requests; what only its server can change is logged."""
    said = error.args[0] if error.args else ""
    if not isinstance(said, Sentence) or said.key not in FOR_PROGRAMS:
        return str(error)
    body, hint = FOR_PROGRAMS[said.key]
    log.info("%s", hint.format(**said.parts))
    return body.format(**said.parts)


class APIError(Exception):
    """What is wrong with a request, as an error body of OpenAI's shape.

    Args:
        param: the field of the request that it is about.
        code: what a program can tell it by.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        again = {} if self.status in WORTH_ANOTHER_TRY else {"x-should-retry": "false"}
        return JSONResponse(self.body, self.status, self.headers | again)
