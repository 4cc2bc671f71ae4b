"""What the chat page does with a conversation, apart from how the page looks.

Every method takes the conversation as the browser sent it and gives changes of the page: a dictionary of the names of
its parts, with their new values. The server holds nothing between two events but the answers that are running.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from vicuna.answer import history
from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import derive_seed
from vicuna.answer.fair_queue import Client
from vicuna.answer.stream import Update
from vicuna.errors import UserError
from vicuna.pages import conversation, rendering
from vicuna.pages.chat_queue import ActiveAnswer, ActiveAnswers, ChatRequest, ChatSettings
from vicuna.pages.conversation import StoredMessage, before_turn, count_turns, with_system_prompt
from vicuna.pages.decoding_controls import CONTROL_NAMES, MAX_VALUE, kwargs_from_controls
from vicuna.pages.events import throttle
from vicuna.pages.rendering import chatbot_message, chatbot_messages
from vicuna.pages.strings import Strings
from vicuna.prompt.own_template import split_answer
from vicuna.prompt.templates import split_system
from vicuna.prompt.traits import knows_thinking, takes_turns

MAX_MESSAGE_CHARS = 100_000  # what a context holds is far less
THINKING_CHOICES = ("", "keep", "empty")  # as trained, on, off
MAX_ANSWER_BYTES = 2**18  # that an answer may add to what the browser keeps

Changes = dict[str, Any]


class ChatController:
    """Answers the conversations of a chat page with a loaded model.

    Args:
        seed: fixes what sampling draws.
        typewriter: whether answers are shown while they grow.
    """

    def __init__(self, assistant: Assistant, seed: int | None, typewriter: bool):
        self.assistant, self.seed, self.typewriter = assistant, seed, typewriter
        self.answers = ActiveAnswers()

    def read_settings(self, values: Sequence[Any]) -> ChatSettings:
        """The settings from the values of their controls: adapter, prompt type, system, memory, beams, decoding, and
        thinking.

        Raises:
            UserError: a value that no control has; a request need not come from the page.
        """
        adapter, prompt_type, system, max_memory, all_beams, *others = values
        decoding, thinking = others[: len(CONTROL_NAMES)], "".join(map(str, others[len(CONTROL_NAMES) :]))
        if adapter not in self.assistant.choices or prompt_type not in self.assistant.prompt_types:
            raise UserError(f"there is no adapter {adapter!r} or no prompt type {prompt_type!r} here.")
        if not isinstance(max_memory, int | float) or not 0 <= max_memory <= MAX_VALUE:
            raise UserError(f"Max Memory {max_memory!r} is not possible: expected 0 to {MAX_VALUE}.")
        if thinking not in THINKING_CHOICES:
            raise UserError(f"Thinking {thinking[:20]!r} is not possible: expected keep or empty, or nothing.")
        if not knows_thinking(prompt_type, self.assistant.tokenizer.chat):
            thinking = ""
        generation, max_beams = kwargs_from_controls(decoding), self.assistant.engine.max_beams
        if generation["num_beams"] > max_beams:
            raise UserError(f"{generation['num_beams']} beams are more than the {max_beams} possible.")
        system = (system or "").strip() if self.assistant.takes_system(prompt_type) else ""
        return ChatSettings(adapter, prompt_type, system, int(max_memory), bool(all_beams), generation, thinking)

    # --- asking -------------------------------------------------------------------------------------------------------

    def send(
        self, strings: Strings, client: Client, stored: str, question: str, editing: int | None, values: Sequence[Any]
    ) -> Iterator[Changes]:
        """Answer a question, and those that are sent meanwhile.

        Args:
            editing: turn whose question this one replaces; what follows it goes.
        """
        if not question.strip():
            yield {"hint": strings["empty"]}
            return
        try:
            if len(question) > MAX_MESSAGE_CHARS:
                raise UserError(strings["too_long"].format(most=MAX_MESSAGE_CHARS))
            request = ChatRequest(question, self.read_settings(values), editing)
            messages, _ = conversation.deserialize(stored)
        except UserError as error:
            yield {"hint": rendering.notice(error)}
            return
        # Between two looks an answer may end, or another one begin.
        while (active := self.answers.begin(client)) is None:
            is_queued = self.answers.enqueue(client, replace(request, turn=None))
            if is_queued is not None:
                hint = {"hint": strings["waits" if is_queued else "too_many"]}
                yield {**hint, "message": gr.update(value="")} if is_queued else hint
                return
        yield from self._answer_all(strings, active, messages, request)

    def regenerate(self, strings: Strings, client: Client, stored: str, values: Sequence[Any]) -> Iterator[Changes]:
        """Answer the last question once more: with another draw, where one is drawn."""
        try:
            messages, _ = conversation.deserialize(stored)
            settings = self.read_settings(values)
        except UserError as error:
            yield {"hint": rendering.notice(error)}
            return
        turns = count_turns(messages)
        if turns and (active := self.answers.begin(client)):
            question, answer = messages[-2:]
            draw = (answer.get("draw", 0) + 1) % conversation.MAX_DRAWS
            request = ChatRequest(question["content"], settings, turns - 1, draw)
            yield from self._answer_all(strings, active, messages, request)

    def _answer_all(
        self, strings: Strings, active: ActiveAnswer, messages: list[StoredMessage], request: ChatRequest | None
    ) -> Iterator[Changes]:
        """Answer a request and those that are queued behind it."""
        first = True
        try:
            while request and not active.abandoned:
                messages = yield from self._answer(strings, active, messages, request, first)
                first, request = False, self.answers.next(active)
            if not active.abandoned:
                unsent = "\n".join(queued.question for queued in active.queued)
                yield {"message": gr.update(submit_btn=True, stop_btn=False, **({"value": unsent} if unsent else {}))}
        finally:
            active.stop.set()
            self.answers.next(active)

    def _answer(
        self, strings: Strings, active: ActiveAnswer, messages: list[StoredMessage], request: ChatRequest, first: bool
    ) -> Iterator[Changes]:
        """One answer as changes of the page; returns the messages with it, or as they were where there is none."""
        question, settings = request.question, request.settings
        before = messages if request.turn is None else before_turn(messages, request.turn)
        asked = [*with_system_prompt(before, settings.system), StoredMessage(role="user", content=question)]
        draft = "" if request.draw else question  # what is typed stays while an older question is answered again
        last: Update | None = None
        problem = ""
        try:
            trimmed = self.trim(asked, settings)
            above = chatbot_messages(strings, asked, trimmed.forgotten)
            shortened = rendering.shortened_notice(strings, trimmed, settings.generation["max_new_tokens"])
            yield {
                "chatbot": [*above, chatbot_message("assistant", rendering.CURSOR)],
                "forgotten": trimmed.forgotten,
                "memory": rendering.memory_line(strings, trimmed),
                "stored": conversation.serialize(messages, draft, MAX_ANSWER_BYTES),
                "message": gr.update(submit_btn=False, stop_btn=True, **({"value": ""} if first and draft else {})),
                "hint": shortened,
                "turn": gr.update(visible=False),
                "editing": None,
            }
            generation = {**settings.generation, "max_new_tokens": trimmed.max_new_tokens}
            updates = self.assistant.stream(
                trimmed.ids,
                generation,
                derive_seed(self.seed, request.draw),
                active.stop,
                settings.adapter,
                active.client,
                prompt_type=settings.prompt_type,
            )
            for update in throttle(updates, self.typewriter):
                if active.abandoned:
                    return messages
                last = update
                if not update.finish:
                    text = rendering.answer_markdown(
                        strings, update, all_beams=settings.all_beams, prompt_end=trimmed.prompt_end
                    )
                    yield {"chatbot": [*above, chatbot_message("assistant", text)]}
        except UserError as error:
            problem = str(error)
        if active.abandoned:
            return messages
        if last is None or not (last.text or last.finish in ("eos", "length")):
            yield self._unanswered(strings, messages, request, problem or strings["nothing"])
            return messages
        note = " · ".join(
            filter(None, (settings.adapter, rendering.stats_line(strings, last), problem and f"⚠ {problem}"))
        )
        said = split_answer(trimmed.prompt_end, last.text)
        answer = StoredMessage(role="assistant", content=said.content, note=note[: conversation.MAX_NOTE_CHARS])
        if said.thought:
            answer["reasoning_content"] = said.thought
        if request.draw:
            answer["draw"] = request.draw
        messages = [*asked, answer]
        shown = self.show(strings, messages, settings)
        yield {**shown, "hint": shortened or shown["hint"]}
        return messages

    def _unanswered(
        self, strings: Strings, messages: list[StoredMessage], request: ChatRequest, problem: str
    ) -> Changes:
        """Nothing was answered: what was there still is, and the question goes back to where it was typed."""
        changes = {**self.show(strings, messages, request.settings), "hint": ""}
        changes["chatbot"].append(chatbot_message("assistant", rendering.notice(problem)))
        if request.draw:
            return changes
        with contextlib.suppress(UserError):  # too large to be kept with the question, which `problem` says then
            changes["stored"] = conversation.serialize(messages, request.question)
        if request.turn is not None:
            changes |= {"editing": request.turn, "hint": strings["editing"].format(n=request.turn + 1)}
        return {**changes, "message": gr.update(value=request.question)}

    # --- showing ------------------------------------------------------------------------------------------------------

    def trim(self, asked: Sequence[StoredMessage], settings: ChatSettings) -> history.Trimmed:
        """The prompt for the last message; a prompt type without earlier turns forgets them all."""
        switched = {"thinking": settings.thinking} if settings.thinking else {}
        tokenizer = self.assistant.tokenizer_of(settings.adapter, **switched)
        context = self.assistant.engine.context
        has_turns, max_new_tokens = takes_turns(settings.prompt_type), settings.generation["max_new_tokens"]
        shown = list(asked) if has_turns else [*split_system(asked)[0], asked[-1]]
        trimmed = history.trim(tokenizer, settings.prompt_type, shown, context, max_new_tokens, settings.max_memory)
        return replace(trimmed, forgotten=trimmed.forgotten + (len(asked) - len(shown)) // 2)

    def show(self, strings: Strings, messages: list[StoredMessage], settings: ChatSettings) -> Changes:
        """The whole conversation, how full the memory is with it, and what a next question would not bring along."""
        following = [*with_system_prompt(messages, settings.system), StoredMessage(role="user", content="")]
        try:
            trimmed = self.trim(following, settings)
            forgotten, memory = trimmed.forgotten, rendering.memory_line(strings, trimmed)
        except UserError as error:
            forgotten, memory = 0, rendering.notice(error)
        return {
            "stored": conversation.serialize(messages),
            "turn": gr.update(visible=False),
            "editing": None,
            "memory": memory,
            "chatbot": chatbot_messages(strings, messages, forgotten),
            "forgotten": forgotten,
            "hint": strings["pick_hint"] if messages else "",
        }
