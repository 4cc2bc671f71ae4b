"""Answers that ShareGPT exported as HTML -> the Markdown that they were shown from."""

import re
from html.parser import HTMLParser

# An answer is HTML where it begins with an element of these and ends with the end of one.
BLOCKS = r"(?:div|p|pre|ol|ul|table|blockquote|h[1-6])"
IS_HTML = re.compile(rf"\s*<{BLOCKS}(?:\s[^<>]*)?>.*</{BLOCKS}>\s*", re.DOTALL | re.IGNORECASE)
HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
AROUND = {"strong": "**", "b": "**", "em": "*", "i": "*", "code": "`", "del": "~~", "s": "~~"}
APART = {"p", "div", "pre", "blockquote", "table", "ul", "ol", *HEADINGS}
LIST_OR_TABLE = {"ul", "ol", "li", "tr", "td", "th", "thead"}
# What the page shows around an answer: buttons, and which of several answers it is.
BUTTONS = {"button", "svg", "style", "script"}
COPY_CODE = re.compile(r"^(\w[\w+#.-]{0,20})?Copy code")
MOST_INDENTS = 50  # lists within lists that are shown as such
LONGEST_MARKER = 3 * MOST_INDENTS + 20  # characters
WHICH_ANSWER = re.compile(r"\A\s*\d+ / \d+\s*")


def is_html(text: str) -> bool:
    return IS_HTML.fullmatch(text) is not None


def to_markdown(html: str) -> str:
    """The text of a piece of HTML, its lists, headings, code and emphasis in Markdown."""
    reader = _Reader()
    # Behind the last > nothing is closed: the parser would look for the end of each of what is opened there.
    closed = html.rfind(">") + 1
    reader.feed(html[:closed] + html[closed:].replace("<", "&lt;"))
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    """Writes as it reads; blocks are kept apart by an empty line, and code is left as it is."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.lists: list[int | None] = []  # number of the last item; None for bullets
        self.code: list[str] | None = None  # of a block of code, while it is open
        self.hidden = 0
        self.cells = 0

    def text(self) -> str:
        *lines, last = "".join(self.parts).split("\n")
        joined = "\n".join([*(line.rstrip(" \t") for line in lines), last])
        return WHICH_ANSWER.sub("", re.sub(r"\n{3,}", "\n\n", joined)).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BUTTONS:
            self.hidden += 1
        if self.hidden or self.code is not None:
            return
        if tag in LIST_OR_TABLE:
            self._begin_list_or_table(tag)
        elif tag == "pre":
            self._apart()
            self.code = []
        elif tag == "br":
            self.parts.append("\n")
        elif tag in AROUND:
            self.parts.append(AROUND[tag])
        elif tag in APART:
            self._apart()
            self.parts.append(f"{HEADINGS[tag]} " if tag in HEADINGS else "> " if tag == "blockquote" else "")

    def _begin_list_or_table(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._apart() if not self.lists else self._line()
            self.lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag == "tr":
            self._line()
            self.cells = 0
        elif tag in ("td", "th"):
            self.parts.append("| ")
            self.cells += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in BUTTONS:
            self.hidden = max(0, self.hidden - 1)
            return
        if self.hidden:
            return
        if tag == "pre" and self.code is not None:
            self._end_code()
        if self.code is not None:
            return
        if tag in LIST_OR_TABLE:
            self._end_list_or_table(tag)
        elif tag in AROUND:
            self.parts.append(AROUND[tag])
        elif tag in APART:
            self._apart()

    def _end_list_or_table(self, tag: str) -> None:
        if tag in ("ul", "ol") and self.lists:
            self.lists.pop()
            self._apart() if not self.lists else self._line()
        elif tag in ("td", "th"):
            self.parts.append(" ")
        elif tag == "tr":
            self.parts.append("|\n")
        elif tag == "thead":
            self.parts.append("|" + " --- |" * self.cells + "\n")

    def handle_data(self, data: str) -> None:
        if self.hidden:
            return
        if self.code is not None:
            self.code.append(data)
        elif data.strip() or "\n" not in data:
            self.parts.append(_without_blank_lines(data))

    def _end(self, parts: int) -> str:
        """The end of what the last parts are together, all of the marker of an item in it."""
        joined = "".join(part[-LONGEST_MARKER:] for part in self.parts[-parts:])
        return joined[-LONGEST_MARKER:]

    def _item(self) -> None:
        self._line()
        indent = "   " * min(len(self.lists) - 1, MOST_INDENTS)
        if self.lists and self.lists[-1] is not None:
            self.lists[-1] += 1
            self.parts.append(f"{indent}{self.lists[-1]}. ")
        else:
            self.parts.append(f"{indent}- ")

    def _end_code(self) -> None:
        code = "".join(self.code).strip("\n")
        self.code = None
        button = COPY_CODE.match(code)
        language = (button[1] or "") if button else ""
        code = code[button.end() :].lstrip("\n") if button else code
        self.parts.append(f"```{language}\n{code.rstrip()}\n```\n\n")

    def _line(self) -> None:
        if self.parts and not self._end(2).endswith("\n"):
            self.parts.append("\n")

    def _apart(self) -> None:
        """An empty line, unless an item of a list has just begun."""
        if self.parts and not re.search(r"(?:\n\n|(?:^|\n) *(?:-|\d+\.) )\Z", self._end(3)):
            self.parts.append("\n" if self.lists else "\n\n")


def _without_blank_lines(text: str) -> str:
    """A text with no blanks around its line breaks, and one of these in place of several."""
    first, *others = text.split("\n")
    if not others:
        return text
    *middle, last = (one.lstrip() for one in others)
    return "\n".join([first.rstrip(), *(line for one in middle if (line := one.rstrip())), last])
