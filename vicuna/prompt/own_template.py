"""The prompts and answers of a base's own chat template.

Published templates say nothing of where an answer begins (none of the usual families has `{% generation %}`), so it is
found by rendering: a prompt for the answer, and the dialogue with it. The prompt is often no beginning of the dialogue:
where it opens a block of thinking that the dialogue closes or leaves out, and where an earlier turn is written
otherwise once it is an earlier one. Each such place is looked for in the dialogue at hand, not by a template's name.
Source of the behaviours named here: templates published until 2026-11, rendered with transformers 5.23.0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from vicuna.errors import UserError
from vicuna.prompt.rendering import OPENED, QUESTION, Renderer
from vicuna.prompt.replaced_templates import kept_as_written

THINKING = ("keep", "drop", "empty")
OPEN_THINKING, CLOSE_THINKING = "<think>", "</think>"
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_BLOCK = re.compile(r"\s*+(<think>)?(\s*+</think>\s*+)")  # nothing is thought in it
_CLOSED_BLOCK = re.compile(r"<think>\s*</think>\s*\Z")
_CLOSED = re.compile(r"</think>\s*\Z")


@dataclass(frozen=True)
class Turn:
    """An answer of a dialogue: the text that leads to it from the beginning, and its own, with what ends it."""

    prompt: str
    answer: str


class ChatTemplate(Renderer):
    """A base's own template, as prompts, answers, and the text that an export is given."""

    def prompt(self, messages: Sequence[Mapping[str, Any]], thinking: str | None = None) -> str:
        """The text that the answer to the last message follows.

        Args:
            thinking: in place of the settings': "empty" has a block of thinking that is closed already, where the
                template knows such blocks; "drop" has none.
        """
        thinking = self.settings.thinking if thinking is None else thinking
        cleaned = [self.clean(message) for message in messages]
        return self._closed(self._opened(cleaned, thinking), thinking)

    def _opened(self, cleaned: list[dict[str, Any]], thinking: str) -> str:
        options = {"enable_thinking": thinking == "keep"} if thinking in ("keep", "empty") else {}
        text = self.render_cleaned(cleaned, True, **options)
        system = cleaned[0]["content"].strip() if cleaned and cleaned[0]["role"] == "system" else ""
        if system and not self._stands_in(system, text):
            raise UserError(
                f"the chat template in {self.path} has no place for a system message, or leaves it out of such a "
                "dialogue: put its text before the first question."
            )
        return text

    def _closed(self, opened: str, thinking: str) -> str:
        if thinking == "empty":
            if OPENED.search(opened):
                return opened + (self._closing or ("</think>\n\n" if opened.endswith("\n") else CLOSE_THINKING))
            if not _CLOSED.search(opened):
                return opened + self.empty_block
        return OPENED.sub("", opened) if thinking == "drop" else opened

    def turn(self, messages: Sequence[Mapping[str, Any]]) -> Turn:
        """What leads to the last message, an answer, and the answer with the token that ends it.

        A block of thinking that holds nothing is part of the prompt, for it is never to be learnt.

        Raises:
            UserError: the template does not show the answer.
        """
        *asked, last = messages
        return self._turn([self.clean(message) for message in asked], last)

    def _turn(self, cleaned: list[dict[str, Any]], last: Mapping[str, Any]) -> Turn:
        content, thought = split_thought(last)
        kept = thought and self.settings.thinking in ("", "keep")
        thinking = "keep" if kept else self.settings.thinking.replace("keep", "") or "empty"
        answer = self.clean({**last, "content": content, "reasoning_content": thought if kept else ""})
        opened = self._opened(cleaned, thinking)
        options = {"enable_thinking": kept} if thinking in ("keep", "empty") else {}
        whole = self.render_cleaned([*cleaned, answer], False, **options)
        prompt = self._closed(opened, thinking)
        stems = (opened, OPENED.sub("", opened), _CLOSED_BLOCK.sub("", opened))
        stem = next((one for one in stems if whole.startswith(one)), None)
        text = self._found(whole, answer) if stem is None else whole[len(stem) :]
        self._check_calls(cleaned, opened)
        self._check_calls([answer], text)
        is_open, block = bool(OPENED.search(opened)), _BLOCK.match(text)
        if not kept:
            text = text[block.end() :] if block and (block[1] or is_open) else text
        elif not self._stands_in(thought.strip(), text):  # the template shows no thought
            thought = answer["reasoning_content"].strip()
            closing = f"{block[2]}{text[block.end() :]}" if block else f"\n{CLOSE_THINKING}\n\n{text.lstrip()}"
            text = f"{thought}{closing}" if is_open else f"{OPEN_THINKING}{'' if block else chr(10)}{thought}{closing}"
        elif is_open:
            text = re.sub(rf"\A\s*{OPEN_THINKING}\s*", "", text)
        return Turn(prompt, self._ended(text))

    def _check_calls(self, messages: list[dict[str, Any]], text: str) -> None:
        """Refuse calls of which a template shows nothing: what is said to a function, or of it, would make no sense."""
        for call in (call for message in messages for call in message.get("tool_calls", [])):
            if (name := call["function"]["name"]) not in text:
                raise UserError(f"the chat template in {self.path} does not show the call of {name} in an answer.")

    @cached_property
    def _closing(self) -> str:
        """How the template itself closes a block of thinking that a prompt has opened, "" where it does not."""
        opened = self.tried([QUESTION])
        whole = self.tried([QUESTION, {"role": "assistant", "content": "1"}], False)
        found = _BLOCK.match(whole[len(opened) :]) if opened and whole.startswith(opened) else None
        return found[0] if found and not found[1] else ""

    def _found(self, whole: str, answer: dict[str, Any]) -> str:
        """The answer in a dialogue of which the prompt is no beginning: from its text on, as it begins elsewhere."""
        content = answer["content"]
        at = whole.rfind(content)
        if at < 0:
            content = content.strip()
            at = whole.rfind(content)
        if at < 0 or not content:
            raise UserError(f"the chat template in {self.path} does not show the dialogue's last answer.")
        return self.glue + whole[at:]

    def _stands_in(self, text: str, rendering: str) -> bool:
        return self.typed.sub(lambda found: self._shields[found[0]], text) in rendering

    def _ended(self, answer: str) -> str:
        """An answer up to the token that ends it; the template's, or else EOS, is put there where none stands."""
        tokens: list[tuple[int, str]] = []  # those with nothing but blanks behind them
        for found in self.typed.finditer(answer):
            if tokens and answer[tokens[-1][0] + len(tokens[-1][1]) : found.start()].strip():
                tokens = []
            tokens.append((found.start(), found[0]))
        if tokens and answer[tokens[-1][0] + len(tokens[-1][1]) :].strip():
            tokens = []
        names = [name for _, name in tokens]
        for wanted in (self.end_of_turn, self.tokens.get("eos_token", ""), *names[:1]):
            if wanted in names:
                at = tokens[names.index(wanted)][0]
                return answer[: at + len(wanted)]
        return answer + (self.end_of_turn or self.tokens.get("eos_token", ""))

    def turns(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[Turn], bool]:
        """Every answer of a dialogue with what leads to it, and whether each prompt begins with all that came before.

        Where it does not, the answers can not be learnt in one row.
        """
        cleaned = [self.clean(message) for message in messages]
        ends = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        found = [self._turn(cleaned[:at], messages[at]) for at in ends]
        pairs = pairwise(found)
        return found, all(later.prompt.startswith(turn.prompt + turn.answer) for turn, later in pairs)

    def exported(self) -> str:
        """The template's text with its settings written into it, for programs that know only the text."""
        before = self.dated
        if self.settings.thinking in ("keep", "empty") and self._switches_thinking:
            value = "true" if self.settings.thinking == "keep" else "false"
            before += (
                f"{{%- if enable_thinking is not defined -%}}{{%- set enable_thinking = {value} -%}}{{%- endif -%}}"
            )
        return kept_as_written(before + self.text)

    @cached_property
    def _switches_thinking(self) -> bool:
        question = [QUESTION]
        return self.tried(question, enable_thinking=True) != self.tried(question, enable_thinking=False)


