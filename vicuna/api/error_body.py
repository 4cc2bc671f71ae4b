"""Refusals and failures in OpenAI's form: whatever is wrong with a request is raised as one, wherever it is found."""

from typing import Any

from starlette.responses import JSONResponse

# Slow bodies and a full queue: the same request can succeed later. OpenAI's client would send those with 500 again too.
WORTH_ANOTHER_TRY = (408, 429)


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
