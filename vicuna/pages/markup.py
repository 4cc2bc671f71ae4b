"""Text of models, users and files as Markdown that cannot become anything but text, code, tables and maths.

What a page shows is a copy; history, editing and saving keep the original. The copy is written so that no reader of
Markdown can take it otherwise: `<` and `&` are entities, code is fenced anew at the margin or made of entities, and
maths stands between two characters that no text contains. So nothing depends on two parsers agreeing.
"""

import re
import string
from collections.abc import Iterator

from vicuna.pages.inline_spans import Kind, Span, inline_spans

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
_ENTITIES = str.maketrans({sign: f"&#{ord(sign)};" for sign in string.punctuation})


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
            code = []
            for inner in lines:
                if _closes(inner.strip(" \t"), opening[1]):
                    break
                code.append(inner)
            indent = len(line) - len(line.lstrip())
            yield "\n".join(_dedent(inner, indent) for inner in code), opening[2]
        else:
            prose.append(line)
    yield "\n".join(prose), None


def _closes(line: str, opening: str) -> bool:
    return len(line) >= len(opening) and not line.strip(opening[0])


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
    out: list[str] = []
    for part in re.split(r"(\n[ \t]*\n)", text):
        at = 0
        for span in inline_spans(part):
            out += (part[at : span.start], _shown(span, part[span.start : span.end]))
            at = span.end
        out.append(part[at:])
    return "".join(out)


def _shown(span: Span, text: str) -> str:
    inside = text[span.mark : len(text) - span.mark]
    match span.kind:
        case Kind.BLOCK:
            return _BLOCK[0] + _maths(inside) + _BLOCK[1]
        case Kind.INLINE:
            return _INLINE[0] + _maths(inside) + _INLINE[1]
        case Kind.CODE:
            inside = inside.replace("\n", " ")
            if inside.startswith(" ") and inside.endswith(" ") and inside.strip():
                inside = inside[1:-1]
            # Its punctuation as entities, so that nothing in it is Markdown.
            return f"<code>{inside.translate(_ENTITIES)}</code>"
        case Kind.ESCAPED:
            return text[1].translate(_ENTITIES) if text[1] in "<&`![]:~" else text
    return text.translate(_ENTITIES)


def _maths(text: str) -> str:
    return text.replace("<", r"\lt ")
