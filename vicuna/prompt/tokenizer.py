"""Text to token ids and back, exactly as the base model's own tokenizer defines it.

Where the base has a `tokenizer.model`, SentencePiece itself does the work: converters to the tokenizers library
rank merges, and so differ wherever pieces share a score (runs of spaces in LLaMA's, every Chinese piece of the
enlarged vocabularies). Only a base without that file is read from its `tokenizer.json`.
"""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vicuna.errors import UserError, listing
from vicuna.foreign import NEVER_RUN, describe_odd_file, is_tiktoken, names_own_code

# Begins every decoding, and is cut off again: decoders treat the first piece of a text specially.
_ANCHOR = "a"


class TextTokenizer:
    """Ids of a text's beginning and of its continuation; decoding of what follows other text.

    Text never becomes a control id: `</s>` typed by somebody is five ordinary characters. BOS and EOS are the
    caller's to add.

    Args:
        path: the folder with the tokenizer's files.
        model: a serialised SentencePiece model to read in their place; `path` is then the file it came in.

    Attributes:
        bos_id, eos_id, unk_id: as the tokenizer itself declares them; `unk_id` is None where it has none.
        size: number of pieces.
        markers: names of the control and user-defined pieces, by id.
        user_defined: the latter as they stand in a text; of a SentencePiece model only.
        source: the file the ids come from.
    """

    def __init__(self, path: Path, model: bytes | None = None):
        names = ("tokenizer.model", "tokenizer.json")
        self.source = path if model else next((path / name for name in names if (path / name).is_file()), None)
        if self.source and not model and is_tiktoken(self.source) and (path / "tokenizer.json").is_file():
            self.source = path / "tokenizer.json"  # Llama 3's, whose tokenizer.model is another thing
        if self.source is None:
            raise UserError(
                f"{path} has no tokenizer: expected tokenizer.model or tokenizer.json, found {listing(path)}. "
                "Copy the base's tokenizer.model into the folder."
            )
        if model or self.source.suffix == ".model":
            self._read_sentencepiece(model)
        else:
            self._read_json()
        if self.bos_id is None or self.eos_id is None:
            raise UserError(
                f"{self.source} declares bos id {self.bos_id} and eos id {self.eos_id}: both are needed. "
                "Use the tokenizer that belongs to the base."
            )
        self._anchor = self.encode(_ANCHOR)
        self._anchor_width = len(self._decode(self._anchor))
        self._dummy = self.decode_continuation(self._anchor).removesuffix(_ANCHOR)

    def _read_sentencepiece(self, model: bytes | None) -> None:
        proto, beginning = read_sentencepiece(self.source, model)
        continuation = without_dummy_prefix(proto)
        self.encode, self.encode_continuation = beginning.encode, continuation.encode
        self._decode = beginning.decode
        self.bos_id, self.eos_id, self.unk_id = (
            None if i < 0 else i for i in (beginning.bos_id(), beginning.eos_id(), beginning.unk_id())
        )
        self.size = beginning.vocab_size()
        self._control_ids = {i for i in range(self.size) if beginning.is_control(i)}
        marked = (proto.SentencePiece.CONTROL, proto.SentencePiece.USER_DEFINED)
        self.markers = {i: one.piece for i, one in enumerate(proto.pieces) if one.type in marked}
        defined = [one.piece for one in proto.pieces if one.type == one.USER_DEFINED]
        self.user_defined = [piece.replace("▁", " ") for piece in defined]
        self._bytes = _byte_pieces(
            lambda piece: i if beginning.id_to_piece(i := beginning.piece_to_id(piece)) == piece else None
        )

    def _read_json(self) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        try:
            hf = AutoTokenizer.from_pretrained(self.source.parent, **NEVER_RUN)
            beginning = hf.backend_tokenizer
            self.bos_id, self.eos_id, self.unk_id = hf.bos_token_id, hf.eos_token_id, hf.unk_token_id
        except RecursionError as error:  # what transformers ends in where a name is "", as in conversions of 2023
            raise UserError(
                f"{self.source} cannot be read as a tokenizer: tokenizer_config.json beside it names no bos_token or "
                'eos_token (""). Write their names there, for LLaMA <s> and </s>.'
            ) from error
        except (ValueError, OSError, AttributeError, KeyError, TypeError) as error:
            if names_own_code(self.source.parent / "tokenizer_config.json"):
                raise UserError(
                    f"{self.source.parent} has a tokenizer with Python code of its own (auto_map in "
                    "tokenizer_config.json), which is never run: copy the model's tokenizer.model into the folder, if "
                    "it has one, or take a base whose tokenizer transformers knows."
                ) from error
            if odd := describe_odd_file(self.source, is_text=True):
                raise UserError(f"{self.source} {odd}") from error
            raise UserError(f"{self.source} cannot be read as a tokenizer ({error}).") from error
        beginning.encode_special_tokens = True
        continuation = Tokenizer.from_str(_without_prefix(beginning.to_str()))
        continuation.encode_special_tokens = True
        self.encode = lambda text: beginning.encode(text, add_special_tokens=False).ids
        self.encode_continuation = lambda text: continuation.encode(text, add_special_tokens=False).ids
        self._decode = beginning.decode
        self.size = beginning.get_vocab_size()
        added = beginning.get_added_tokens_decoder()
        self._control_ids = {i for i, token in added.items() if token.special}
        self.markers = {i: token.content for i, token in added.items()}
        self.user_defined: list[str] = []
        self._bytes = _byte_pieces(beginning.token_to_id)

    def decode_continuation(self, ids: list[int]) -> str:
        """The text of `ids` that follow other text: a leading space is kept, control ids are not text."""
        text_ids = [i for i in ids if self._is_text(i)]
        return self._decode(self._anchor + text_ids)[self._anchor_width :]

    def token_name(self, i: int) -> str:
        """What a token is called by itself: its text, `<0xE6>` for a byte of a character, `</s>` for EOS."""
        if i in self._bytes:
            return f"<0x{self._bytes[i]:02X}>"
        return self.markers.get(i) or self.decode_continuation([i])

    def without_dummy(self, text: str) -> str:
        """A text from `decode_continuation`, were its ids those of a beginning: without the space these begin with."""
        return text.removeprefix(self._dummy)

    def drop_partial_character(self, ids: list[int]) -> list[int]:
        """`ids` without a last character of which only some bytes are there yet."""
        run = []
        for i in reversed(ids):
            if (value := self._bytes.get(i)) is None:
                break
            run.insert(0, value)
        if run:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            decoder.decode(bytes(run))
            pending, _ = decoder.getstate()
            return ids[: len(ids) - len(pending)]
        # Byte-level pieces hold several bytes: drop pieces until the text ends well, or in a U+FFFD that was meant.
        meant = self.encode_continuation("\ufffd")
        for missing in range(min(4, len(ids) + 1)):
            kept = ids[: len(ids) - missing]
            if not self.decode_continuation(kept).endswith("\ufffd") or kept[-len(meant) :] == meant:
                return kept
        return ids

    def stable_prefix(self, ids: list[int]) -> tuple[int, str]:
        """How many of `ids` have the same text whatever follows, and it; not those that may end inside a character."""
        end = len(ids)
        while end and (ids[end - 1] in self._bytes or not self._is_text(ids[end - 1])):
            end -= 1
        text = self.decode_continuation(ids[:end])
        # Byte-level pieces hold several bytes, and show a character that is not complete as U+FFFD.
        return (0, "") if text.endswith("\ufffd") else (end, text)

    def _is_text(self, i: int) -> bool:
        return i < self.size and i not in self._control_ids


