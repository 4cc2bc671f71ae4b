"""tokenizer.json written from tokenizer.model, for programs that read only this one.

SentencePiece merges the pair whose piece has the highest score; a tokenizer.json lists merges by rank. The two say
the same where no two pieces share a score, which all of LLaMA's do but its runs of spaces.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.prompt.probes import probe_texts
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.tokenizer_files import read_tokenizer_files

# What a chat template may put behind BOS. Some conversions put no space before it, as SentencePiece does, and merge
# runs of spaces in another order.
_PROBES = ("Below is an instruction", "你好 x", "\nUser:", "a\n    return b\n        c", "1. 2024  42 é")


def write_tokenizer_json(
    folder: Path, context: int | None = None, further: Sequence[Any] = (), padding: str | None = None
) -> str:
    """Write tokenizer.json and tokenizer_config.json with the ids of the tokenizer.model in `folder`.

    Args:
        context: longest text in tokens that the model takes; None where it is not known.
        further: `tokenizers.AddedToken` of the ids behind SentencePiece's own, in their order; padding: one of them.

    Returns:
        A warning, "" if none: where the two can not say the same, or nothing was written (SentencePiece's unigram).
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        return "tokenizer.model does not merge pairs, so there is no tokenizer.json of it: programs that need one fail"
    unknown, begin, end = (
        proto.pieces[i].piece if 0 <= i < len(proto.pieces) else None
        for i in (proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id)
    )
    # As tokens of the tokenizers library they would cut the text before it is normalised, and each part of it would
    # begin with a space of its own; cut out of the normalised text they are found as SentencePiece finds them.
    own = sorted((one.piece for one in proto.pieces if one.type == one.USER_DEFINED), key=len, reverse=True)
    tokenizer = Tokenizer(
        models.BPE(
            {piece.piece: i for i, piece in enumerate(proto.pieces)},
            _merges(proto),
            unk_token=unknown,
            fuse_unk=True,
            ignore_merges=bool(own),  # nothing merges into them
            byte_fallback=any(piece.type == piece.BYTE for piece in proto.pieces),
        )
    )
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    if own:
        pattern = Regex("|".join(re.escape(piece) for piece in own))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    if begin:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, proto.trainer_spec.bos_id)]
        )
    controls = [piece.piece for piece in proto.pieces if piece.type in (piece.UNKNOWN, piece.CONTROL)]
    strips = _declared_strips(folder)
    tokenizer.add_special_tokens([
        AddedToken(name, special=True, normalized=False, **strips.get(name, {})) for name in controls
    ])  # fmt: skip
    tokenizer.add_tokens(list(further))
    named = {"unk_token": unknown, "bos_token": begin, "eos_token": end, "pad_token": padding}
    named["model_max_length"] = context
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: one for name, one in named.items() if one}
    ).save_pretrained(folder)
    _name_class(folder / "tokenizer_config.json", bool(begin))
    scores = Counter(piece.score for piece in proto.pieces if piece.type == piece.NORMAL and piece.piece.strip("▁"))
    equal = sum(count for count in scores.values() if count > 1)
    if not equal:
        return ""
    return (
        f"{equal} pieces of tokenizer.model share their score, and programs that read tokenizer.json merge them in "
        "another order than SentencePiece: a few texts have other ids there"
    )


def _declared_strips(folder: Path) -> dict[str, dict[str, bool]]:
    """Which tokens take the blanks beside them away, by name, as tokenizer_config.json says."""
    listed = read_tokenizer_files(folder).config.get("added_tokens_decoder")
    tokens = [one for one in listed.values() if isinstance(one, dict)] if isinstance(listed, dict) else []
    return {str(one.get("content")): {name: one.get(name) is True for name in ("lstrip", "rstrip")} for one in tokens}


