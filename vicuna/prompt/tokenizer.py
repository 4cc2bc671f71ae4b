"""Text to token ids and back, exactly as the base model's own tokenizer defines it.

Where the base has a `tokenizer.model`, SentencePiece itself does the work: converters to the tokenizers library
rank merges, and so differ wherever pieces share a score (runs of spaces in LLaMA's, every Chinese piece of the
enlarged vocabularies). A base without that file is read from its `tokenizer.json`, by the tokenizers library itself:
transformers 5 puts a class of its own in the place of what the file says (in a qwen2 folder Qwen2's splitting).
"""

import codecs
import threading
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.foreign.libraries import refusals
from vicuna.foreign.odd_files import describe_odd_file
from vicuna.prompt.own_template import ChatTemplate
from vicuna.prompt.pieces import Control, added_controls, byte_pieces, encoder, without_prefix
from vicuna.prompt.rendering import BASE, PLAIN, Settings
from vicuna.prompt.tokenizer_files import TOKENIZER_CONFIG, TokenizerFiles, read_tokenizer_files

# Begins every decoding, and is cut off again: decoders treat the first piece of a text specially.
_ANCHOR = "a"
# Control tokens that are part of an answer's text where a base has them as such; elsewhere they are user-defined.
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_MOST_VIEWS = 64  # settings of a chat template that are kept ready, the functions of an API's clients among them


