"""Texts on which tokenizers are compared: they hold a vocabulary's own pieces, in places where programs differ.

A user-defined piece is one that SentencePiece finds in a text before it looks for any other. Other programs cut the
text there first, and then take each part for a text of its own, which begins with a space. Texts of a byte-level
vocabulary are cut into words first, which other programs do by the name of a way: a wrong one shows at digits, runs of
blanks, capitals and scripts.
"""

from vicuna.prompt.tokenizer import TextTokenizer

_WORDS = (
    *(
        "1. 苹果\n2. 香蕉\n10. 葡萄，共 3 种。",
        "  42",
        "So x =  42, or 3.14159 of 1,000,000.",
        "2024年5月17日，星期五。",
    ),
    *("    def f(x):\n\treturn x ** 2\n\n\n", "It's what I've seen; THEY'LL say we'Re done.", " \t\n  \r\n end  \n"),
    *("Straße, École, ÉCOLE, ΩΜΕΓΑ, Привет", "한국어 العربية हिन्दी ไทย", "HTTPServer camelCase snake_case"),
    *(
        "你好，世界！“引用”——……《书》",
        "３　全角　數字　ＡＢＣ",
        "🙂👩‍👩‍👧 ok",
        "x\u00a0y",
        "a/b//c https://a.bc/?d=1&e=%20",
    ),
)
_PLACES = ("{0}", "a{0}b", "a {0} b", "a{0} b", "{0}b", "a {0}", "{0}{0}", "\n{0}\n", "你好{0}世界")


def probe_texts(tokenizer: TextTokenizer) -> list[str]:
    """A few texts for each user-defined piece of SentencePiece, and plain ones for a byte-level vocabulary.

    Left out are those with characters that have no piece: some programs end at them.
    """
    texts = [place.format(piece) for piece in tokenizer.user_defined for place in _PLACES]
    texts += _WORDS if tokenizer.files.json is not None else ()
    unknown = tokenizer.unk_id
    return [
        text
        for text in dict.fromkeys(texts)
        if unknown is None or all(unknown not in tokenizer.encode_continuation(character) for character in text)
    ]
