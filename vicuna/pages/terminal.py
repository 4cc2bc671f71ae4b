"""A chat in the terminal: the page's rules, answers on standard output, everything else on standard error.

It reads lines from a terminal or a pipe. Ctrl-C ends the answer that is being made, a second one the chat; the end of
the input ends it too.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.errors import UserError
from vicuna.pages.strings import STRINGS
from vicuna.pages.terminal_commands import LEAVE, Commands
from vicuna.pages.terminal_session import TerminalSession
from vicuna.sentences import told

PROMPT, CONTINUATION, BLOCK, GOES_ON = "> ", "… ", '"""', "\\"


def chat(assistant: Assistant, flags: ChatFlags, decoding: DecodingFlags) -> None:
    """Talk until the input ends.

    Raises:
        KeyboardInterrupt: Ctrl-C twice.
    """
    if reconfigure := getattr(sys.stdin, "reconfigure", None):
        reconfigure(errors="surrogateescape")  # a byte that is no text is no reason to end a chat
    session = TerminalSession(assistant, flags, decoding)
    try:
        with _interruptible(session):
            Repl(session).run()
    except BrokenPipeError:
        # Whoever read the answers has gone; nothing may be written on the way out either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _interruptible(session: TerminalSession) -> Iterator[None]:
    """Ctrl-C sets the session's `stop` if there is one that is not set, else it raises KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if session.stop is None or session.stop.is_set():
            raise KeyboardInterrupt
        session.stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _readable(line: str) -> str:
    """A line whose bytes are not of the input's encoding: GB18030 where they are that, else with signs for them.

    A line that also holds letters of the input's own encoding is not of another one.
    """
    if line.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in line):
        return line
    raw = line.encode(sys.stdin.encoding, "surrogateescape")
    if all(sign.isascii() or "\udc80" <= sign <= "\udcff" for sign in line):
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("gb18030")
    return raw.decode(sys.stdin.encoding, "replace")


class Repl:
    """Reads lines and has the session answer them, or the commands obey them."""

    def __init__(self, session: TerminalSession):
        self.session, self.commands = session, Commands(session)
        self.stdin_is_tty = sys.stdin.isatty()

    def run(self) -> None:
        """Read and answer, line by line."""
        if self.stdin_is_tty:
            with contextlib.suppress(ImportError):  # not on every system
                import readline  # noqa: F401  gives input() a history
        language = self.session.language
        self.session.say(self.session.assistant.status(STRINGS[language]["status"], language=language))
        if self.stdin_is_tty:
            self.session.notify("start")
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
                self.session.say("")
                self.session.notify("again")
                continue
            if text.strip() in LEAVE:
                return
            interrupted = self._evaluate(text)

    def _read(self) -> str:
        """A message: a line, and what follows where it ends in GOES_ON; or the lines between two that are BLOCK."""
        line = self._read_line(PROMPT)
        lines: list[str] = []
        if line.strip() != BLOCK:
            with contextlib.suppress(EOFError):
                while line.endswith(GOES_ON):
                    lines.append(line.removesuffix(GOES_ON))
                    line = ""
                    line = self._read_line(CONTINUATION)
            return "\n".join([*lines, line])
        with contextlib.suppress(EOFError):  # the end of the input ends the message too
            while (line := self._read_line(CONTINUATION)).strip() != BLOCK:
                lines.append(line)
        return "\n".join(lines)

    def _read_line(self, prompt: str) -> str:
        if self.stdin_is_tty and self.session.stdout_is_tty:
            return input(prompt)
        if self.stdin_is_tty:
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return _readable(line.rstrip("\r\n").removeprefix("\ufeff"))

    def _evaluate(self, text: str) -> bool:
        """Do what a line says; whether Ctrl-C was pressed meanwhile."""
        self.session.stop = stop = threading.Event()
        try:
            if text.startswith("/") and not text.startswith("//"):
                self.commands.run(text)
            elif text.strip():
                self.session.draw = 0
                self.session.ask(text.removeprefix("/") if text.startswith("//") else text)
        except UserError as error:
            self.session.say(f"[{told(error, self.session.language)}]")
        finally:
            self.session.stop = None
        return stop.is_set()
