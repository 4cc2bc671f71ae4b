"""What the events of the chat page call: a visitor's request in, new values of the page's parts out."""

import contextlib
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from vicuna.answer.assistant import Assistant
from vicuna.errors import UserError
from vicuna.pages import conversation, saved_chats
from vicuna.pages.chat_controller import Changes, ChatController
from vicuna.pages.conversation import StoredMessage, count_turns, deserialize
from vicuna.pages.decoding_controls import CONTROL_NAMES
from vicuna.pages.localization import request_strings
from vicuna.pages.markup import safe_markdown
from vicuna.pages.rendering import chatbot_messages, notice, turn_at
from vicuna.pages.strings import STRINGS, Strings
from vicuna.pages.turns import client_of
from vicuna.prompt.templates import split_system
from vicuna.prompt.traits import knows_thinking

READY = gr.update(submit_btn=True, stop_btn=False)  # where a message is typed, while no answer is running


class ChatHandlers:
    """The handlers of one page.

    Args:
        save_path: folder that Save writes to; "" for none.
        parts: what the handlers change, by the names that `Changes` have for it.
    """

    def __init__(self, assistant: Assistant, save_path: str, controller: ChatController, parts: dict[str, Any]):
        self.assistant, self.save_path, self.controller, self.parts = assistant, save_path, controller, parts

    def _update(self, **changes: Any) -> dict[Any, Any]:
        return {self.parts[name]: value for name, value in changes.items()}

    def user_name(self, request: gr.Request) -> str:
        """Who is logged in."""
        return request.username or ""

    def close_tab(self, request: gr.Request) -> None:
        """End the answer of a tab that is closed."""
        self.controller.answers.abandon(client_of(request))

    # --- asking -------------------------------------------------------------------------------------------------------

    # The page's API calls the parameters by these names: `kept` is the conversation that the browser stores.
    def send(self, request: gr.Request, message: str, kept: str, editing: int | None, *values: Any) -> Iterator[dict]:
        """Answer a message."""
        *values, visit = values
        strings, client = request_strings(request), client_of(request)
        for changes in self.controller.send(strings, client, kept, message or "", editing, values):
            yield self._update(origin=visit, **changes)

    def regenerate(self, request: gr.Request, stored: str, *values: Any) -> Iterator[dict]:
        """Answer the last question once more."""
        *values, visit = values
        for changes in self.controller.regenerate(request_strings(request), client_of(request), stored, values):
            yield self._update(origin=visit, **changes)

    def stop(self, request: gr.Request) -> None:
        """Stop the answer of this tab."""
        self.controller.answers.stop(client_of(request))

    # --- turns --------------------------------------------------------------------------------------------------------

    def undo(self, request: gr.Request, stored: str, *values: Any) -> dict:
        """Take the last turn back; its question returns to where it was typed."""
        return self._cut(request, stored, values, None)

    def delete_turns(self, request: gr.Request, stored: str, picked: int | None, *values: Any) -> dict:
        """Delete a turn and what follows it."""
        return self._cut(request, stored, values, -1 if picked is None else picked)

    def _cut(self, request: gr.Request, stored: str, values: Sequence[Any], turn: int | None) -> dict:
        """Cut the conversation off before a turn; before the last one, whose question is typed again, for None."""
        strings = request_strings(request)
        if self.controller.answers.is_busy(client_of(request)):
            return self._update(hint=strings["busy"])
        try:
            messages, _ = deserialize(stored)
            first = count_turns(messages) - 1 if turn is None else turn
            if not 0 <= first < count_turns(messages):
                return self._update(hint="")
            left = conversation.before_turn(messages, first)
            changes = self.controller.show(strings, left, self.controller.read_settings(values))
        except UserError as error:
            return self._update(hint=notice(error))
        typed = {"message": gr.update(value=conversation.question_of(messages, first))} if turn is None else {}
        return self._update(**changes, **typed)

    def pick_turn(self, request: gr.Request, stored: str, forgotten: int, event: gr.SelectData) -> list[Any]:
        """Offer what can be done with the turn of a message that was clicked."""
        turn = turn_at(event.index, forgotten) if isinstance(event.index, int) else -1
        is_busy = self.controller.answers.is_busy(client_of(request))
        if is_busy or not 0 <= turn < count_turns(_readable(stored)):
            return [None, gr.update(visible=False), ""]
        return [turn, gr.update(visible=True), request_strings(request)["picked"].format(n=turn + 1)]

    def close_turn(self) -> list[Any]:
        """Leave the turn that was picked as it is."""
        return [gr.update(visible=False), None, ""]

    def begin_edit(self, request: gr.Request, stored: str, picked: int | None) -> list[Any]:
        """Put a sent question back to where it was typed; sending it replaces it and what followed."""
        try:
            messages, _ = deserialize(stored)
        except UserError as error:
            return [gr.skip(), None, notice(error)]
        if picked is None or picked >= count_turns(messages):
            return [gr.skip(), None, ""]
        hint = request_strings(request)["editing"].format(n=picked + 1)
        return [conversation.question_of(messages, picked), picked, hint]

    def original_text(self, stored: str, event: gr.CopyData) -> str:
        """What a message was written as, of which Gradio copied what it shows."""
        messages = _readable(stored)
        for strings in STRINGS.values():  # a folded thought is headed in the visitor's language
            pairs = zip(split_system(messages)[1], chatbot_messages(strings, messages), strict=True)
            for one, copy in pairs:
                if copy["content"]["text"] == event.value:
                    return one["content"]
        return ""

    # --- conversations ------------------------------------------------------------------------------------------------

    def restore(self, request: gr.Request, owner: str, conversation_id: str, stored: str, *values: Any) -> dict:
        """Show the conversation that the browser stores for this address."""
        place = {"owner": owner, "conversation_id": conversation_id}
        try:
            messages, draft = deserialize(stored)
            changes = self._show_other(request_strings(request), messages, values)
        except UserError as error:
            return self._update(**place, hint=notice(error))
        return self._update(**place, **changes, **({"message": gr.update(value=draft)} if draft else {}))

    def discard_stale_update(self, request: gr.Request, *values: Any) -> dict:
        """Show what was here again, where an update arrived of a conversation that the visitor has left."""
        *restored, visit, origin = values
        if visit == origin:
            return self._update(hint=gr.skip())  # Gradio fails at an empty dictionary
        changes = {**self.restore(request, *restored), **self._update(origin=visit)}
        for typed in ("message", "system"):
            changes.pop(self.parts[typed], None)
        is_busy = self.controller.answers.is_busy(client_of(request))
        return changes if is_busy else {**changes, **self._update(message=READY)}

    def begin_conversation(self, request: gr.Request, owner: str, conversation_id: str, *values: Any) -> dict:
        """Leave a conversation for an empty one."""
        left = self._leave(request)
        changes = self.controller.show(request_strings(request), [], self.controller.read_settings(values))
        return self._update(owner=owner, conversation_id=conversation_id, **changes, **left)

    def _leave(self, request: gr.Request) -> Changes:
        """Turn to another conversation: what is still on its way of this one comes from elsewhere from now on."""
        self.controller.answers.abandon(client_of(request))
        visit = new_visit()
        return {"visit": visit, "origin": visit, "message": READY}

    def _show_other(self, strings: Strings, messages: list[StoredMessage], values: Sequence[Any]) -> Changes:
        """Another conversation than the one that is there, with its own system prompt in its place."""
        system = conversation.system_prompt(messages)
        adapter, prompt_type, _, *others = values
        settings = self.controller.read_settings([adapter, prompt_type, system, *others])
        return {**self.controller.show(strings, messages, settings), "system": gr.update(value=system)}

    def load_chat(self, request: gr.Request, text: str) -> dict:
        """Read the conversation of a file that the visitor picked; the browser sent its text, and keeps what is read.

        It is shown from there: an update that is on its way of what was here can come into this answer's parts.
        """
        strings = request_strings(request)
        if not text:
            return self._update(hint="")
        try:
            messages, count = saved_chats.parse_last_chat(text)
            kept = conversation.serialize(messages)
        except UserError as error:
            return self._update(hint=notice(error))
        self.controller.answers.abandon(client_of(request))
        hint = strings["loaded"].format(turns=count_turns(messages))
        hint += strings["loaded_last"].format(count=count) if count > 1 else ""
        return self._update(loaded=json.dumps({"visit": new_visit(), "text": kept, "hint": hint}))

    def show_loaded(self, request: gr.Request, *values: Any) -> dict:
        """Show what the browser keeps now, and say what it is."""
        *restored, loaded = values
        changes = {**self.restore(request, *restored), **self._update(message=READY)}
        is_shown = self.parts["chatbot"] in changes
        return {**changes, **self._update(hint=json.loads(loaded)["hint"])} if is_shown else changes

    def save_chat(self, request: gr.Request, conversation_id: str, stored: str, *values: Any) -> list[str]:
        """The conversation as a file for the browser, and, with --save_path, on the server."""
        strings, text = request_strings(request), ""
        try:
            messages, _ = deserialize(stored)
            if not count_turns(messages):
                return ["", strings["nothing_to_save"]]
            text = self._export(messages, values)
            if not self.save_path:
                return [text, strings["saved"]]
            name = saved_chats.write_chat(self.save_path, request.username or "", conversation_id, text)
        except UserError as error:
            return [text, notice(error)]
        return [text, strings["saved_as"].format(name=name)]

    def _export(self, messages: list[StoredMessage], values: Sequence[Any]) -> str:
        settings = self.controller.read_settings(values)
        decoding = dict(zip(CONTROL_NAMES, values[5:], strict=False))  # behind them stands thinking
        saved = {**decoding, "max_memory": settings.max_memory}
        return saved_chats.export_chat(self.assistant, messages, saved, settings.adapter, settings.prompt_type)

    # --- settings -----------------------------------------------------------------------------------------------------

    def trained_prompt_type(self, adapter: str) -> str:
        """The prompt type that an adapter was trained with."""
        return self.assistant.choices[adapter].prompt_type

    def describe(self, request: gr.Request, adapter: str, prompt_type: str) -> list[Any]:
        """The status line, the warning about an untrained prompt type, the places of system prompt and thinking."""
        strings, choice = request_strings(request), self.assistant.choices[adapter]
        warning = ""
        if choice.trained_as and prompt_type != choice.trained_as:
            name = safe_markdown(choice.name or self.assistant.base_name)
            warning = strings["wrong_prompt_type"].format(name=name, trained=choice.trained_as)
        takes_system = self.assistant.takes_system(prompt_type)
        hint = strings["system_hint" if takes_system else "no_system"].format(prompt_type=prompt_type)
        return [
            safe_markdown(self.assistant.status(strings["status"], adapter, prompt_type)),
            warning,
            gr.update(interactive=takes_system, placeholder=hint),
            gr.update(visible=knows_thinking(prompt_type, self.assistant.tokenizer.chat)),
        ]

    def refresh_memory(self, request: gr.Request, stored: str, forgotten: int, *values: Any) -> dict:
        """How full the memory is under other settings.

        The conversation is not shown again while the same turns are remembered: it may be another one by now.
        """
        if self.controller.answers.is_busy(client_of(request)):
            return self._update(hint=gr.skip())
        try:
            messages, _ = deserialize(stored)
            changes = self.controller.show(request_strings(request), messages, self.controller.read_settings(values))
        except UserError as error:
            return self._update(memory=notice(error))
        names = ("memory",) if changes["forgotten"] == forgotten else ("chatbot", "memory", "forgotten")
        return self._update(**{name: changes[name] for name in names})


def new_visit() -> str:
    """A name that no other visit to a conversation has."""
    return secrets.token_hex(8)


def _readable(stored: str) -> list[StoredMessage]:
    """The messages that the browser stores; none where they are damaged."""
    with contextlib.suppress(UserError):
        return deserialize(stored)[0]
    return []
