"""The copy of a text that a page shows: code and maths stay what they are, and nothing else becomes markup."""

import random
import re

import pytest

from vicuna.pages.markup import LATEX_DELIMITERS, safe_markdown

# Of these, hostile texts are drawn; test_chat_page.py shows some to a real browser.
PIECES = (
    *(
        "<img src=//evil.example/x onerror=window.pwned=1>",
        "<form>",
        "<iframe src=//evil.example>",
        "<style>*{}</style>",
    ),
    *(
        "`",
        "``",
        "```",
        "~~~",
        "````\n",
        "\n```html\n",
        "\n~~~\n",
        "\n\n",
        "\n",
        "> ",
        "- ",
        "1. ",
        "    ",
        "\t",
        "   ",
    ),
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "\\", "\\`", "[a]: ", "[x](", ")", '"', "'", "![", "](//evil.example/i)"),
    *(
        "<!--",
        "-->",
        "<![CDATA[",
        "<?",
        "</p>",
        "<a href=javascript:window.pwned=1>x</a>",
        "&lt;img&gt;",
        "&",
        "|",
        "---",
    ),
    *(
        "%%%LATEX_BLOCK_0%%%",
        "\ue000",
        "\ue001",
        "<details>",
        "<svg onload=window.pwned=1>",
        "http://evil.example/",
        "词",
    ),
    *(
        "[x](javascript:window.pwned=1)",
        "```mermaid\ngraph TD; A[<img src=//evil.example>]",
        "<think>",
        "\\href{//evil.example}{x}",
    ),
)


def maths(text: str, block: bool = False) -> str:
    which = LATEX_DELIMITERS[0 if block else 1]
    return which["left"] + text + which["right"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("你好，**世界**！", "你好，**世界**！"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("> quoted\n\n- one\n- two", "> quoted\n\n- one\n- two"),
        ("vector<int> x; a<b", "vector&#60;int> x; a&#60;b"),
        ("&lt; &amp;", "&#38;lt; &#38;amp;"),
        ("`a<b` and ``c`d``", "<code>a&#60;b</code> and <code>c&#96;d</code>"),
        ("an open ` tick", "an open &#96; tick"),
        (r"\`a<b\`", "&#96;a&#60;b&#96;"),
        ("![i](http://h/i.png)", "&#33;[i](http://h/i.png)"),
        ("[a]: http://h", "[a]&#58; http://h"),
        (r"\*not bold\* \$5", r"\*not bold\* \$5"),
        ("costs $5 and $6, or $7,$8", "costs $5 and $6, or $7,$8"),
        ("$a<b$ and \\(c\\)", maths(r"a\lt b") + " and " + maths("c")),
        ("$$\\int_0^1$$ \\[x\n&y\\]", maths(r"\int_0^1", True) + " " + maths("x\n&y", True)),
        ("`$x$`", "<code>&#36;x&#36;</code>"),
        ("~~gone~~ and ~~~", "~~gone~~ and &#126;&#126;&#126;"),
        ("a\ue000b\ue001", "a\ufffdb\ufffd"),
        ("", ""),
    ],
)
def test_prose(text, shown):
    assert safe_markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("```cpp\nvector<int> x; a<b\n```", "````c\nvector<int> x; a<b\n````"),
        ("~~~Python\na & b\n~~~", "````python\na & b\n````"),
        ("```py\nif a<b:", "````python\nif a<b:\n````"),  # while it grows
        ("```\n```", "````\n\n````"),
        ("`````\n````\n```\n`````", "`````\n````\n```\n`````"),
        ("1. do\n   ```sh\n   ls <x>\n     y\n   ```\n2. then", "1. do\n\n````bash\nls <x>\n  y\n````\n\n2. then"),
        ("so:\n\n    a<b\n\n    c\n\nthen", "so:\n\n\n````\na<b\n\nc\n````\n\nthen"),
        ("- item\n\n    its text <b>", "- item\n\n    its text &#60;b>"),
        ("```mermaid\ngraph <img src=x>\n```", "````\ngraph <img src=x>\n````"),
        ("```constructor\nx\n```", "````\nx\n````"),
        ('```py"><img src=x>\nx\n```', "````python\nx\n````"),
        ("```$x$\n$y\n```", "````\n$y\n````"),
    ],
)
def test_code(text, shown):
    assert safe_markdown(text).strip("\n") == shown


@pytest.mark.parametrize("seed", range(300))
def test_nothing_of_a_texts_own_punctuation_opens_code_or_html_outside_the_fences_that_are_written_for_it(seed):
    chance = random.Random(seed)
    shown = safe_markdown("".join(chance.choices(PIECES, k=chance.randint(1, 30))))
    lines = iter(shown.split("\n"))
    outside = []
    for line in lines:
        if fence := re.match("`{4,}", line):
            assert re.fullmatch("[a-z]*", line[fence.end() :])
            assert fence[0] in lines  # the next line of only these ends the code; there is one
        else:
            outside.append(line)
    rest = "\n".join(outside)
    assert set(re.findall("<[^>]*>?", rest)) <= {"<code>", "</code>"}
    assert rest.count("<code>") == rest.count("</code>")
    assert "`" not in re.sub("[\ue000\ue002][^\ue001\ue003]*[\ue001\ue003]", "", rest)
    assert not re.search(r"!\[|\]:|~~~", re.sub("[\ue000\ue002][^\ue001\ue003]*[\ue001\ue003]", "", rest))