def read_sentencepiece(file: Path, model: bytes | None = None) -> tuple[Any, Any]:
    """A SentencePiece model as its protobuf, and what encodes with it.

    Args:
        model: the bytes of it, where the file is of another kind that holds it.

    Raises:
        UserError: it is none.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model or file.read_bytes())
        if not proto.pieces:
            raise ValueError("it has no pieces")
        return proto, SentencePieceProcessor(model_proto=proto.SerializeToString())
    except Exception as error:  # protobuf's and sentencepiece's own error types share no base class
        if not model and (odd := describe_odd_file(file)):
            raise UserError(f"{file} {odd}") from error
        raise UserError(f"{file} is not a SentencePiece model ({error}). Copy the file again.") from error


def without_dummy_prefix(proto: Any) -> Any:
    """What encodes with a SentencePiece model, and puts no space before the text."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    bare = sentencepiece_model_pb2.ModelProto()
    bare.CopyFrom(proto)
    bare.normalizer_spec.add_dummy_prefix = False
    return SentencePieceProcessor(model_proto=bare.SerializeToString())


def _byte_pieces(id_of: Callable[[str], int | None]) -> dict[int, int]:
    """The ids of the byte-fallback pieces `<0x00>` to `<0xFF>`, if there are any, and the bytes they stand for."""
    ids = {value: id_of(f"<0x{value:02X}>") for value in range(256)}
    return {i: value for value, i in ids.items() if i is not None}


def _without_prefix(tokenizer_json: str) -> str:
    """A tokenizer.json that puts no space before the text: neither a Prepend normaliser nor a Metaspace prefix."""
    spec = json.loads(tokenizer_json)

    def strip(part: dict | None) -> dict | None:
        if part is None or part["type"] == "Prepend":
            return None
        if part["type"] == "Metaspace":
            return {**part, "prepend_scheme": "never"}
        if part["type"] == "Sequence":
            key = "normalizers" if "normalizers" in part else "pretokenizers"
            return {**part, key: [kept for kept in map(strip, part[key]) if kept is not None]}
        return part

    return json.dumps({**spec, "normalizer": strip(spec["normalizer"]), "pre_tokenizer": strip(spec["pre_tokenizer"])})
