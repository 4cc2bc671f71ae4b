"""JSON from elsewhere, read once into a typed value that has only what is used, each field with its bounds.

    class Rotation(Foreign):
        rope_theta: Positive = 10000.0

    @opens({"hidden_size": 64, "rope": {"rope_theta": 5e5}})
    class BaseConfig(Foreign): ...

`READERS` has every such kind of file with an example, from which tests/foreign/ makes its odd values.
"""

import json
import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vicuna.errors import UserError
from vicuna.foreign.odd_files import describe_odd_file
from vicuna.foreign.paths import read_bounded, shortened

# No natural bounds, so generous ones: real configs have a few KB, those with a pattern for each module 100.
JSON_LIMIT = 4 << 20  # bytes
MOST_DEPTH = 64  # real files: at most 12
MOST_PARTS = 2_000_000  # lists and objects of a file, each of which takes some 64 bytes; a tokenizer.json has 520,000
_AGAIN = "Correct it, or copy the file again."
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS) - {ord('"')})
_NAME = re.compile(r"[\w.\-/ ]{1,80}")

T = TypeVar("T", bound="Foreign")


class Foreign(BaseModel):
    """What is used of a JSON object that somebody else wrote: strict types, finite numbers; what it has beside is left.

    Fields have their bounds in the type, as `Count` below has them.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True, protected_namespaces=())


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | str) and not isinstance(value, bool) else value


# Sizes that a library allocates by have narrower bounds of their own where something natural gives them.
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]
Id = Annotated[int, Field(ge=0, le=1 << 24)]  # of a token; vocabularies of today have at most 262,144
Ids = Annotated[list[Id], Field(max_length=10_000), BeforeValidator(_as_list)]  # also one alone
Positive = Annotated[float, Field(gt=0, le=1e12)]
Text = Annotated[str, Field(max_length=1 << 20)]
Name = Annotated[str, Field(max_length=1024)]
Names = Annotated[list[Name], Field(max_length=100_000)]

READERS: dict[type[Foreign], dict[str, Any]] = {}


def opens(example: Mapping[str, Any]) -> Callable[[type[T]], type[T]]:
    """Register a kind of file, with a good example that has each of its fields.

    Raises:
        ValueError: the example is not good.
    """

    def register(kind: type[T]) -> type[T]:
        kind.model_validate(example)
        READERS[kind] = dict(example)
        return kind

    return register


def read_typed(file: Path, kind: type[T], *, limit: int = JSON_LIMIT, missing: T | None = None) -> T:
    """A JSON file as a value of `kind`.

    Args:
        missing: what is returned where there is no file; None refuses.

    Raises:
        UserError: it can not be read, or which field has which value in place of what.
    """
    if missing is not None and is_absent(file):
        return missing
    return typed(read_object(file, limit), kind, file)


def typed(found: Any, kind: type[T], source: Path | str) -> T:
    """A value that was read already, as one of `kind`.

    Raises:
        UserError: see `read_typed`; `source` begins the sentence.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{source}: {_refusal(error)} {_AGAIN}") from error


def is_absent(file: Path) -> bool:
    """Whether nothing has that name, not even a link that leads nowhere."""
    return not file.exists() and not file.is_symlink()


def read_object(file: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """A JSON object whose fields nobody has looked at yet.

    Raises:
        UserError: it can not be read, is too large, nested too deeply, or is no object.
    """
    found = parse(read_bounded(file, limit), file)
    if not isinstance(found, dict):
        raise UserError(f"{file} is JSON, but no object with names and values. Copy it again.")
    return found


def parse(text: bytes, source: Path | str) -> Any:
    """JSON as Python's values; `source` begins the sentence of a refusal, and is the file if it is a path.

    Raises:
        UserError: it is none, or nested too deeply.
    """
    depth, parts = nesting(text)
    if depth > MOST_DEPTH or parts > MOST_PARTS:
        raise UserError(
            f"{source} has {parts:,} lists and objects, nested {depth} deep; expected at most {MOST_PARTS:,} and "
            f"{MOST_DEPTH}. Copy it again."
        )
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        odd = describe_odd_file(source, is_text=True) if isinstance(source, Path) else ""
        raise UserError(f"{source} {odd or f'is not JSON ({_said(error)}). Copy it again.'}") from error


def nesting(text: bytes) -> tuple[int, int]:
    """How deeply the lists and objects of a JSON text are nested, and how many there are."""
    # What is escaped goes first, so that each quote that is left begins or ends a string.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_BRACKETS)
    brackets = b"".join(bare.split(b'"')[::2])
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0), brackets.count(b"[") + brackets.count(b"{")


def _said(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    text = str(error)
    return "a number of thousands of digits" if text.startswith("Exceeds the limit") else text


def _refusal(error: ValidationError) -> str:
    """The first field that is wrong, its value, and what was expected."""
    one, place = error.errors(include_url=False)[0], ()
    while isinstance(
        inner := one.get("ctx", {}).get("error"), ValidationError
    ):  # of a check that has a type of its own
        place, one = (*place, *one["loc"]), inner.errors(include_url=False)[0]
    place = (*place, *one["loc"])
    field = ".".join(str(part) if _NAME.fullmatch(str(part)) else shortened(part) for part in place)
    beginning = f"{field or 'the whole'} is {'missing' if one['type'] == 'missing' else shortened(one['input'])}"
    return f"{beginning}; expected {_expected(one['type'], one.get('ctx', {}), one['msg'])}."


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind == "value_error":  # raised by a check of ours, which says it
        return str(context["error"])
    if bound := _BOUNDS.get(kind):
        return f"{bound[0]} {context[bound[1]]:g}" if bound[1] != "max_length" else f"{bound[0]} {context[bound[1]]:,}"
    return _KINDS.get(kind) or context.get("expected") or message.removeprefix("Input should be ")


_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "too_long": ("a length of at most", "max_length"),
    "string_too_long": ("a length of at most", "max_length"),
}
_KINDS = {
    "missing": "a value",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_unicode": "a text of valid signs",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object with names and values",
    "model_type": "an object with names and values",
    "model_attributes_type": "an object with names and values",
}
