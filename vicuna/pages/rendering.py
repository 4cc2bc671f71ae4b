"""What the pages show of answers and conversations: safe Markdown, and the messages of Gradio's Chatbot."""

from collections.abc import Sequence

from vicuna.answer.history import Trimmed
from vicuna.answer.stream import Update
from vicuna.pages.conversation import StoredMessage
from vicuna.pages.markup import safe_markdown
from vicuna.pages.strings import Strings
from vicuna.prompt.own_template import split_answer
from vicuna.prompt.templates import split_system

CURSOR = " ▌"
BAR_WIDTH = 10  # characters of the bar that shows how full the memory is


def notice(problem: object) -> str:
    """What went wrong, as Markdown."""
    return f"⚠ {safe_markdown(str(problem))}"


def stats_line(strings: Strings, update: Update) -> str:
    """Tokens, speed, first token, and why the answer ended."""
    line = strings["stats"].format(tokens=update.tokens, speed=update.tokens_per_s, first=update.first_s)
    return line + (strings[update.finish] if update.finish else "") + (strings["cut"] if update.cut_character else "")


def answer_markdown(
    strings: Strings, update: Update, before: str = "", all_beams: bool = True, prompt_end: str | None = None
) -> str:
    """The answer as Markdown: one beam as it is, several one below the other, best first.

    Args:
        prompt_end: how the prompt ends, by which thinking is told from the answer (see `split_answer`).
    """
    cursor = "" if update.finish else CURSOR

    def shown(text: str) -> str:
        found = split_answer(prompt_end, before + text, bool(update.finish))
        return thought_markdown(strings, found.thought, found.is_thinking) + safe_markdown(found.content)

    if len(update.beams) == 1 or not all_beams:
        return shown(update.text) + cursor
    parts = []
    for n, beam in enumerate(update.beams, 1):
        head = strings["beam"].format(n=n, score=beam.score) + (strings["final"] if update.finish and n == 1 else "")
        parts.append(f"**{head}**\n\n{shown(beam.text)}{cursor}")
    return "\n\n---\n\n".join(parts)


def thought_markdown(strings: Strings, thought: str, is_thinking: bool = False) -> str:
    """The thinking before an answer, folded once it is over; "" for none."""
    if not thought and not is_thinking:
        return ""
    opened, title = (" open", strings["thinking_now"]) if is_thinking else ("", strings["thought"])
    return f"<details{opened}>\n<summary>{title}</summary>\n\n{safe_markdown(thought)}\n\n</details>\n\n"


def chatbot_messages(strings: Strings, messages: Sequence[StoredMessage], forgotten: int = 0) -> list[dict]:
    """The conversation as Gradio's Chatbot takes it.

    Args:
        forgotten: turns above the line that says so.
    """
    shown = []
    for message in split_system(messages)[1]:
        text = safe_markdown(message["content"])
        if message["role"] == "assistant":
            text = text or f"*{strings['no_text']}*"
            text = thought_markdown(strings, message.get("reasoning_content", "")) + text
            if message.get("note"):
                text += f"\n\n<small>{safe_markdown(message['note'])}</small>"
        shown.append(chatbot_message(message["role"], text))
    if forgotten:
        title = strings["forgotten"].format(forgotten=forgotten)
        shown.insert(2 * forgotten, {**chatbot_message("assistant", ""), "metadata": {"title": title}})
    return shown


def chatbot_message(role: str, text: str) -> dict:
    """One message as Gradio's Chatbot takes it: as a dictionary, for it takes the indentation from a plain string."""
    return {"role": role, "content": {"type": "text", "text": text}}


def memory_line(strings: Strings, trimmed: Trimmed) -> str:
    """How full the memory is: a bar, tokens, turns forgotten."""
    used, budget = len(trimmed.ids), trimmed.budget
    full = min(BAR_WIDTH, round(BAR_WIDTH * used / max(1, budget)))
    line = strings["memory"].format(used=f"{used:,}", budget=f"{budget:,}", forgotten=trimmed.forgotten)
    return f"{'■' * full}{'□' * (BAR_WIDTH - full)} {line}"


def shortened_notice(strings: Strings, trimmed: Trimmed, max_new_tokens: int) -> str:
    """The notice that an answer may not be as long as was set, "" where it may."""
    if trimmed.max_new_tokens >= max_new_tokens:
        return ""
    return strings["lowered"].format(asked=max_new_tokens, left=trimmed.max_new_tokens)
