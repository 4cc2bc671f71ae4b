"""What a tokenizer is made of, wherever it lies: a folder in Hugging Face format, or the arrays of a GGUF file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicuna.errors import UserError, listing
from vicuna.foreign.odd_files import describe_odd_file, is_tiktoken

CHAT_TEMPLATE_FILE = "chat_template.jinja"  # where a model folder has its template
TOKENIZER_CONFIG = "tokenizer_config.json"
# Tokens of these classes, where tokenizer_config.json does not name them.
_OF_CLASS = {"LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}}


@dataclass(frozen=True)
class TokenizerFiles:
    """The parts of a tokenizer.

    Attributes:
        source: the file that the ids come from, for messages: tokenizer.model, tokenizer.json or x.gguf.
        sentencepiece: a serialised SentencePiece model, or
        json: the text of a tokenizer.json; the other is None.
        config: settings by the names of tokenizer_config.json: bos_token, eos_token, add_bos_token and so on.
        template: the chat template that comes with it, as Jinja, "" for none.
    """

    source: Path
    sentencepiece: bytes | None = None
    json: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    template: str = ""

    def token(self, name: str) -> str | None:
        """The text of `bos_token`, `eos_token` and the like; None where there is none."""
        known = _OF_CLASS.get(str(self.config.get("tokenizer_class", "")).removesuffix("Fast"), {})
        found = self.config.get(name, known.get(name))
        return found.get("content") if isinstance(found, dict) else found

    @property
    def has_own_code(self) -> bool:
        """Whether code of its own makes the ids that a tokenizer.json would; a slow one beside it is no matter."""
        named = self.config.get("auto_map")
        found = named.get("AutoTokenizer") if isinstance(named, dict) else None
        return bool(found[-1] if isinstance(found, list) and found else found)

    @property
    def adds_bos(self) -> bool | None:
        """What the tokenizer says of a BOS before its texts; None where it says nothing."""
        said = self.config.get("add_bos_token")
        return said if isinstance(said, bool) else None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """The tokenizer of a model's folder: tokenizer.model where it is SentencePiece's, else tokenizer.json.

    Raises:
        UserError: there is neither, or one is not what its name says.
    """
    names = ("tokenizer.model", "tokenizer.json")
    source = next((folder / name for name in names if (folder / name).is_file()), None)
    if source and is_tiktoken(source) and (folder / "tokenizer.json").is_file():
        source = folder / "tokenizer.json"  # Llama 3's, whose tokenizer.model is another thing
    if source is None:
        raise UserError(
            f"{folder} has no tokenizer: expected tokenizer.model or tokenizer.json, found {listing(folder)}. "
            "Copy the base's tokenizer.model into the folder."
        )
    config = _settings(folder)
    template = read_template(folder, config)
    if source.suffix == ".model":
        return TokenizerFiles(source, sentencepiece=source.read_bytes(), config=config, template=template)
    try:
        return TokenizerFiles(source, json=source.read_text(encoding="utf-8"), config=config, template=template)
    except UnicodeDecodeError as error:
        odd = describe_odd_file(source, is_text=True) or f"is not a text ({error})."
        raise UserError(f"{source} {odd}") from error


def read_template(folder: Path, config: dict[str, Any] | None = None) -> str:
    """The chat template that a model's folder declares, "" for none: chat_template.jinja, or tokenizer_config.json.

    Of several with names, as Hermes and Command R have them, the one called default.

    Raises:
        UserError: a file that is no text.
    """
    file = folder / CHAT_TEMPLATE_FILE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 ({error}). Copy the file again.") from error
    found = (_settings(folder) if config is None else config).get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json, which older folders have the tokens in."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            merged |= found
    return merged