def _name_class(file: Path, begins: bool) -> None:
    """Say in tokenizer_config.json what opens tokenizer.json as it is, and where BOS stands.

    LlamaTokenizer would build another tokenizer from its pieces, whose merges are in the order of their ids.
    """
    settings = openable_tokenizer(json.loads(file.read_text(encoding="utf-8")), has_json=True)
    settings |= {"add_bos_token": begins, "add_eos_token": False}
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def openable_tokenizer(settings: dict[str, Any], has_json: bool) -> dict[str, Any]:
    """tokenizer_config.json in words that transformers before 5, llama.cpp's converter, mlx-lm and vLLM know.

    Args:
        has_json: there is a tokenizer.json beside it.
    """
    written = {name: value for name, value in settings.items() if name != "backend"}
    # TokenizersBackend and its like: names of transformers 5 alone, and no other class of it ends so.
    if str(settings.get("tokenizer_class")).endswith("Backend"):
        written["tokenizer_class"] = "PreTrainedTokenizerFast" if has_json else "LlamaTokenizer"
    if isinstance(tokens := settings.get("extra_special_tokens"), list):  # before 5 these are named ones
        del written["extra_special_tokens"]
        written.setdefault("additional_special_tokens", tokens)
    return written


def match_training_ids(folder: Path, context: int) -> str:
    """Have transformers and vLLM give a rendered chat template the ids of `TextTokenizer`, which training used.

    Where they do not, tokenizer.json and tokenizer_config.json are written anew from tokenizer.model. That is so for
    most LLaMA folders of 2023, which have no tokenizer.json.

    Returns:
        What the user should know of it, "" for nothing.
    """
    hf = _auto_tokenizer(folder)
    own = TextTokenizer(folder)
    if hf and _same_ids(hf, own):
        return ""
    further = sorted(hf.added_tokens_decoder.items()) if hf else []
    further = [(i, token) for i, token in further if i >= own.size]
    if own.source.suffix != ".model" or [i for i, _ in further] != [*range(own.size, own.size + len(further))]:
        return (
            f"transformers and vLLM read {own.source.name} otherwise than this toolkit did in training, so their "
            "answers may be worse: the same text has other ids there"
        )
    padding = getattr(hf, "pad_token", None) or None
    for name in ("special_tokens_map.json", "added_tokens.json"):  # tokenizer.json says it now
        (folder / name).unlink(missing_ok=True)
    return write_tokenizer_json(folder, context, [token for _, token in further], padding)


def _auto_tokenizer(folder: Path) -> Any:
    """What transformers reads in the folder; None where it can not."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **NEVER_RUN)
    except Exception:  # on settings of every age it raises whatever they make it stumble over, RecursionError too
        return None


def transformers_ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids that transformers and vLLM give texts behind BOS, as they stand in a rendered chat template.

    Raises:
        UserError: transformers can not read the folder's tokenizer.
    """
    hf = _auto_tokenizer(folder)
    if hf is None:
        raise UserError(f"transformers can not read the tokenizer in {folder}.")
    begin, count = (hf.bos_token, 1) if hf.bos_token else ("", 0)
    return [hf(begin + text, add_special_tokens=False)["input_ids"][count:] for text in texts]


def _same_ids(hf: Any, own: TextTokenizer) -> bool:
    """Whether the two agree on BOS, EOS and what may follow; one that can not even say so does not."""
    try:
        begin, ids = ("", []) if own.bos_id is None else (hf.bos_token, [own.bos_id])
        return (hf.bos_token_id, hf.eos_token_id) == (own.bos_id, own.eos_id) and all(
            hf(begin + text, add_special_tokens=False)["input_ids"] == [*ids, *own.encode(text)]
            for text in (*_PROBES, *probe_texts(own))
        )
    except Exception:  # as in _auto_tokenizer: of the names "" the ids are looked for without end
        return False


def _merges(proto) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a third, that of the highest score first."""
    ranked = sorted((piece for piece in proto.pieces if piece.type == piece.NORMAL), key=lambda piece: -piece.score)
    normal = {piece.piece for piece in ranked}
    return [
        (piece.piece[:i], piece.piece[i:])
        for piece in ranked
        for i in range(1, len(piece.piece))
        if piece.piece[:i] in normal and piece.piece[i:] in normal
    ]


def _normalizer(spec):
    """What SentencePiece does to a text before it looks for pieces."""
    from tokenizers import Regex, normalizers

    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
