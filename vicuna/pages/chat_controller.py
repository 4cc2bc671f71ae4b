"""What the chat page does with a conversation, apart from how the page looks.

Every method takes the conversation as the browser sent it and gives changes of the page: a dictionary of the names of
its parts, with their new values. The server holds nothing between two events but the answers that are running.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from vicuna.answer import history
from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import derive_seed
from vicuna.answer.fair_queue import Client
from vicuna.answer.stream import Update
from vicuna.errors import UserError
from vicuna.pages import branches, conversation, notes, rendering
from vicuna.pages.chat_queue import ActiveAnswer, ActiveAnswers, ChatRequest, ChatSettings
from vicuna.pages.conversation import Kept, StoredMessage, before_turn, count_turns, with_system_prompt
from vicuna.pages.decoding_controls import CONTROL_NAMES, MAX_VALUE, kwargs_from_controls
from vicuna.pages.events import throttle
from vicuna.pages.rendering import chatbot_message, chatbot_messages
from vicuna.pages.strings import Strings
from vicuna.prompt.own_template import split_answer
from vicuna.prompt.templates import split_system
from vicuna.prompt.traits import knows_thinking, takes_turns
from vicuna.sentences import Sentence, told

MAX_MESSAGE_CHARS = 100_000  # what a context holds is far less
THINKING_CHOICES = ("", "keep", "empty")  # as trained, on, off
MAX_ANSWER_BYTES = 2**18  # that an answer may add to what the browser keeps

Changes = dict[str, Any]


@dataclass(frozen=True)
class Editing:
    """What the text that is typed will replace.

    Attributes:
        of_answer: the answer of the turn, not its question.
        typed: what was typed before, and is again afterwards.
    """

    turn: int
    of_answer: bool = False
    typed: str = ""


ACTS = ("edit", "edit_answer", "delete", "step")
NOT_EDITING: Changes = {"editing": None, "close": gr.update(visible=False)}


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
        names = all(isinstance(one, str) for one in (adapter, prompt_type, system or ""))
        if not names or adapter not in self.assistant.choices or prompt_type not in self.assistant.prompt_types:
            raise UserError(Sentence("no_such_choice", adapter=adapter, prompt_type=prompt_type))
        if not isinstance(max_memory, int | float) or not 0 <= max_memory <= MAX_VALUE:
            raise UserError(Sentence("bad_memory", value=max_memory, most=MAX_VALUE))
        if thinking not in THINKING_CHOICES:
            raise UserError(Sentence("bad_thinking", value=thinking[:20]))
        if not knows_thinking(prompt_type, self.assistant.tokenizer.chat):
            thinking = ""
        generation, max_beams = kwargs_from_controls(decoding), self.assistant.engine.max_beams
        if generation["num_beams"] > max_beams:
            raise UserError(Sentence("too_many_beams", beams=generation["num_beams"], most=max_beams))
        return ChatSettings(
            adapter, prompt_type, (system or "").strip(), int(max_memory), bool(all_beams), generation, thinking
        )

    # --- asking -------------------------------------------------------------------------------------------------------

    def send(
        self,
        strings: Strings,
        client: Client,
        stored: str,
        question: str,
        editing: Editing | None,
        values: Sequence[Any],
    ) -> Iterator[Changes]:
        """Answer a question, and those that are sent meanwhile.

        Args:
            editing: what this text replaces; what follows it is put aside.
        """
        if not question.strip():
            yield {"hint": strings["empty"]}
            return
        try:
            if len(question) > MAX_MESSAGE_CHARS:
                raise UserError(strings["too_long"].format(most=MAX_MESSAGE_CHARS))
            request = ChatRequest(question, self.read_settings(values), editing.turn if editing else None)
            kept = conversation.deserialize(stored)
            if editing and editing.of_answer:
                yield self._with_answer(strings, client, kept, request, editing.typed)
                return
        except UserError as error:
            yield {"hint": rendering.notice(told(error, strings["language"]))}
            return
        # Between two looks an answer may end, or another one begin.
        while (active := self.answers.begin(client)) is None:
            is_queued = self.answers.enqueue(client, replace(request, turn=None))
            if is_queued is not None:
                hint = {"hint": strings["waits" if is_queued else "too_many"]}
                yield {**hint, "message": gr.update(value="")} if is_queued else hint
                return
        yield from self._answer_all(strings, active, kept, request, editing.typed if editing else "")

    def regenerate(self, strings: Strings, client: Client, stored: str, values: Sequence[Any]) -> Iterator[Changes]:
        """Answer the last question once more: with another draw, where one is drawn."""
        try:
            kept = conversation.deserialize(stored)
            settings = self.read_settings(values)
        except UserError as error:
            yield {"hint": rendering.notice(told(error, strings["language"]))}
            return
        turns = count_turns(kept.messages)
        if turns and (active := self.answers.begin(client)):
            draws = [way[1].get("draw", 0) for way in branches.ways_at(kept, turns - 1)[0]]
            request = ChatRequest(
                kept.messages[-2]["content"], settings, turns - 1, (max(draws) + 1) % conversation.MAX_DRAWS
            )
            yield from self._answer_all(strings, active, kept, request, None)

    def _with_answer(self, strings: Strings, client: Client, kept: Kept, request: ChatRequest, typed: str) -> Changes:
        """The conversation with another text in an answer's place, which the visitor wrote."""
        turn = request.turn or 0
        if self.answers.is_busy(client):
            return {"hint": strings["busy"]}
        if turn >= count_turns(kept.messages):
            return {"hint": ""}
        asked, old = split_system(kept.messages)[1][2 * turn : 2 * turn + 2]
        answer = StoredMessage(role="assistant", content=request.question, note=strings["edited"])
        if "adapter" in old:
            answer["adapter"] = old["adapter"]
        asked = StoredMessage(role="user", content=asked["content"])
        shown = self.show(strings, branches.add(kept, turn, asked, answer), request.settings)
        return {**shown, "message": gr.update(value=typed)}

    def _answer_all(
        self, strings: Strings, active: ActiveAnswer, kept: Kept, request: ChatRequest | None, typed: str | None
    ) -> Iterator[Changes]:
        """Answer a request and those that are queued behind it.

        Args:
            typed: what stands where a message is typed once the request is taken; None for what does.
        """
        try:
            while request and not active.abandoned:
                kept = yield from self._answer(strings, active, kept, request, typed)
                typed, request = None, self.answers.next(active)
            if not active.abandoned:
                changes: Changes = {"message": gr.update(submit_btn=True, stop_btn=False)}
                if unsent := _waiting(active):
                    changes |= {"stored": _kept_with(kept, ""), "returned": "\n".join(unsent)}
                yield changes
        finally:
            active.stop.set()
            self.answers.next(active)

    def _answer(
        self, strings: Strings, active: ActiveAnswer, kept: Kept, request: ChatRequest, typed: str | None
    ) -> Iterator[Changes]:
        """One answer as changes of the page; returns the conversation with it, or as it was where there is none."""
        question, settings = request.question, request.settings
        turn = count_turns(kept.messages) if request.turn is None else request.turn
        before = with_system_prompt(before_turn(kept.messages, turn), settings.system)
        asked = [*before, StoredMessage(role="user", content=question)]
        draft = "" if request.draw else question  # what is typed stays while an older question is answered again
        last: Update | None = None
        problem, taken = "", typed is None  # out of where it was typed
        try:
            trimmed = self.trim(asked, settings)
            above = chatbot_messages(strings, asked, trimmed.forgotten)
            shortened = rendering.shortened_notice(strings, trimmed, settings.generation["max_new_tokens"])
            waiting = _waiting(active)
            yield {
                "chatbot": [*above, chatbot_message("assistant", rendering.CURSOR)],
                "forgotten": trimmed.forgotten,
                "memory": notes.memory_line(strings, trimmed, self.assistant.engine.context, settings),
                "stored": _kept_with(kept, draft, waiting, MAX_ANSWER_BYTES),
                "message": gr.update(submit_btn=False, stop_btn=True, **({} if typed is None else {"value": typed})),
                "hint": shortened,
                **NOT_EDITING,
            }
            taken = True
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
                    return kept
                last = update
                if not update.finish:
                    text = rendering.answer_markdown(
                        strings, update, all_beams=settings.all_beams, prompt_end=trimmed.prompt_end
                    )
                    changes = {"chatbot": [*above, chatbot_message("assistant", text)]}
                    if waiting != (waiting := _waiting(active)):
                        changes["stored"] = _kept_with(kept, draft, waiting)
                    yield changes
        except UserError as error:
            problem = told(error, strings["language"])
        if active.abandoned:
            return kept
        if last is None or not (last.text or last.finish in ("eos", "length")):
            changes = self._unanswered(strings, active, kept, request, problem or strings["nothing"])
            yield {**changes, "returned": question} if taken and not request.draw else changes
            return kept
        said = split_answer(trimmed.prompt_end, last.text)
        others = [
            notes.dropped_system(strings, self.assistant, asked, settings.prompt_type),
            problem and f"⚠ {problem}",
        ]
        context = self.assistant.engine.context
        answer = StoredMessage(
            role="assistant",
            content=said.content,
            note=notes.answer_note(strings, settings.adapter, len(trimmed.ids), context, last, *others),
            adapter=settings.adapter,
        )
        if said.thought:
            answer["reasoning_content"] = said.thought
        if request.draw:
            answer["draw"] = request.draw
        kept = branches.add(kept, turn, asked[-1], answer)
        kept = Kept(with_system_prompt(kept.messages, settings.system), "\n".join(_waiting(active)), kept.aside)
        shown = self.show(strings, kept, settings)
        yield {**shown, "hint": shortened}
        return kept

    def _unanswered(
        self, strings: Strings, active: ActiveAnswer, kept: Kept, request: ChatRequest, problem: str
    ) -> Changes:
        """Nothing was answered: what was there still is, and an edited question is still edited."""
        kept = kept._replace(draft="\n".join(_waiting(active)))
        changes = {**self.show(strings, kept, request.settings), "hint": rendering.notice(problem)}
        if request.turn is not None and not request.draw:
            hint = f"{changes['hint']}  \n{strings['editing'].format(n=request.turn + 1)}"
            changes |= {"hint": hint, "editing": Editing(request.turn), "close": gr.update(visible=True)}
        return changes

    # --- showing ------------------------------------------------------------------------------------------------------

    def trim(self, asked: Sequence[StoredMessage], settings: ChatSettings) -> history.Trimmed:
        """The prompt for the last message.

        A prompt type without earlier turns forgets them all, one without a place for a system prompt leaves it out.
        """
        switched = {"thinking": settings.thinking} if settings.thinking else {}
        tokenizer = self.assistant.tokenizer_of(settings.adapter, **switched)
        context = self.assistant.engine.context
        has_turns, max_new_tokens = takes_turns(settings.prompt_type), settings.generation["max_new_tokens"]
        system, others = split_system(asked)
        system = system if self.assistant.takes_system(settings.prompt_type) else []
        shown = [*system, *(others if has_turns else others[-1:])]
        trimmed = history.trim(tokenizer, settings.prompt_type, shown, context, max_new_tokens, settings.max_memory)
        left_out = 0 if has_turns else (len(others) - 1) // 2
        return replace(trimmed, forgotten=trimmed.forgotten + left_out)

    def show(self, strings: Strings, kept: Kept, settings: ChatSettings) -> Changes:
        """The whole conversation, how full the memory is with it, and what a next question would not bring along."""
        following = [*with_system_prompt(kept.messages, settings.system), StoredMessage(role="user", content="")]
        try:
            trimmed = self.trim(following, settings)
            forgotten = trimmed.forgotten
            memory = notes.memory_line(strings, trimmed, self.assistant.engine.context, settings)
        except UserError as error:
            forgotten, memory = 0, rendering.notice(told(error, strings["language"]))
        return {
            "stored": conversation.serialize(kept.messages, kept.draft, aside=kept.aside),
            "memory": memory,
            "chatbot": chatbot_messages(strings, kept.messages, forgotten),
            "forgotten": forgotten,
            "hint": "",
            "back": gr.update(visible=branches.put_aside(kept) > 0),
            **NOT_EDITING,
        }


def wanted_act(text: str) -> tuple[str, int, int]:
    """What a button at a message asks for: what to do, with which turn, and how far to step.

    Raises:
        UserError: it is nothing that a button asks for; a request need not come from the page.
    """
    try:
        found = json.loads(text)
        what, turn, by = found["what"], found["turn"], found.get("by", 0)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise UserError(Sentence("no_button")) from error
    if what not in ACTS or type(turn) is not int or by not in (-1, 0, 1):
        raise UserError(Sentence("no_button"))
    return what, turn, by


def _waiting(active: ActiveAnswer) -> list[str]:
    """The questions that wait behind an answer."""
    return [queued.question for queued in list(active.queued)]


def _kept_with(kept: Kept, draft: str, waiting: Sequence[str] = (), spare: int = 0) -> str:
    """What the browser keeps while questions have no answer yet."""
    return conversation.serialize(kept.messages, "\n".join(filter(None, [draft, *waiting])), spare, kept.aside)