def split_thought(message: Mapping[str, Any]) -> tuple[str, str]:
    """The text of an answer without its thinking, and the thinking: reasoning_content, or a block <think> before it."""
    content = message.get("content") or ""
    if thought := message.get("reasoning_content"):
        return content, thought
    found = _THOUGHT.match(content)
    return (content[found.end() :], found[1].strip()) if found else (content, "")


@dataclass(frozen=True)
class SplitAnswer:
    """An answer, or as much of it as there is, by its parts; `is_thinking` while the first of them goes on."""

    thought: str
    content: str
    is_thinking: bool = False


def split_answer(prompt_end: str | None, text: str, finished: bool = True) -> SplitAnswer:
    """The thinking in the text of an answer that follows a prompt, and what is answered.

    While an answer grows, both parts only ever grow, too: what may become a tag is held back.

    Args:
        prompt_end: how the prompt of the base's own template ends, which may have opened a block of thinking; None of
            another prompt, whose answers are taken as they are.
        finished: nothing more will follow.
    """
    if prompt_end is None:
        return SplitAnswer("", text)
    is_open, begun = bool(OPENED.search(prompt_end)), text.lstrip()
    if not finished and OPEN_THINKING.startswith(begun):
        return SplitAnswer("", "", is_open)
    if not is_open and not begun.startswith(OPEN_THINKING):
        return SplitAnswer("", text)
    inside, closing, content = begun.removeprefix(OPEN_THINKING).partition(CLOSE_THINKING)
    if not closing:
        inside = inside[: len(inside) - (0 if finished else _begun(inside, CLOSE_THINKING))]
    return SplitAnswer(inside.strip(), content.lstrip(), not closing and not finished)


def _begun(text: str, tag: str) -> int:
    """Characters at the end of a text that a tag begins with."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
