"""When an answer counts as one that repeats itself."""

import pytest

from vicuna.evaluation.repetition import ends_in_loop, repeated_share


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("春天", 0), ("春天来了", 0), ("abcdabcd", 1 / 5), ("aaaaa", 1 / 2), ("春天来了，花开了。", 0)],
)
def test_the_share_of_repeated_pieces(text, share):
    assert repeated_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("", False),
        ("我不知道。我不知道。我不知道。", True),
        ("首先，天气很好。我不知道。我不知道。我不知道。我不", True),  # cut off within the piece
        ("我不知道。我不知道。", False),  # said twice
        ("哈哈哈", False),  # short
        ("a" * 12, True),
        ("我不知道。我不知道。我不知道。但是春天来了。", False),  # it found its way out
        ("一二三四五六七八九十" * 3 + "\n", True),
    ],
)
def test_a_loop_at_the_end_is_found(text, loop):
    assert ends_in_loop(text) is loop
