"""How much an answer repeats itself, by its characters alone, so that models with other tokenizers can be compared."""

GRAM = 4  # characters
TIMES, LEAST = 3, 12  # a loop is a piece said this often in a row, together this many characters or more


def repeated_share(text: str) -> float:
    """Share of a text's 4-grams of characters that stood in it before; 0 where it has none."""
    count = len(text) - GRAM + 1
    return 1 - len({text[i : i + GRAM] for i in range(count)}) / count if count > 0 else 0.0


def ends_in_loop(text: str) -> bool:
    """Whether a text ends in a piece said three times or more in a row, the last time perhaps not to its end."""
    text = text.rstrip()
    for period in range(1, len(text) // TIMES + 1):
        end = len(text) - 1
        while end >= period and text[end] == text[end - period]:
            end -= 1
        length = len(text) - 1 - end + period
        if length >= max(LEAST, TIMES * period):
            return True
    return False
