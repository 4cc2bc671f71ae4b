"""What programs take from a model beside its weights: BOS, EOS, stop ids, template; and whether two models agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from vicuna.errors import UserError
from vicuna.export.merged import own_or_written
from vicuna.export.updates import AdapterUpdate
from vicuna.files.json_files import read_json
from vicuna.gguf.foreign_ids import llama_cpp_ids
from vicuna.gguf_file.reader import PROMPT_TYPE, GGUFFile
from vicuna.model.base import Base
from vicuna.model.found import model_run_args
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE
from vicuna.prompt.tokenizer_json import transformers_ids

END_OF_TURN = "tokenizer.ggml.eot_token_id"  # a second id that ends answers
_ASKED = [{"role": "user", "content": "1 < 2？\n"}]
_DIALOGUES = (
    _ASKED,
    [*_ASKED, {"role": "assistant", "content": "对。"}, {"role": "user", "content": "Why?"}],
    [{"role": "system", "content": "Be brief."}, *_ASKED],
)


@dataclass(frozen=True)
class Identity:
    """What a model says about itself.

    Attributes:
        bos, eos: an id each, unless its files disagree.
        stops: ids that end an answer; template: the chat template, "" for none. None where the layout holds none.
        prompt_type: what it was trained with, "" where nothing says.
        read: ids that other programs give texts, None where the tokenizer is all there is.
    """

    tokenizer: TextTokenizer
    bos: frozenset[int]
    eos: frozenset[int]
    stops: frozenset[int] | None
    template: str | None
    prompt_type: str
    read: Callable[[Sequence[str]], list[list[int]]] | None = None


def base_identity(base: Base) -> Identity:
    """That of a model in Hugging Face format, which transformers and vLLM read by its tokenizer.json."""
    tokenizer, folder = base.tokenizer, base.path
    stops = base.generation_config.eos_token_id
    return Identity(
        tokenizer,
        _declared(folder, "bos", tokenizer.bos_id),
        _declared(folder, "eos", tokenizer.eos_id),
        _ids(tokenizer.eos_id if stops is None else stops),
        read_chat_template(folder),
        model_run_args(folder).get("prompt_type", ""),
        partial(transformers_ids, folder),
    )


def meta_identity(folder: Path, tokenizer_file: Path | None) -> Identity:
    """That of a model in Meta's layout, which holds a tokenizer, and a template only where our merge put one.

    Raises:
        UserError: there is no tokenizer.
    """
    if tokenizer_file is None:
        raise UserError(f"{folder} has no tokenizer.model, neither in it nor in the folder above it.")
    tokenizer = TextTokenizer(tokenizer_file.parent)
    bos, eos = _ids(tokenizer.bos_id), _ids(tokenizer.eos_id)
    return Identity(
        tokenizer, bos, eos, None, read_chat_template(folder) or None, model_run_args(folder).get("prompt_type", "")
    )


def gguf_identity(file: GGUFFile) -> Identity:
    """That of a GGUF model."""
    tokenizer = file.tokenizer()
    stops = file.generation.get("eos_token_id")
    ends = _ids(tokenizer.eos_id if stops is None else stops)
    ends |= {file.keys[END_OF_TURN]} if END_OF_TURN in file.keys else set()
    template, prompt_type = (file.keys.get(key, "") for key in ("tokenizer.chat_template", PROMPT_TYPE))
    bos, eos = _ids(tokenizer.bos_id), _ids(tokenizer.eos_id)
    return Identity(tokenizer, bos, eos, ends, template, prompt_type, partial(llama_cpp_ids, file.path))


def gguf_adapter_identity(lora: GGUFFile, file: GGUFFile) -> Identity:
    """That of an adapter on the GGUF of its base, whose own template is not the adapter's."""
    return replace(gguf_identity(file), template=None, prompt_type=lora.keys.get(PROMPT_TYPE, ""))


def expected_identity(base: Base, updates: Sequence[AdapterUpdate], prompt_type: str) -> Identity:
    """That of base + adapters.

    Args:
        base: with the tokenizer of the adapters, if they bring one.
        prompt_type: what they were trained with, "" where nothing says: the base's own template then counts.
    """
    if prompt_type:
        template, _ = own_or_written(base, prompt_type, updates[-1].folder)
    else:
        template = read_chat_template(base.path)
    return replace(base_identity(base), template=template, prompt_type=prompt_type)


def find_differences(found: Identity, wanted: Identity, texts: Sequence[str]) -> dict[str, str]:
    """What is not as it should be, in sentences, by what it is: template, ids or tokens."""
    odd = {}
    names = {"BOS": (found.bos, wanted.bos), "EOS": (found.eos, wanted.eos)}
    wrong = [f"{name} {_shown(own)} (expected {_shown(other)})" for name, (own, other) in names.items() if own - other]
    begins, expected = ("BOS" if one.tokenizer.beginning else "none" for one in (found, wanted))
    if begins != expected:
        wrong.append(f"texts begin with {begins} (expected {expected})")
    if found.stops is not None and found.stops != wanted.stops:
        wrong.append(f"answers end at {_shown(found.stops)} (expected {_shown(wanted.stops)})")
    if wrong:
        odd["ids"] = f"it declares {', '.join(wrong)}"
    if wanted.prompt_type and found.prompt_type not in ("", wanted.prompt_type):
        odd["template"] = f"it says it was trained with {found.prompt_type}, the adapter with {wanted.prompt_type}"
    elif found.template is not None and not same_template(found, wanted):
        what = "has no template" if not found.template else "has another template"
        hint = "" if wanted.prompt_type else " than the base; name the adapter's with --prompt_type"
        odd["template"] = f"it {what}{hint}"
    other = sum(found.tokenizer.encode(text) != wanted.tokenizer.encode(text) for text in texts)
    if other:
        odd["tokens"] = f"its tokenizer gives {other} of {len(texts)} texts other ids"
    elif reason := _read_otherwise(found, wanted):
        odd["tokens"] = reason
    return odd


def _read_otherwise(found: Identity, wanted: Identity) -> str:
    """How programs that open the model read texts that hold the vocabulary's own pieces, "" where that is as wanted."""
    probes = probe_texts(wanted.tokenizer)
    if not probes or found.read is None:
        return ""
    ids = [wanted.tokenizer.encode(text) for text in probes]
    other = [(text, one, own) for text, one, own in zip(probes, found.read(probes), ids, strict=True) if one != own]
    if not other:
        return ""
    text, one, own = other[0]
    around = " around its user-defined pieces" if wanted.tokenizer.user_defined else ""
    return (
        f"other programs give {len(other)} of {len(probes)} texts{around} other ids, such as {text!r} {one} instead of "
        f"{own}"
    )


def same_template(found: Identity, wanted: Identity) -> bool:
    """Whether two templates render dialogues to the same text."""
    if found.template == wanted.template:
        return True
    if not found.template or not wanted.template:
        return False
    return all(_rendered(found.template, one) == _rendered(wanted.template, one) for one in _DIALOGUES)


def _rendered(template: str, dialogue: list[dict[str, str]]) -> str | None:
    """A dialogue as text, None where the template refuses it."""
    try:
        texts, _ = render_jinja_template(
            [dialogue], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
    except Exception:  # whatever a template of somebody's stumbles over
        return None
    return texts[0]


def read_chat_template(folder: Path) -> str:
    """The chat template in a folder, "" for none."""
    if (folder / CHAT_TEMPLATE_FILE).is_file():
        return (folder / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    return read_json(folder / "tokenizer_config.json").get("chat_template") or ""


def _declared(folder: Path, which: str, own: int) -> frozenset[int]:
    """The tokenizer's own id, and the one that other programs take from tokenizer_config.json."""
    piece = read_json(folder / "tokenizer_config.json").get(f"{which}_token")
    text = piece.get("content") if isinstance(piece, dict) else piece
    file = folder / "tokenizer.model"
    if not text or not file.is_file():
        return _ids(own)
    return _ids(own) | {SentencePieceProcessor(model_file=str(file)).piece_to_id(text)}


def _ids(declared: int | list[int]) -> frozenset[int]:
    return frozenset(declared if isinstance(declared, list) else [declared])


def _shown(ids: frozenset[int] | None) -> str:
    return " and ".join(map(str, sorted(ids or ())))
