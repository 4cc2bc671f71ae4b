"""Texts on which tokenizers are compared: they hold a vocabulary's own pieces, in places where programs differ.

A user-defined piece is one that SentencePiece finds in a text before it looks for any other. Other programs cut the
text there first, and then take each part for a text of its own, which begins with a space.
"""

from vicuna.prompt.tokenizer import TextTokenizer

_PLACES = ("{0}", "a{0}b", "a {0} b", "a{0} b", "{0}b", "a {0}", "{0}{0}", "\n{0}\n", "你好{0}世界")


def probe_texts(tokenizer: TextTokenizer) -> list[str]:
    """A few texts for each user-defined piece; none where there is none.

    Left out are those with characters that have no piece: some programs end at them.
    """
    texts = [place.format(piece) for piece in tokenizer.user_defined for place in _PLACES]
    unknown = tokenizer.unk_id
    return [
        text
        for text in dict.fromkeys(texts)
        if unknown is None or all(unknown not in tokenizer.encode_continuation(character) for character in text)
    ]
