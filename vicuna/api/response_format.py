"""What form an answer has to have: response_format of a request."""

from typing import Any

from vicuna.answer.assistant import Assistant
from vicuna.answer.grammar import ANY_OBJECT, Grammar
from vicuna.api.error_body import APIError
from vicuna.api.fields import RequestFields, check_type
from vicuna.errors import UserError

FIELD = "response_format"


def read_response_format(fields: RequestFields, assistant: Assistant, chosen: dict[str, Any]) -> Grammar | None:
    """The grammar of JSON that the answer has to follow, None where it is free.

    Args:
        chosen: generate()'s arguments.

    Raises:
        APIError: a form that is not known, a schema that can not be followed, a beam search.
    """
    given = fields.take(FIELD, "an object", {"type": "text"})
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = ANY_OBJECT
    elif kind == "json_schema":
        named = check_type(given.get("json_schema"), f"{FIELD}.json_schema", "an object")
        schema = check_type(named.get("schema"), f"{FIELD}.json_schema.schema", "an object")
    else:
        message = f"{FIELD}.type is {str(kind)[:80]!r}, expected text, json_object or json_schema."
        raise APIError(400, message, f"{FIELD}.type")
    if chosen["num_beams"] > 1:
        raise APIError(400, f"{FIELD} and num_beams {chosen['num_beams']} are not had together: send 1.", FIELD)
    try:
        return Grammar(schema, assistant.engine.tokenizer)
    except UserError as error:
        raise APIError(400, f"{FIELD}: {error}", FIELD) from error
