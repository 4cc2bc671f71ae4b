"""What the tests of the routes share: a question, and how an answer or a refusal is read."""

HELLO = [{"role": "user", "content": "春天的花有哪些？"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


def message_of(error) -> str:
    return error.value.body["message"]


def joined(chunks, n: int = 1) -> list[str]:
    texts = [""] * n
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts
