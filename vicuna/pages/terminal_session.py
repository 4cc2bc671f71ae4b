"""The conversation of a chat in the terminal: what it remembers, how it is answered, and what is written of it."""

import sys
import threading

from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import derive_seed, generation_kwargs
from vicuna.answer.detokenize import TextDelta
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.history import trim
from vicuna.answer.stream import Update
from vicuna.errors import print_answer, printable
from vicuna.pages.terminal_strings import STRINGS as TERMINAL_STRINGS
from vicuna.prompt.own_template import SplitAnswer, split_answer
from vicuna.prompt.templates import Message
from vicuna.prompt.traits import asks_single_questions
from vicuna.sentences import environment_language

# A terminal obeys control characters, and a model may have learnt any.
CONTROL_CHARACTERS = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)], "\ufffd") | {10: "\n", 9: "\t"}


class Thinking:
    """What is thought before an answer, written as it grows, in brackets, where what is no answer goes.

    Args:
        name: what it is called; steady: see `TextDelta`.
    """

    def __init__(self, name: str, steady: bool):
        self.name, self._delta, self._is_open = name, TextDelta(steady), False

    def write(self, said: SplitAnswer, finished: bool) -> None:
        """Write what is new of it."""
        if new := self._delta.new(said.thought, finished):
            head = "" if self._is_open else f"[{self.name}: "
            print(head + new.translate(CONTROL_CHARACTERS), end="", file=sys.stderr, flush=True)
            self._is_open = True
        if not said.is_thinking:
            self.close()

    def close(self) -> None:
        """It is over, however it ended."""
        if self._is_open:
            print("]", file=sys.stderr, flush=True)
        self._is_open = False


class TerminalSession:
    """One conversation.

    Attributes:
        turns: user and assistant messages; system: the user's own system prompt, "" for none.
        adapter: name of the choice that answers.
        draw: how often the last question was answered again.
        stop: ends the answer that is being made; None while a line is read.
    """

    def __init__(self, assistant: Assistant, flags: ChatFlags, decoding: DecodingFlags):
        self.assistant, self.flags, self.decoding = assistant, flags, decoding
        self.language = flags.lang or environment_language()
        self.strings = TERMINAL_STRINGS[self.language]
        self.turns: list[Message] = []
        self.system, self.adapter, self.draw = "", assistant.first.name, 0
        self.stop: threading.Event | None = None
        self.stdout_is_tty = sys.stdout.isatty()

    @property
    def prompt_type(self) -> str:
        """The prompt type of the adapter that answers."""
        return self.assistant.choices[self.adapter].prompt_type

    @property
    def generation(self) -> dict:
        """What the flags set of generate()'s arguments."""
        return generation_kwargs(self.decoding, self.assistant.engine.generation_config)

    @property
    def messages(self) -> list[Message]:
        """The turns, behind the system prompt if there is one and the adapter in use has a place for it."""
        has_place = self.system and self.assistant.takes_system(self.prompt_type)
        return [*([Message(role="system", content=self.system)] if has_place else []), *self.turns]

    # --- writing ------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Write a line that is no answer."""
        print(printable(text), file=sys.stderr, flush=True)

    def notify(self, key: str, **values: object) -> None:
        """Write a notice, by its key in the strings."""
        self.say(f"[{self.strings[key].format(**values)}]")

    # --- answering ----------------------------------------------------------------------------------------------------

    def ask(self, question: str) -> None:
        """Answer, and remember both; a question that gets no answer is not remembered."""
        choice = self.assistant.choices[self.adapter]
        if len(self.turns) == 2 and choice.name and asks_single_questions(choice.trained_as):
            self.notify("single_questions", name=choice.name)
        asked = Message(role="user", content=question)
        last, said = self._answer([*self.messages, asked])
        if last and (last.text or last.finish in ("eos", "length")):
            answer = Message(role="assistant", content=said.content)
            if said.thought:
                answer["reasoning_content"] = said.thought
            self.turns = [*self.turns, asked, answer]

    def _answer(self, messages: list[Message]) -> tuple[Update | None, SplitAnswer]:
        """Stream an answer to standard output, its thinking elsewhere; its last update and what that says."""
        assistant, generation = self.assistant, self.generation
        trimmed = trim(
            assistant.tokenizer_of(self.adapter), self.prompt_type, messages, assistant.engine.context,
            generation["max_new_tokens"], self.flags.max_memory,
        )  # fmt: skip
        if trimmed.forgotten:
            self.notify("forgotten", count=trimmed.forgotten)
        if trimmed.max_new_tokens < generation["max_new_tokens"]:
            self.notify("lowered", count=trimmed.max_new_tokens)
        generation = {**generation, "max_new_tokens": trimmed.max_new_tokens}
        seed = derive_seed(self.decoding.seed, self.draw)
        delta = TextDelta(steady=generation["num_beams"] == 1)
        thinking = Thinking(self.strings["thinking"], delta.steady)
        last, said = None, SplitAnswer("", "")
        updates = assistant.stream(
            trimmed.ids, generation, seed, self.stop, self.adapter, "terminal", prompt_type=self.prompt_type
        )
        try:
            for last in updates:
                said = split_answer(trimmed.prompt_end, last.text, bool(last.finish))
                thinking.write(said, bool(last.finish))
                if new := delta.new(said.content, bool(last.finish)):
                    print_answer(new.translate(CONTROL_CHARACTERS) if self.stdout_is_tty else new, end="")
        finally:
            thinking.close()
            if delta.told:
                print(flush=True)
        self._report_end(last, said.content)
        return last, said

    def _report_end(self, last: Update | None, content: str) -> None:
        """Why and how an answer ended, where that is not as it should be."""
        if last is None:
            return
        if self.flags.show_beam and len(last.beams) > 1:
            for n, beam in enumerate(last.beams, 1):
                self.notify("beam", n=n, score=beam.score, text=beam.text.translate(CONTROL_CHARACTERS))
        if not content and last.finish != "stopped":
            print(flush=True)  # an answer all the same, for what reads the pipe
            self.notify("empty")
        if last.finish in ("length", "stopped"):
            self.notify(last.finish, count=last.tokens)
        if last.cut_character:
            self.notify("cut")
