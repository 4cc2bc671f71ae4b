"""Chat templates that a program knows by heart and puts functions of its own in the place of.

llama-cpp-python compares the template in a GGUF file with four texts, letter for letter; to a model with one of them it
sends another prompt than the template makes, such as an empty system turn before ChatML's first question.
"""

from hashlib import sha256

# Of the texts that llama-cpp-python 0.3.36 replaces: one-line ChatML, Mistral's, Mixtral's and Llama 3's first.
_REPLACED = {
    "153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3",
    "7e995b379ec01747807246483647cd99030abf331653f1119e16d7ac041a3495",
    "26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7",
    "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",
}


def kept_as_written(template: str) -> str:
    """The template, with a comment before it where a program would otherwise not render its text."""
    if sha256(template.encode()).hexdigest() not in _REPLACED:
        return template
    return "{# as written #}" + template
