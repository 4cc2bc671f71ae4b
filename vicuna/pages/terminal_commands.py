"""The commands of the chat in the terminal: lines that begin with a slash."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from vicuna.errors import UserError
from vicuna.foreign.paths import regular
from vicuna.pages import conversation, saved_chats
from vicuna.pages.strings import STRINGS
from vicuna.pages.terminal_session import TerminalSession
from vicuna.prompt.templates import split_system
from vicuna.sentences import Sentence, refusal

LEAVE = ("/quit", "/exit")


class Commands:
    """What each command does to a session, with what is typed behind its name.

    Attributes:
        by_name: all but those of LEAVE.
    """

    def __init__(self, session: TerminalSession):
        self.session = session
        self.by_name: dict[str, Callable[[str], None]] = {
            "/new": self._new, "/undo": self._undo, "/regenerate": self._regenerate, "/system": self._system,
            "/adapter": self._adapter, "/save": self._save, "/load": self._load, "/help": self._help,
        }  # fmt: skip

    def run(self, line: str) -> None:
        """Do what a line says, or say that there is no such command."""
        name, _, rest = line.strip().partition(" ")
        if name in self.by_name:
            self.by_name[name](rest.strip())
        else:
            self.session.notify("unknown", command=name)

    def _help(self, rest: str) -> None:
        self.session.say(self.session.strings["help"])

    def _new(self, rest: str) -> None:
        self.session.turns = []
        self.session.notify("new")

    def _undo(self, rest: str) -> None:
        if not self.session.turns:
            self.session.notify("nothing", command="/undo")
            return
        question = self.session.turns[-2]["content"].split("\n")[0]
        self.session.turns = self.session.turns[:-2]
        self.session.notify("undone", question=question[:60])

    def _regenerate(self, rest: str) -> None:
        session, before = self.session, self.session.turns
        if not before:
            session.notify("nothing", command="/regenerate")
            return
        session.draw += 1
        session.turns = before[:-2]
        try:
            session.ask(before[-2]["content"])
        finally:
            if len(session.turns) < len(before):  # no new answer: the old one stands
                session.turns = before

    def _system(self, text: str) -> None:
        prompt_type = self.session.prompt_type
        if text and not self.session.assistant.takes_system(prompt_type):
            self.session.notify("no_place", prompt_type=prompt_type)
            return
        self.session.system = text
        self.session.notify("system" if text else "no_system")

    def _adapter(self, name: str) -> None:
        session, assistant = self.session, self.session.assistant
        if not name:
            for known, choice in assistant.names.items():
                session.say(f"{'*' if choice == session.adapter else ' '} {known}")
        elif name in assistant.names:
            session.adapter = assistant.names[name]
            line = STRINGS[session.language]["status"]
            session.say(assistant.status(line, session.adapter, language=session.language))
        else:
            session.notify("no_adapter", name=name, names=", ".join(assistant.names))

    def _save(self, name: str) -> None:
        session = self.session
        if not (name and session.turns):
            session.notify("which_file" if session.turns else "nothing", command="/save")
            return
        file = Path(name).expanduser()
        settings = {**session.generation, "max_memory": session.flags.max_memory}
        row = saved_chats.export_chat(
            session.assistant, session.messages, settings, session.adapter, session.prompt_type
        )
        with _file_errors(file), file.open("a", encoding="utf-8", newline="\n") as opened:
            opened.write(row)
        session.notify("saved", file=file)

    def _load(self, name: str) -> None:
        if not name:
            self.session.notify("which_file", command="/load")
            return
        file = Path(name).expanduser()
        with _file_errors(file):
            if file.stat().st_size > conversation.MAX_BYTES:
                raise UserError(Sentence("loaded_too_large", file=file, most=conversation.MAX_BYTES >> 20))
            text = file.read_text(encoding="utf-8")
        messages = saved_chats.parse_last_chat(text).messages
        self.session.system = conversation.system_prompt(messages)
        self.session.turns = list(split_system(messages)[1])
        self.session.notify("loaded", turns=conversation.count_turns(messages))


@contextlib.contextmanager
def _file_errors(file: Path) -> Iterator[None]:
    """What the disk, or a file of another kind, has against it, as a sentence; a pipe or a device is not opened."""
    if file.exists() and not file.is_dir():
        regular(file)
    try:
        yield
    except OSError as error:
        raise UserError(Sentence("other_file", file=file, reason=refusal(error))) from error
    except UnicodeDecodeError as error:
        raise UserError(Sentence("no_utf8", file=file)) from error
