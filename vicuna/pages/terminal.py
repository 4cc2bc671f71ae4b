"""A chat in the terminal: the page's rules, answers on standard output, everything else on standard error.

It reads lines from a terminal or a pipe. Ctrl-C ends the answer that is being made, a second one the chat; the end of
the input ends it too.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from vicuna import __version__
from vicuna.answer.assistant import Assistant
from vicuna.answer.detokenize import TextDelta
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.history import trim
from vicuna.answer.stream import Update, generation_kwargs, nth_seed
from vicuna.errors import UserError
from vicuna.pages import conversation
from vicuna.pages.strings import STRINGS
from vicuna.pages.terminal_strings import words
from vicuna.prompt.templates import TEMPLATES, Message

PROMPT, FURTHER, BLOCK = "> ", "… ", '"""'
CONTROLS = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)], "\ufffd") | {10: "\n", 9: "\t"}


def chat(assistant: Assistant, chat: ChatFlags, decoding: DecodingFlags) -> None:
    """Talk until the input ends.

    Raises:
        KeyboardInterrupt: Ctrl-C twice.
    """
    for stream in (sys.stdin, sys.stdout):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a byte that is no text is no reason to end a chat
    try:
        with Interrupts() as interrupts:
            Terminal(assistant, chat, decoding, interrupts).run()
    except BrokenPipeError:
        # Whoever read the answers has gone; nothing may be written on the way out either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Interrupts:
    """What Ctrl-C does: it sets `stop` if there is one that is not set, else it raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.stop: threading.Event | None = None
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        self._before = signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.stop is None or self.stop.is_set():
            raise KeyboardInterrupt
        self.stop.set()


class Terminal:
    """One conversation.

    Attributes:
        turns: user and assistant messages; system: the user's own system prompt, "" for none.
        adapter: name of the choice that answers.
        again: how often the last question was answered again.
    """

    def __init__(self, assistant: Assistant, chat: ChatFlags, decoding: DecodingFlags, interrupts: Interrupts):
        self.assistant, self.flags, self.decoding, self.interrupts = assistant, chat, decoding, interrupts
        self.strings = words()
        self.turns: list[Message] = []
        self.system, self.adapter, self.again = "", assistant.first.name, 0
        self.typed = sys.stdin.isatty()
        self.seen = sys.stdout.isatty()
        self.commands: dict[str, Callable[[str], None]] = {
            "/new": self._new, "/undo": self._undo, "/regenerate": self._regenerate, "/system": self._system,
            "/adapter": self._adapter, "/save": self._save, "/load": self._load, "/help": self._help,
        }  # fmt: skip

    def run(self) -> None:
        """Read and answer, line by line."""
        if self.typed:
            with contextlib.suppress(ImportError):  # not on every system
                import readline  # noqa: F401  gives input() a history
        self._say(self.assistant.status(STRINGS["en"]["status"]))
        if self.typed:
            self._notice("start")
        interrupted = False
        while True:
            try:
                text = self._read()
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self._say("")
                self._notice("again")
                continue
            if text.strip() == "/quit":
                return
            interrupted = self._obey(text)

    # --- reading and writing ------------------------------------------------------------------------------------------

    def _read(self) -> str:
        """A message: a line, or the lines between two that hold nothing but BLOCK."""
        line = self._line(PROMPT)
        if line.strip() != BLOCK:
            return line
        lines: list[str] = []
        with contextlib.suppress(EOFError):  # the end of the input ends the message too
            while (line := self._line(FURTHER)).strip() != BLOCK:
                lines.append(line)
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        if self.typed and self.seen:
            return input(prompt)
        if self.typed:
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n").removeprefix("\ufeff")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _notice(self, key: str, **values: object) -> None:
        self._say(f"[{self.strings[key].format(**values)}]")

    def _show(self, text: str) -> None:
        # A terminal obeys control characters, and a model may have learnt any.
        print(text.translate(CONTROLS) if self.seen else text, end="", flush=True)

    # --- answering ----------------------------------------------------------------------------------------------------

    def _obey(self, text: str) -> bool:
        """Do what a line says; whether Ctrl-C was pressed meanwhile."""
        self.interrupts.stop = stop = threading.Event()
        try:
            if text.startswith("/") and not text.startswith("//"):
                name, _, rest = text.strip().partition(" ")
                if name in self.commands:
                    self.commands[name](rest.strip())
                else:
                    self._notice("unknown", command=name)
            elif text.strip():
                self.again = 0
                self._ask(text.removeprefix("/") if text.startswith("//") else text)
        except UserError as error:
            self._say(f"[{error}]")
        finally:
            self.interrupts.stop = None
        return stop.is_set()

    def _ask(self, question: str) -> None:
        """Answer, and remember both; a question that gets no answer is not remembered."""
        asked = [*self.turns, Message(role="user", content=question)]
        last = self._answer([*self._preamble(), *asked])
        if last and (last.text or last.finish in ("eos", "length")):
            self.turns = [*asked, Message(role="assistant", content=last.text)]

    def _preamble(self) -> list[Message]:
        """The system prompt, if there is one and the adapter in use has a place for it."""
        takes_system = TEMPLATES[self.assistant.choices[self.adapter].prompt_type].takes_system
        return [Message(role="system", content=self.system)] if self.system and takes_system else []

    def _answer(self, messages: list[Message]) -> Update | None:
        """Stream an answer to standard output; its last update."""
        assistant = self.assistant
        chosen = generation_kwargs(self.decoding, assistant.engine.generation_config)
        fitted = trim(
            assistant.tokenizer, assistant.choices[self.adapter].prompt_type, messages, assistant.engine.context,
            chosen["max_new_tokens"], self.flags.max_memory,
        )  # fmt: skip
        if fitted.forgotten:
            self._notice("forgotten", count=fitted.forgotten)
        if fitted.max_new_tokens < chosen["max_new_tokens"]:
            self._notice("lowered", count=fitted.max_new_tokens)
        chosen = {**chosen, "max_new_tokens": fitted.max_new_tokens}
        seed = nth_seed(self.decoding.seed, self.again)
        growth = TextDelta(steady=chosen["num_beams"] == 1)
        last = None
        updates = assistant.stream(fitted.ids, chosen, seed, self.interrupts.stop, self.adapter, "terminal")
        try:
            for last in updates:
                if new := growth.new(last.text, bool(last.finish)):
                    self._show(new)
        finally:
            if growth.told:
                print(flush=True)
        self._tell_end(last)
        return last

    def _tell_end(self, last: Update | None) -> None:
        """Why and how an answer ended, where that is not as it should be."""
        if last is None:
            return
        if self.flags.show_beam and len(last.beams) > 1:
            for n, beam in enumerate(last.beams, 1):
                self._notice("beam", n=n, score=beam.score, text=beam.text.translate(CONTROLS))
        if not last.text and last.finish != "stopped":
            print(flush=True)  # an answer all the same, for what reads the pipe
            self._notice("empty")
        if last.finish in ("length", "stopped"):
            self._notice(last.finish, count=last.tokens)
        if last.cut_character:
            self._notice("cut")

    # --- commands -----------------------------------------------------------------------------------------------------

    def _help(self, rest: str) -> None:
        self._say(self.strings["help"])

    def _new(self, rest: str) -> None:
        self.turns = []
        self._notice("new")

    def _undo(self, rest: str) -> None:
        if not self.turns:
            self._notice("nothing", command="/undo")
            return
        question = self.turns[-2]["content"].split("\n")[0]
        self.turns = self.turns[:-2]
        self._notice("undone", question=question[:60])

    def _regenerate(self, rest: str) -> None:
        if not self.turns:
            self._notice("nothing", command="/regenerate")
            return
        before = self.turns
        self.again += 1
        self.turns = before[:-2]
        try:
            self._ask(before[-2]["content"])
        finally:
            if len(self.turns) < len(before):  # no new answer: the old one stands
                self.turns = before

    def _system(self, text: str) -> None:
        prompt_type = self.assistant.choices[self.adapter].prompt_type
        if text and not TEMPLATES[prompt_type].takes_system:
            self._notice("no_place", prompt_type=prompt_type)
            return
        self.system = text
        self._notice("system" if text else "no_system")

    def _adapter(self, name: str) -> None:
        names = self.assistant.names
        if not name:
            for known, choice in names.items():
                self._say(f"{'*' if choice == self.adapter else ' '} {known}")
        elif name in names:
            self.adapter = names[name]
            self._say(self.assistant.status(STRINGS["en"]["status"], self.adapter))
        else:
            self._notice("no_adapter", name=name, names=", ".join(names))

    def _save(self, name: str) -> None:
        if not (name and self.turns):
            self._notice("which_file" if self.turns else "nothing", command="/save")
            return
        file, tokenizer = Path(name).expanduser(), self.assistant.tokenizer
        chosen = generation_kwargs(self.decoding, self.assistant.engine.generation_config)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.eos_id}
        row = conversation.export(
            [*self._preamble(), *self.turns],
            {**chosen, **ids, "max_memory": self.flags.max_memory},
            {
                "base": self.assistant.base_name,
                "adapter": self.adapter,
                "bits": self.assistant.where.split(" · ")[0],
                "prompt_type": self.assistant.choices[self.adapter].prompt_type,
                "version": __version__,
            },
        )
        with _file_errors(file), file.open("a", encoding="utf-8", newline="\n") as opened:
            opened.write(row)
        self._notice("saved", file=file)

    def _load(self, name: str) -> None:
        if not name:
            self._notice("which_file", command="/load")
            return
        file = Path(name).expanduser()
        with _file_errors(file):
            if file.stat().st_size > conversation.LIMIT:
                raise UserError(f"{file} is larger than {conversation.LIMIT >> 20} MB, the most that is loaded.")
            text = file.read_text(encoding="utf-8")
        messages, _ = conversation.load(text)
        self.system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
        self.turns = [Message(role=one["role"], content=one["content"]) for one in messages if one["role"] != "system"]
        self._notice("loaded", turns=len(self.turns) // 2)


@contextlib.contextmanager
def _file_errors(file: Path) -> Any:
    """What the disk, or a file of another kind, has against it, as a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name another file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text; name a file that /save wrote.") from error
