"""What the chat page does with a conversation, apart from how the page looks.

Every function takes the conversation as the browser sent it and gives changes of the page: a dictionary of the names
of its parts, with their new values. The server holds nothing between two events but the answers that are running.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from vicuna.answer import history
from vicuna.answer.assistant import Assistant
from vicuna.answer.stream import Update, nth_seed
from vicuna.errors import UserError
from vicuna.pages import components, conversation
from vicuna.pages.chat_runs import Ask, Options, Run, Runs
from vicuna.pages.conversation import Kept
from vicuna.pages.markup import display
from vicuna.prompt.templates import PROMPT_TYPES, TEMPLATES, split_system

MESSAGE_LIMIT = 100_000  # characters of one message; what a context holds is far less
ANSWER_LIMIT = 2**18  # bytes that an answer may add to what the browser keeps
BAR = 10  # characters of the bar that shows how full the memory is

Changes = dict[str, Any]
Strings = dict[str, str]


class Talk:
    """The conversations of a chat page with a loaded model.

    Args:
        seed: fixes what sampling draws.
        typewriter: whether answers are shown while they grow.
    """

    def __init__(self, assistant: Assistant, seed: int | None, typewriter: bool):
        self.assistant, self.seed, self.typewriter = assistant, seed, typewriter
        self.runs = Runs()

    def options(self, values: Sequence[Any]) -> Options:
        """The options from the values of their controls: adapter, prompt type, system, memory, beams, decoding.

        Raises:
            UserError: a value that no control has; a request need not come from the page.
        """
        adapter, prompt_type, system, max_memory, all_beams, *decoding = values
        if adapter not in self.assistant.choices or prompt_type not in PROMPT_TYPES:
            raise UserError(f"there is no adapter {adapter!r} or no prompt type {prompt_type!r} here.")
        if not isinstance(max_memory, int | float) or not 0 <= max_memory <= components.MOST:
            raise UserError(f"Max Memory {max_memory!r} is not possible: expected 0 to {components.MOST}.")
        chosen = components.chosen(decoding)
        if chosen["num_beams"] > self.assistant.engine.max_beams:
            raise UserError(
                f"{chosen['num_beams']} beams are more than the {self.assistant.engine.max_beams} possible."
            )
        takes_system = TEMPLATES[prompt_type].takes_system
        system = (system or "").strip() if takes_system else ""
        return Options(adapter, prompt_type, system, int(max_memory), bool(all_beams), chosen)

    # --- asking -------------------------------------------------------------------------------------------------------

    def send(
        self, strings: Strings, session: str, kept: str, question: str, editing: int | None, values: Sequence[Any]
    ) -> Iterator[Changes]:
        """Answer a question, and those that are sent meanwhile.

        Args:
            editing: turn whose question this one replaces; what follows it goes.
        """
        if not question.strip():
            yield {"hint": strings["empty"]}
            return
        try:
            if len(question) > MESSAGE_LIMIT:
                raise UserError(strings["too_long"].format(most=MESSAGE_LIMIT))
            ask = Ask(question, self.options(values), editing)
            messages, _ = conversation.kept(kept)
        except UserError as error:
            yield {"hint": components.notice(error)}
            return
        # Between two looks a run may end, or another one begin.
        while (run := self.runs.begin(session)) is None:
            waits = self.runs.wait(session, replace(ask, turn=None))
            if waits is not None:
                hint = {"hint": strings["waits" if waits else "too_many"]}
                yield {**hint, "message": gr.update(value="")} if waits else hint
                return
        yield from self._converse(strings, session, run, messages, ask)

    def again(self, strings: Strings, session: str, kept: str, values: Sequence[Any]) -> Iterator[Changes]:
        """Answer the last question once more: with another draw, where one is drawn."""
        try:
            messages, _ = conversation.kept(kept)
            options = self.options(values)
        except UserError as error:
            yield {"hint": components.notice(error)}
            return
        count = turns(messages)
        if count and (run := self.runs.begin(session)):
            question, answer = messages[-2:]
            ask = Ask(question["content"], options, count - 1, (answer.get("draw", 0) + 1) % conversation.DRAWS)
            yield from self._converse(strings, session, run, messages, ask)

    def _converse(self, strings: Strings, session: str, run: Run, messages: list[Kept], ask: Ask) -> Iterator[Changes]:
        first = True
        try:
            while ask and not run.dropped:
                messages = yield from self._answer(strings, session, run, messages, ask, first)
                first, ask = False, self.runs.next(session, run)
            if not run.dropped:
                unsent = "\n".join(waiting.question for waiting in run.waiting)
                yield {"message": gr.update(submit_btn=True, stop_btn=False, **({"value": unsent} if unsent else {}))}
        finally:
            run.stop.set()
            self.runs.next(session, run)

    def _answer(
        self, strings: Strings, session: str, run: Run, messages: list[Kept], ask: Ask, first: bool
    ) -> Iterator[Changes]:
        """One answer as changes of the page; returns the messages with it, or as they were where there is none."""
        question, options, before = ask.question, ask.options, messages
        if ask.turn is not None:
            before = before_turn(messages, ask.turn)
        asked = [*with_system(before, options.system), Kept(role="user", content=question)]
        draft = "" if ask.draw else question  # what is typed stays while an older question is answered again
        last: Update | None = None
        problem = ""
        try:
            fitted = self.fit(asked, options)
            above = bubbles(strings, asked, fitted.forgotten)
            yield {
                "chat": [*above, _bubble("assistant", components.CURSOR)],
                "forgotten": fitted.forgotten,
                "memory": self.memory_line(strings, len(fitted.ids), fitted.budget, fitted.forgotten),
                "kept": conversation.keep(messages, draft, ANSWER_LIMIT),
                "message": gr.update(submit_btn=False, stop_btn=True, **({"value": ""} if first and draft else {})),
                "hint": lowered(strings, fitted, options),
                "turn": gr.update(visible=False),
                "editing": None,
            }
            chosen = {**options.chosen, "max_new_tokens": fitted.max_new_tokens}
            updates = self.assistant.stream(
                fitted.ids, chosen, nth_seed(self.seed, ask.draw), run.stop, options.adapter, session
            )
            for update in components.paced(updates, self.typewriter):
                if run.dropped:
                    return messages
                last = update
                if not update.finish:
                    text = components.show_answer(strings, update, all_beams=options.all_beams)
                    yield {"chat": [*above, _bubble("assistant", text)]}
        except UserError as error:
            problem = str(error)
        if run.dropped:
            return messages
        if last is None or not (last.text or last.finish in ("eos", "length")):
            yield self._unanswered(strings, messages, ask, problem or strings["nothing"])
            return messages
        note = " · ".join(
            filter(None, (options.adapter, components.stats_line(strings, last), problem and f"⚠ {problem}"))
        )
        answer = Kept(role="assistant", content=last.text, note=note[: conversation.NOTE])
        messages = [*asked, {**answer, "draw": ask.draw} if ask.draw else answer]
        shown = self.show(strings, messages, options)
        yield {**shown, "hint": lowered(strings, fitted, options) or shown["hint"]}
        return messages

    def _unanswered(self, strings: Strings, messages: list[Kept], ask: Ask, problem: str) -> Changes:
        """Nothing was answered: what was there still is, and the question goes back to where it was typed."""
        changes = {**self.show(strings, messages, ask.options), "hint": ""}
        changes["chat"].append(_bubble("assistant", components.notice(problem)))
        if ask.draw:
            return changes
        with contextlib.suppress(UserError):  # too large to be kept with the question, which `problem` says then
            changes["kept"] = conversation.keep(messages, ask.question)
        if ask.turn is not None:
            changes |= {"editing": ask.turn, "hint": strings["editing"].format(n=ask.turn + 1)}
        return {**changes, "message": gr.update(value=ask.question)}

    # --- showing ------------------------------------------------------------------------------------------------------

    def fit(self, asked: Sequence[Kept], options: Options) -> history.Trimmed:
        """The prompt for the last message; a prompt type without earlier turns forgets them all."""
        context, chosen = self.assistant.engine.context, options.chosen
        shown = list(asked)
        if not TEMPLATES[options.prompt_type].turn:
            shown = [*split_system(asked)[0], asked[-1]]
        fitted = history.trim(
            self.assistant.tokenizer,
            options.prompt_type,
            shown,
            context,
            chosen["max_new_tokens"],
            options.max_memory,
        )
        return replace(fitted, forgotten=fitted.forgotten + (len(asked) - len(shown)) // 2)

    def show(self, strings: Strings, messages: list[Kept], options: Options) -> Changes:
        """The whole conversation, how full the memory is with it, and what a next question would not bring along."""
        changes: Changes = {"kept": conversation.keep(messages), "turn": gr.update(visible=False), "editing": None}
        try:
            next_ = self.fit([*with_system(messages, options.system), Kept(role="user", content="")], options)
        except UserError as error:
            forgotten, changes["memory"] = 0, components.notice(error)
        else:
            forgotten = next_.forgotten
            changes["memory"] = self.memory_line(strings, len(next_.ids), next_.budget, forgotten)
        hint = strings["pick_hint"] if messages else ""
        return {**changes, "chat": bubbles(strings, messages, forgotten), "forgotten": forgotten, "hint": hint}

    @staticmethod
    def memory_line(strings: Strings, used: int, budget: int, forgotten: int) -> str:
        """How full the memory is: a bar, tokens, turns forgotten."""
        full = min(BAR, round(BAR * used / max(1, budget)))
        line = strings["memory"].format(used=f"{used:,}", budget=f"{budget:,}", forgotten=forgotten)
        return f"{'■' * full}{'□' * (BAR - full)} {line}"


def turns(messages: Sequence[Kept]) -> int:
    """Questions with their answers in a conversation."""
    return len(split_system(messages)[1]) // 2


def before_turn(messages: list[Kept], turn: int) -> list[Kept]:
    """The conversation up to a turn, which is not part of it."""
    system, others = split_system(messages)
    return [*system, *others[: 2 * turn]]


def with_system(messages: Sequence[Kept], system: str) -> list[Kept]:
    """The conversation under another system message, or under none."""
    _, others = split_system(messages)
    return [*([Kept(role="system", content=system)] if system else []), *others]


def system_of(messages: Sequence[Kept]) -> str:
    """The system message of a conversation, "" where it has none."""
    return "".join(message["content"] for message in split_system(messages)[0])


def lowered(strings: Strings, fitted: history.Trimmed, options: Options) -> str:
    """The notice that an answer may not be as long as was set."""
    if fitted.max_new_tokens >= options.chosen["max_new_tokens"]:
        return ""
    return strings["lowered"].format(asked=options.chosen["max_new_tokens"], left=fitted.max_new_tokens)


def bubbles(strings: Strings, messages: Sequence[Kept], forgotten: int = 0) -> list[dict]:
    """The conversation as Gradio's Chatbot takes it.

    Args:
        forgotten: turns above the line that says so.
    """
    shown = []
    for message in split_system(messages)[1]:
        text = display(message["content"])
        if message["role"] == "assistant":
            text = text or f"*{strings['no_text']}*"
            if message.get("note"):
                text += f"\n\n<small>{display(message['note'])}</small>"
        shown.append(_bubble(message["role"], text))
    if forgotten:
        shown.insert(2 * forgotten, _line(strings["forgotten"].format(forgotten=forgotten)))
    return shown


def turn_of(index: int, forgotten: int) -> int:
    """The turn that a bubble of `bubbles` belongs to; -1 is the line between the forgotten ones and the others."""
    if forgotten and index == 2 * forgotten:
        return -1
    return (index - (1 if forgotten and index > 2 * forgotten else 0)) // 2


def _bubble(role: str, text: str) -> dict:
    # As a dictionary, for Gradio would take the indentation from a plain string.
    return {"role": role, "content": {"type": "text", "text": text}}


def _line(text: str) -> dict:
    return {"role": "assistant", "content": {"type": "text", "text": ""}, "metadata": {"title": text}}
