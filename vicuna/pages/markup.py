"""Text of models, users and files as Markdown that cannot become anything but text, code, tables and maths.

What a page shows is a copy; history, editing and saving keep the original. The copy is written so that no reader of
Markdown can take it otherwise: `<` and `&` are entities, code is fenced anew at the margin or made of entities, and
maths stands between two characters that no text contains. So nothing depends on two parsers agreeing.
"""

import re
from collections.abc import Iterator

# Private characters around maths, which text loses beforehand: `$` alone says too little about what it means.
_INLINE, _BLOCK = ("\ue000", "\ue001"), ("\ue002", "\ue003")
LATEX_DELIMITERS = [
    {"left": _BLOCK[0], "right": _BLOCK[1], "display": True},
    {"left": _INLINE[0], "right": _INLINE[1], "display": False},
]

# Languages that Gradio colours, by the names that texts give them. It shows nothing at all of a block in `cpp` (it
# loads that without `c`), nor of one named like a method of its highlighter; what is not in here is shown plainly.
_LANGUAGES = {
    **{name: name for name in ("bash", "c", "css", "go", "html", "java", "javascript", "json", "latex", "php")},
    **{name: name for name in ("python", "rust", "sql", "xml", "yaml")},
    **{"c++": "c", "cc": "c", "cpp": "c", "h": "c", "hpp": "c", "golang": "go", "js": "javascript", "py": "python"},
    **{"python3": "python", "rs": "rust", "sh": "bash", "shell": "bash", "tex": "latex", "yml": "yaml"},
    **{"ts": "javascript", "typescript": "javascript"},
}

_FENCE = re.compile(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})[ \t]*([\w+#.-]*)")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]")
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
_TEXT = re.compile(
    r"""
      (?P<block>\$\$.+?\$\$ | \\\[.+?\\\])
    | (?P<inline>\\\(.+?\\\) | \$(?=\S)[^$\n]+?(?<=\S)\$(?!\d))
    | (?P<code>(?P<ticks>(?<!`)`+(?!`))(?P<inside>.+?)(?<!`)(?P=ticks)(?!`))
    | (?P<escaped>\\[!-/:-@\[-`{-~])
    | (?P<special>[<&`] | !(?=\[) | (?<=\]): | ~{3,} | %(?=%%LATEX))
    """,
    re.VERBOSE | re.DOTALL,
)


def safe_markdown(text: str) -> str:
    """The copy of `text` to give to a Markdown component, with LATEX_DELIMITERS."""
    text = re.sub("[\ue000-\ue003]", "\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(_fenced(part, language) if language is not None else _prose(part) for part, language in _parts(text))


def _parts(text: str) -> Iterator[tuple[str, str | None]]:
    """Prose, whose language is None, and code blocks with theirs, in order; an open block ends with the text."""
    prose: list[str] = []
    lines = iter(text.split("\n"))
    for line in lines:
        if opening := _FENCE.match(line):
            yield "\n".join(prose), None
            prose = []
            closing = re.compile(rf"[ \t]*{opening[1][0]}{{{len(opening[1])},}}[ \t]*")
            code = []
            for inner in lines:
                if closing.fullmatch(inner):
                    break
                code.append(inner)
            indent = len(line) - len(line.lstrip())
            yield "\n".join(_dedent(inner, indent) for inner in code), opening[2]
        else:
            prose.append(line)
    yield "\n".join(prose), None


def _dedent(line: str, indent: int) -> str:
    return line[min(indent, len(line) - len(line.lstrip())) :]


def _fenced(code: str, language: str) -> str:
    # Four ticks at least: Gradio draws ```mermaid, whose text may hold HTML.
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(4, longest + 1)
    return f"\n\n{fence}{_LANGUAGES.get(language.lower(), '')}\n{code}\n{fence}\n\n"


def _prose(text: str) -> str:
    """Prose with its indented code, which is no part of a list, fenced."""
    out: list[str] = []
    paragraph: list[str] = []
    in_list = False
    blank = True  # the line before is
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line = lines[i]
        if blank and not in_list and _indented(line):
            end = i
            while end < len(lines) and (_indented(lines[end]) or not lines[end].strip()):
                end += 1
            out.append(_inline("\n".join(paragraph)))
            paragraph = []
            out.append(_fenced("\n".join(_dedent(one, 4) for one in lines[i:end]).rstrip(), ""))
            i, blank = end, True
            continue
        if line.strip():
            in_list = bool(_LIST_ITEM.match(line)) or (in_list and line[0] in " \t")
        blank = not line.strip()
        paragraph.append(line)
        i += 1
    out.append(_inline("\n".join(paragraph)))
    return "".join(out)


def _indented(line: str) -> bool:
    return line.startswith(("    ", "\t")) and bool(line.strip())


def _inline(text: str) -> str:
    # A blank line ends every construct within a paragraph.
    return "".join(_TEXT.sub(_replaced, part) for part in re.split(r"(\n[ \t]*\n)", text))


def _replaced(match: re.Match) -> str:
    if block := match["block"]:
        return _BLOCK[0] + _maths(block[2:-2]) + _BLOCK[1]
    if inline := match["inline"]:
        return _INLINE[0] + _maths(inline[2:-2] if inline[0] == "\\" else inline[1:-1]) + _INLINE[1]
    if match["code"]:
        inside = match["inside"].replace("\n", " ")
        if inside.startswith(" ") and inside.endswith(" ") and inside.strip():
            inside = inside[1:-1]
        # Its punctuation as entities, so that nothing in it is Markdown.
        return f"<code>{_entities(inside, _PUNCTUATION)}</code>"
    if escaped := match["escaped"]:
        return _entities(escaped[1], ".") if escaped[1] in "<&`![]:~" else escaped
    return _entities(match["special"], ".")


def _maths(text: str) -> str:
    return text.replace("<", r"\lt ")


def _entities(text: str, which: str) -> str:
    return re.sub(which, lambda one: f"&#{ord(one[0])};", text)
