"""A base's own chat template: messages -> text, by transformers in its sandbox, and what the template is like.

What it knows (system messages, the day, thinking, functions) is found out by rendering, never by its name.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any, Self

from vicuna.errors import UserError, first_line
from vicuna.sentences import Sentence

BASE = "base"  # the prompt type that is the base's own chat template
NO_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
OPENED = re.compile(r"<think>\s*\Z")
_PROBE = "vicuna4probe"  # letters that no template has words like
_FIRST_SHIELD = 0xF0000  # private characters, one for each control token, that stand for its name typed by somebody
_PASSED_ON = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
_ASKED_DAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1""")
QUESTION = {"role": "user", "content": "1"}


@dataclass(frozen=True)
class Settings:
    """What a template is rendered with, beside the messages.

    Attributes:
        day: what it takes for today, as YYYY-MM-DD; "" for the day on which it was opened.
        thinking: of `THINKING`; "" keeps a thought where there is one, and is the template's own default in a prompt.
        tools: JSON of the functions that an answer may call, in OpenAI's form; "" for none.
    """

    day: str = ""
    thinking: str = ""
    tools: str = ""


PLAIN = Settings()


class Renderer:
    """A Jinja chat template with the tokens and the settings that it is rendered with.

    It is rendered by transformers in its sandbox, as `apply_chat_template` does. Tokens of the tokenizer that somebody
    types are text: they are put into the rendering as private characters, which `unshield` makes text again.

    Args:
        tokens: bos_token, eos_token and so on, by these names.
        control: the texts that are control tokens in a rendering.
        path: what the template came in, for messages.
    """

    def __init__(
        self, text: str, tokens: Mapping[str, str], control: Sequence[str], path: Any, settings: Settings = PLAIN
    ):
        self.text, self.tokens, self.path, self.settings = text, dict(tokens), path, settings
        self.control = sorted((one for one in control if one), key=len, reverse=True)
        self.day = settings.day or date.today().isoformat()
        self._shields = {name: chr(_FIRST_SHIELD + number) for number, name in enumerate(self.control)}
        self._names = {shield: name for name, shield in self._shields.items()}
        alternatives = "|".join(map(re.escape, self.control)) or r"(?!)"
        self.typed = re.compile(alternatives)

    def with_settings(self, settings: Settings) -> Self:
        """The same template, rendered with other settings."""
        return type(self)(self.text, self.tokens, self.control, self.path, settings)

    @cached_property
    def _renderer(self) -> Any:
        """A tokenizer of transformers, of which only the rendering is used."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **self.tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], generation_prompt: bool) -> str:
        """The template's text of the messages, control tokens that somebody typed shielded (see `unshield`).

        Raises:
            UserError: what the template refuses, in its own words.
        """
        return self.render_cleaned([self.clean(message) for message in messages], generation_prompt)

    @cached_property
    def dated(self) -> str:
        """What is put before the template, so that it takes the settings' day for today; "" where it asks for none."""
        return self._dated(self.day)

    def _dated(self, day: str) -> str:
        """A variable and a macro in the place of the library's own function, which gives the day of the rendering."""
        today, before = date.fromisoformat(day), ""
        if "date_string" in self.text:
            before += f"{{%- set date_string = {json.dumps(today.strftime('%d %b %Y'))} -%}}"
        if formats := sorted({found[2] for found in _ASKED_DAY.finditer(self.text)}):
            cases = [f"format == {json.dumps(one)} -%}}{today.strftime(one)}{{%-" for one in formats]
            chain = f"{{%- if {' elif '.join(cases)} endif -%}}"
            before += f"{{%- macro strftime_now(format) -%}}{chain}{{%- endmacro -%}}"
        return f"{before}{{{{ '' }}}}" if before else ""  # which leaves the blanks that the template begins with

    def render_cleaned(
        self, messages: list[dict[str, Any]], generation_prompt: bool, day: str | None = None, **options: Any
    ) -> str:
        """The text of messages from `clean`."""
        if self.settings.thinking and "enable_thinking" not in options and self.settings.thinking != "drop":
            options["enable_thinking"] = self.settings.thinking == "keep"
        if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
            messages = messages[1:]  # an empty system message is another prompt than none (Qwen2.5)
        tools = json.loads(self.settings.tools) if self.settings.tools else None
        try:
            return self._renderer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=(self.dated if day is None else self._dated(day)) + self.text,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **options,
            )
        except Exception as error:  # a template is a program of somebody else: it ends with whatever it raises
            raise UserError(Sentence("template_refuses", path=self.path, reason=first_line(error))) from error

    def clean(self, message: Mapping[str, Any], thinking: str | None = None) -> dict[str, Any]:
        """A message as templates know them, without a key that has no value (transformers leaves None out, others print
        it), with its text shielded, and stripped by us where the template strips: Jinja's trim of transformers takes
        full-width spaces away, that of llama.cpp does not.
        """
        kept = {name: message[name] for name in _PASSED_ON if message.get(name) not in (None, "")}
        kept["content"] = message.get("content") or ""
        if extra := message.get("input", "").strip():
            kept["content"] = f"{kept['content']}\n{message['input']}" if extra else kept["content"]
        kept["content"] = self.stripping.get(message["role"], str)(kept["content"])
        for name in ("content", "reasoning_content"):
            if name in kept:
                kept[name] = self.typed.sub(lambda found: self._shields[found[0]], kept[name])
        if "tool_calls" in kept:
            kept["tool_calls"] = [self._call(one) for one in kept["tool_calls"]]
        return kept

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A call with its arguments as the template takes them: their own JSON text, else the value."""
        function = dict(call.get("function", call))
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, str) and not self.takes_text_arguments:
            arguments = json.loads(arguments)
        elif not isinstance(arguments, str) and self.takes_text_arguments:
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {**({"id": call["id"]} if call.get("id") else {}), "type": "function",
                "function": {"name": function.get("name"), "arguments": arguments}}  # fmt: skip

    def unshield(self, text: str) -> str:
        """A rendering, or a part of one, with the shielded names as they were typed."""
        return "".join(self._names.get(one, one) for one in text) if self.is_shielded(text) else text

    def is_shielded(self, text: str) -> bool:
        """Whether names of control tokens were typed in it, which are no control tokens."""
        return any(one >= chr(_FIRST_SHIELD) and one in self._names for one in text)

    def tried(self, messages: list[dict[str, Any]], generation_prompt: bool = True, **options: Any) -> str:
        try:
            return self.render_cleaned(messages, generation_prompt, **options)
        except UserError:
            return ""

    @cached_property
    def stripping(self) -> dict[str, Callable[[str], str]]:
        """What the template takes away around the text of a role, by role: some strip one side, or questions alone."""
        return {role: self._stripping(role) for role in ("system", "user", "assistant")}

    def _stripping(self, role: str) -> Callable[[str], str]:
        said = {"role": role, "content": f"\u3000{_PROBE}\u3000"}
        shown = self.tried({"system": [said, QUESTION], "user": [said]}.get(role, [QUESTION, said, QUESTION]))
        left, right = (_PROBE in shown and one not in shown for one in (f"\u3000{_PROBE}", f"{_PROBE}\u3000"))
        return {(True, True): str.strip, (True, False): str.lstrip, (False, True): str.rstrip}.get((left, right), str)

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system message stands in the prompt."""
        return _PROBE in self.tried([{"role": "system", "content": _PROBE}, QUESTION])

    @cached_property
    def takes_date(self) -> bool:
        """Whether a prompt depends on the day."""
        question = [QUESTION]
        return self.tried(question, day="2001-02-03") != self.tried(question, day="2004-05-06")

    @cached_property
    def knows_thinking(self) -> bool:
        """Whether thinking can be switched, or is opened or closed by the template."""
        question = [QUESTION]
        on, off = (self.tried(question, enable_thinking=value) for value in (True, False))
        return on != off or bool(OPENED.search(on)) or bool(self.empty_block)

    @cached_property
    def _with_tool(self) -> Self:
        """The template with a function that may be called."""
        shown = {"type": "function", "function": {"name": _PROBE, "description": "1", "parameters": {
            "type": "object", "properties": {}}}}  # fmt: skip
        return self.with_settings(replace(self.settings, tools=json.dumps([shown])))

    @cached_property
    def knows_tools(self) -> bool:
        """Whether a prompt shows the functions that may be called."""
        return _PROBE in self._with_tool.tried([QUESTION])

    @cached_property
    def takes_text_arguments(self) -> bool:
        """Whether arguments of a call that are a JSON text are written as they are, and not quoted once more."""
        call = {"id": "a23456789", "type": "function", "function": {"name": "f", "arguments": f'{{"k": "{_PROBE}"}}'}}
        asked = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return f'"k": "{_PROBE}"' in self.tried(asked, False)

    @cached_property
    def calls_in_tags(self) -> bool:
        """Whether a call is written between <tool_call> and </tool_call>, as Hermes and Qwen have it."""
        call = {"id": "a23456789", "type": "function", "function": {"name": "f", "arguments": {"k": _PROBE}}}
        asked = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
        before, after = (self._with_tool.tried(one, False) for one in (asked[:1], asked))
        return after.count("<tool_call>") > before.count("<tool_call>")  # which tools may be explained with

    @cached_property
    def plain_answer(self) -> tuple[str, str]:
        """What stands before and behind the text of an answer to one question, from the end of the prompt on."""
        question = [QUESTION]
        opened = self.tried(question)
        whole = self.tried([*question, {"role": "assistant", "content": _PROBE}], False)
        for stem in (opened, OPENED.sub("", opened)):
            if stem and whole.startswith(stem) and _PROBE in whole:
                before, _, behind = whole[len(stem) :].partition(_PROBE)
                return before, behind
        return "", whole.partition(_PROBE)[2]

    @cached_property
    def empty_block(self) -> str:
        """The block of thinking without a thought that an answer gets, "" for none."""
        return self.plain_answer[0] if NO_THOUGHT.fullmatch(self.plain_answer[0]) else ""

    @cached_property
    def glue(self) -> str:
        """The blanks between a prompt and an answer."""
        return self.plain_answer[0] if self.plain_answer[0].isspace() else ""

    @cached_property
    def end_of_turn(self) -> str:
        """The name of the control token that the template writes behind an answer, "" for none: the first, or where
        words stand between several, as in Kimi K3's, the last.
        """
        tail = self.plain_answer[1]
        found = [one[0] for one in self.typed.finditer(tail)]
        if not found or tail[: tail.index(found[0])].strip():
            return ""
        return found[-1] if self.typed.sub("", tail).strip() else found[0]

    @cached_property
    def problem(self) -> str:
        """Why it can not be used at all, as a sentence; "" where it renders a question."""
        try:
            text = self.render_cleaned([{"role": "user", "content": _PROBE}], True)
        except UserError as error:
            return str(error)
        return "" if _PROBE in text else f"the chat template in {self.path} does not show a question."