class TextTokenizer:
    """Ids of a text's beginning and of its continuation; decoding of what follows other text.

    Text never becomes a control id: `</s>` typed by somebody is five ordinary characters. BOS and EOS are the
    caller's to add; only in a rendering of the base's own chat template are the names of control tokens these tokens.

    Args:
        path: the folder with the tokenizer's files, or what was read of them.
        model: a serialised SentencePiece model to read in their place; `path` is then the file it came in.
        settings: what the chat template is rendered with.

    Attributes:
        bos_id, eos_id, unk_id: as the tokenizer itself declares them; None where it has no BOS, or no unknown.
        beginning: what a text begins with: BOS where the base's own tokenizer puts it, else nothing.
        size: number of ids.
        markers: names of the control and user-defined pieces, by id.
        user_defined: the latter as they stand in a text; of a SentencePiece model only.
        source: the file the ids come from.
        chat: the base's own chat template, None where it declares none.
    """

    def __init__(
        self,
        path: Path | TokenizerFiles,
        model: bytes | None = None,
        settings: Settings = PLAIN,
    ):
        if model is not None:
            path = TokenizerFiles(path, sentencepiece=model)
        self.files = path if isinstance(path, TokenizerFiles) else read_tokenizer_files(path)
        self.source = self.files.source
        with refusals(self._unreadable):
            (self._read_json if self.files.sentencepiece is None else self._read_sentencepiece)()
        if self.eos_id is None:
            raise UserError(
                f"{self.source} declares bos id {self.bos_id} and eos id {self.eos_id}: both are needed. "
                "Use the tokenizer that belongs to the base."
            )
        if self.files.adds_bos and self.bos_id is None:
            raise UserError(
                f"{self.source} declares no BOS token, and add_bos_token that one is to be added: correct "
                f"{TOKENIZER_CONFIG}."
            )
        self.beginning = [self.bos_id] if self._adds_bos and self.bos_id is not None else []
        self._tags = {one.id: tag for tag in _TAGS if (one := self._controls.get(tag))}
        self._anchor = self.encode(_ANCHOR)
        self._anchor_width = len(self._decode(self._anchor))
        self._dummy = self.decode_continuation(self._anchor).removesuffix(_ANCHOR)
        self.chat = self._open_template(settings)
        self._views: OrderedDict[Settings, TextTokenizer] = OrderedDict()  # shared by all views of a tokenizer
        self._lock = threading.Lock()

    def __copy__(self) -> "TextTokenizer":
        """A view of this one: without this, copying would go by `__reduce__`, and read all pieces again."""
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        return view

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process it is made anew, of the same files, for the same day."""
        return type(self), (self.files, None, replace(self.chat.settings, day=self.chat.day) if self.chat else PLAIN)

    def _unreadable(self, said: str) -> str:
        return f"{self.source} cannot be read as a tokenizer ({said}). Copy the file again."

    def _read_sentencepiece(self) -> None:
        given = self.files.sentencepiece if self.source.suffix != ".model" else None
        proto, beginning = read_sentencepiece(self.source, given)
        continuation = without_dummy_prefix(proto)
        self.encode, self.encode_continuation = beginning.encode, continuation.encode
        self._decode = beginning.decode
        self.bos_id, self.eos_id, self.unk_id = (
            None if i < 0 else i for i in (beginning.bos_id(), beginning.eos_id(), beginning.unk_id())
        )
        said = self.files.adds_bos
        self._adds_bos = True if said is None else said
        self.size = beginning.vocab_size()
        self._control_ids = {i for i in range(self.size) if beginning.is_control(i)}
        marked = (proto.SentencePiece.CONTROL, proto.SentencePiece.USER_DEFINED)
        self.markers = {i: one.piece for i, one in enumerate(proto.pieces) if one.type in marked}
        defined = [one.piece for one in proto.pieces if one.type == one.USER_DEFINED]
        self.user_defined = [piece.replace("▁", " ") for piece in defined]
        self._bytes = byte_pieces(
            lambda piece: i if beginning.id_to_piece(i := beginning.piece_to_id(piece)) == piece else None
        )
        self._controls = {self.markers[i]: Control(i) for i in sorted(self._control_ids)}
        self._controls |= added_controls(self.files.config, self.size, self._control_ids)
        # llama.cpp and the tokenizers of 2023 put a space before each text that follows a control token.
        self._parts = beginning.encode, continuation.encode, beginning.encode

    def _read_json(self) -> None:
        from tokenizers import Tokenizer

        from vicuna.prompt.tokenizer_fields import check_spec

        if self.files.has_own_code:
            raise UserError(
                f"{self.source.parent} has a tokenizer with Python code of its own (auto_map in "
                f"{TOKENIZER_CONFIG}), which is never run: copy the model's tokenizer.model into the folder, if it has "
                "one, or take a base whose tokenizer transformers knows."
            )
        spec = check_spec(self.files.json.encode("utf-8", "surrogatepass"), self.source)
        beginning = Tokenizer.from_str(self.files.json)
        # Settings of who wrote the file for training of its own; texts here are as long as they are.
        beginning.no_padding()
        beginning.no_truncation()
        names = {name: self.files.token(f"{name}_token") for name in ("bos", "eos", "unk")}
        if "" in (names["bos"], names["eos"]):
            raise UserError(
                f"{self.source} cannot be read as a tokenizer: {TOKENIZER_CONFIG} beside it names no bos_token or "
                'eos_token (""). Write their names there, for LLaMA <s> and </s>.'
            )
        self.bos_id, self.eos_id, self.unk_id = (
            None if name is None else beginning.token_to_id(name) for name in names.values()
        )
        # Asked of its own settings where they say nothing: a Llama 3 has BOS in its post-processor only.
        said, first = self.files.adds_bos, beginning.encode(_ANCHOR).ids[:1]
        self._adds_bos = first == [self.bos_id] if said is None else said
        text = beginning.to_str()
        beginning.encode_special_tokens = True
        rendering, bare = Tokenizer.from_str(text), without_prefix(text)
        continuation, further = beginning, rendering
        if bare != text:  # of a vocabulary of 150,000 each takes most of a second
            continuation, further = Tokenizer.from_str(bare), Tokenizer.from_str(bare)
            continuation.encode_special_tokens = True
        self.encode = encoder(beginning)
        self.encode_continuation = encoder(continuation)
        self._decode = beginning.decode
        added = beginning.get_added_tokens_decoder()
        self.size = max(beginning.get_vocab_size(), spec.largest + 1)
        self._control_ids = {i for i, token in added.items() if token.special}
        self.markers = {i: token.content for i, token in added.items()}
        self.user_defined: list[str] = []
        self._bytes = byte_pieces(beginning.token_to_id)
        self._controls = {
            token.content: Control(i, token.lstrip, token.rstrip) for i, token in added.items() if token.special
        }
        self._parts = encoder(beginning), encoder(continuation), encoder(continuation)
        self._rendered = encoder(rendering), encoder(further)

    def _open_template(self, settings: Settings) -> ChatTemplate | None:
        if not self.files.template:
            return None
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        tokens = {name: text for name in names if (text := self.files.token(name))}
        for name, i in (("bos_token", self.bos_id), ("eos_token", self.eos_id)):
            if i in self.markers:
                tokens.setdefault(name, self.markers[i])
        return ChatTemplate(self.files.template, tokens, list(self._controls), self.source, settings)

    def with_settings(self, **changed: str) -> "TextTokenizer":
        """The same tokenizer, its chat template rendered with other settings; see `own_template.Settings`."""
        if self.chat is None or (settings := replace(self.chat.settings, **changed)) == self.chat.settings:
            return self
        with self._lock:
            if settings not in self._views:
                self._views[settings] = copy(self)
                self._views[settings].chat = self.chat.with_settings(settings)
                while len(self._views) > _MOST_VIEWS:
                    self._views.popitem(last=False)
            return self._views[settings]

    def encode_rendering(self, text: str, continues: bool = False) -> list[int]:
        """Ids of a text that the base's chat template wrote; the names of control tokens in it are these tokens.

        Args:
            text: control tokens that somebody typed are shielded in it, as `ChatTemplate` does.
            continues: it follows other text.
        """
        if self.files.json is not None and not self.chat.is_shielded(text):
            return self._rendered[continues](text)
        first, after_text, after_control = self._parts
        encode, ids, at = (after_text if continues else first), [], 0
        for found in self.chat.typed.finditer(text):
            control = self._controls[found[0]]
            part = text[at : found.start()]
            ids += self._part(encode, part.rstrip() if control.lstrip else part)
            ids.append(control.id)
            encode, at = after_control, found.end()
            if control.rstrip:
                at += len(text[at:]) - len(text[at:].lstrip())
        return ids + self._part(encode, text[at:])

    def _part(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        return encode(self.chat.unshield(text)) if text else []

    @cached_property
    def controls(self) -> set[int]:
        """Ids that are no text."""
        return {one.id for one in self._controls.values()} | {self.eos_id}

    def answer_end(self, prompt_type: str) -> int:
        """The id that ends an answer in training: EOS, or what the base's own template writes behind one."""
        name = self.chat.end_of_turn if prompt_type == BASE and self.chat else ""
        return self._controls[name].id if name else self.eos_id

    def decode_continuation(self, ids: list[int]) -> str:
        """The text of `ids` that follow other text: a leading space is kept, control ids are not text, but tags are."""
        if self._tags and not self._tags.keys().isdisjoint(ids):
            at = next(at for at, i in enumerate(ids) if i in self._tags)
            before, behind = self.decode_continuation(ids[:at]), self.decode_continuation(ids[at + 1 :])
            return f"{before}{self._tags[ids[at]]}{behind}"
        text_ids = [i for i in ids if self._is_text(i)]
        return self._decode(self._anchor + text_ids)[self._anchor_width :]

    def show(self, ids: list[int]) -> str:
        """The text of ids with the names of control tokens, which `decode_continuation` leaves out."""
        runs = groupby(ids, key=lambda i: i in self.controls)
        return "".join(
            "".join(map(self.token_name, run)) if control else self.decode_continuation(list(run))
            for control, run in ((control, list(run)) for control, run in runs)
        )

    def token_name(self, i: int) -> str:
        """What a token is called by itself: its text, `<0xE6>` for a byte of a character, `</s>` for EOS."""
        if i in self._bytes:
            return f"<0x{self._bytes[i]:02X}>"
        return self.markers.get(i) or self.decode_continuation([i])

    def token_bytes(self, i: int) -> bytes:
        """What a token of a SentencePiece model adds to the text before it; its name where it is no text."""
        return bytes([self._bytes[i]]) if i in self._bytes else self.token_name(i).encode()

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
        # Byte-level pieces hold several bytes, also of two characters: drop pieces until the text ends well, or in a
        # U+FFFD that was meant.
        meant = self.encode_continuation("\ufffd")
        for missing in range(min(8, len(ids) + 1)):
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
