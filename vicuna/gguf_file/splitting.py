"""How llama.cpp cuts a text into words before it merges bytes, by the name in a GGUF file (`tokenizer.ggml.pre`).

The name is all that a file says of it, and what is not known by name is refused: with another splitting every digit,
run of spaces or Chinese sentence may get other ids than the model was trained with. The patterns are the ones of
llama.cpp (src/llama-vocab.cpp of 0.3.36 of llama-cpp-python), each applied to what the one before has left or found.
"""

from dataclasses import dataclass

from vicuna.errors import UserError

_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_DIGITS = (r"\p{N}", _GPT2)
_LLAMA3 = (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",)
_QWEN2 = (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",)
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
)
# Words of the shapes Aaaa and AAAA: letters that are no small ones of ASCII, then such as are no capitals of it.
_NO_SMALL, _NO_CAPITAL = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
_BEFORE, _MARKS = r"[^\r\n\p{L}\p{N}]?", rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_TEKKEN = (rf"{_BEFORE}{_NO_SMALL}*{_NO_CAPITAL}+|{_BEFORE}{_NO_SMALL}+{_NO_CAPITAL}*|\p{{N}}|{_MARKS}",)
_GPT4O = (
    rf"{_BEFORE}{_NO_SMALL}*{_NO_CAPITAL}+{_CONTRACTIONS}?|{_BEFORE}{_NO_SMALL}+{_NO_CAPITAL}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_MARKS}",
)
_CASED = (  # the letters of scripts with capitals and small ones, as DeepSeek LLM lists them
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LLM = (
    "[\r\n]",
    rf"\s?[A-Za-z{_CASED}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+",  # U+3000 is a blank in llama.cpp
    r"\s+$",
    _HAN,
    r"\p{N}+",
)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES,
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")
_LINES = (r"[^\n]+|[\n]+",)


@dataclass(frozen=True)
class Splitting:
    """How texts are cut, and what llama.cpp does otherwise for a name.

    Attributes:
        whole_words: a word that is a piece is not made by merging (`ignore_merges`).
        begins: BOS is put before a text where the file says nothing of it.
        escaped: spaces are `▁` and no byte is escaped, as in SentencePiece.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False
    escaped: bool = False


def _named(names: str, splitting: Splitting) -> dict[str, Splitting]:
    return dict.fromkeys(names.split(), splitting)


SPLITTINGS: dict[str, Splitting] = {
    **_named("default", Splitting(_DEFAULT)),
    **_named(
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        Splitting(_LLAMA3, whole_words=True, begins=True),
    ),
    **_named("dbrx smaug-bpe chatglm-bpe", Splitting(_LLAMA3)),
    **_named("glm4 glm5", Splitting(_LLAMA3, whole_words=True)),
    **_named("tekken", Splitting(_TEKKEN, whole_words=True, begins=True)),
    **_named("gpt-4o llama4 kanana2 minimax-m2", Splitting(_GPT4O)),
    **_named("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", Splitting(_QWEN2)),
    **_named("qwen35", Splitting(_QWEN35)),
    **_named("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Splitting(_DIGITS)),
    **_named("gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling", Splitting((_GPT2,))),
    **_named("falcon", Splitting(_FALCON)),
    **_named("deepseek-llm", Splitting(_DEEPSEEK_LLM)),
    **_named("deepseek-coder", Splitting(_DEEPSEEK_CODER)),
    **_named("deepseek-v3 hunyuan-dense joyai-llm", Splitting(_DEEPSEEK_V3)),
    **_named("gemma4", Splitting(_LINES, begins=True, escaped=True)),
}


def splitting_of(name: str, source: object) -> Splitting:
    """The splitting of a name.

    Raises:
        UserError: a name that is not known.
    """
    if name not in SPLITTINGS:
        raise UserError(
            f"{source} has its texts split as {name!r} (tokenizer.ggml.pre), which this toolkit does not know, and "
            f"guessed splitting gives other ids than in training; it knows {', '.join(sorted(SPLITTINGS))}."
        )
    return SPLITTINGS[name]
