"""A data file's bytes -> text."""

from pathlib import Path

from vicuna.errors import UserError

ENCODINGS = ("utf-8", "gb18030")


def decode_text(raw: bytes, path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a data file's bytes and its encoding, which is found out where none is given.

    Raises:
        UserError: an unknown encoding, or one that the file is not in.
    """
    if encoding is None and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    for name in [encoding] if encoding else ENCODINGS:
        try:
            return raw.decode("utf-8-sig" if name == "utf-8" else name), name
        except UnicodeDecodeError:
            continue
        except LookupError:
            raise UserError(f"--encoding {name} is not a known text encoding; try utf-8, utf-16 or gb18030.") from None
    tried = encoding or "UTF-8, UTF-16 with a byte order mark or GB18030"
    raise UserError(f"{path} is not text in {tried}; name its encoding with --encoding, or save it as UTF-8.")
