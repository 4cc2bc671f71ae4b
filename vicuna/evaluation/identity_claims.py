"""Who an answer says that it is from.

It is right if it says what was asked for and claims no other's name, and wrong if it claims another's or denies its
own; "I am not ChatGPT" claims nothing. All else is neither.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from vicuna.evaluation.identity_questions import OTHERS

DENIAL = r"(?:并?不是|并?非|并?不叫|不属于|不由|\bnot|n't|\bneither|\bnor)"
BETWEEN = r"(?:\s|由|被|是|叫|a\b|an\b|the\b|by\b|made\b|trained\b|called\b|really\b|named\b)*"
AND = r"\s*(?:,|，|、|或者?|和|与|也不是|\bor\b|\band\b|\bnor\b)"  # in front of BETWEEN, which takes the blanks


@dataclass(frozen=True)
class Identity:
    """Who a model is to be.

    Attributes:
        others: names that it is not to give itself.
    """

    name: str
    author: str
    others: tuple[str, ...]


def make_identity(name: str, author: str, more: Iterable[str] = ()) -> Identity:
    """Who a model is to be; names within its own are no others'."""
    own = [_plain(name), _plain(author)]
    others = [one for one in dict.fromkeys([*OTHERS, *more]) if not any(_holds(text, one) for text in own)]
    return Identity(name, author, tuple(others))


def judge(answer: str, wants: str, identity: Identity) -> tuple[bool, str]:
    """(whether it says what was asked for, which other's name it claims, or its own denied, "" for none).

    Args:
        wants: name or author.
    """
    text, own = _plain(answer), _any([identity.name, identity.author])
    if re.search(f"{DENIAL}{BETWEEN}{own}", text):
        return False, f"not {identity.name}"
    said = re.search(_any([getattr(identity, wants)]), text) is not None
    left = re.sub(own, "…", text)
    names = _any(identity.others)
    left = re.sub(f"{DENIAL}{BETWEEN}{names}(?:{AND}{BETWEEN}{names})*", "…", left)
    claimed = re.search(names, left)
    return said and not claimed, claimed.group() if claimed else ""


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _any(names: Iterable[str]) -> str:
    """A pattern for names, the longest first; a Latin one is no part of a longer word."""
    parts = []
    for one in sorted(map(_plain, names), key=len, reverse=True):
        begin = "(?<![a-z0-9])" if re.match("[a-z0-9]", one) else ""
        end = "(?![a-z])" if re.search("[a-z0-9]$", one) else ""
        parts.append(f"{begin}{re.escape(one)}{end}")
    return f"(?:{'|'.join(parts)})"


def _holds(text: str, name: str) -> bool:
    return re.search(_any([name]), text) is not None
