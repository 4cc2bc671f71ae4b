"""What the events of the chat page call: a visitor's request in, new values of the page's parts out."""

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import PRESETS
from vicuna.errors import UserError
from vicuna.pages import branches, conversation, saved_chats
from vicuna.pages.chat_controller import NOT_EDITING, Changes, ChatController, Editing, wanted_act
from vicuna.pages.chat_layout import SETTING_NAMES
from vicuna.pages.conversation import Kept, StoredMessage, count_turns, deserialize
from vicuna.pages.localization import request_strings
from vicuna.pages.markup import safe_markdown
from vicuna.pages.notes import dropped_system
from vicuna.pages.rendering import chatbot_messages, notice
from vicuna.pages.strings import STRINGS
from vicuna.pages.turns import client_of
from vicuna.prompt.templates import split_system
from vicuna.prompt.traits import asks_single_questions, knows_thinking
from vicuna.sentences import told

SYSTEM = 2  # where the system prompt stands among the settings
READY = gr.update(submit_btn=True, stop_btn=False)  # where a message is typed, while no answer is running


class ChatHandlers:
    """The handlers of one page.

    Args:
        save_path: folder that Save writes to; "" for none.
        parts: what the handlers change, by the names that `Changes` have for it.
        initial: the controls that SETTING_NAMES name, with what they show at the start.
    """

    def __init__(
        self,
        assistant: Assistant,
        save_path: str,
        controller: ChatController,
        parts: dict[str, Any],
        initial: dict[Any, Any],
    ):
        self.assistant, self.save_path, self.controller, self.parts = assistant, save_path, controller, parts
        self.controls, self.initial = list(initial), list(initial.values())

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
        """Put the last turn aside; its question returns to where it was typed."""
        try:
            kept = deserialize(stored)
        except UserError as error:
            return self._update(hint=_told(request, error))
        if (last := count_turns(kept.messages) - 1) < 0:
            return self._update(hint="")
        question = conversation.question_of(kept.messages, last)
        return self._changed(request, kept, values, lambda: branches.cut(kept, last), returned=question)

    def act(self, request: gr.Request, wanted: str, stored: str, typed: str, *values: Any) -> dict:
        """What a button at a message asks for: edit it, delete from there, go another way from there."""
        try:
            kept, (what, turn, by) = deserialize(stored), wanted_act(wanted)
        except UserError as error:
            return self._update(hint=_told(request, error))
        if not 0 <= turn < count_turns(kept.messages):
            return self._update(hint="")
        if what == "step":
            return self._changed(request, kept, values, lambda: branches.step(kept, turn, by))
        if what == "delete":
            return self._changed(request, kept, values, lambda: branches.cut(kept, turn))
        return self._begin_edit(request, kept, Editing(turn, what == "edit_answer", typed or ""))

    def bring_back(self, request: gr.Request, stored: str, *values: Any) -> dict:
        """Go on again as it was before the last turns were put aside."""
        try:
            kept = deserialize(stored)
        except UserError as error:
            return self._update(hint=_told(request, error))
        return self._changed(request, kept, values, lambda: branches.step(kept, count_turns(kept.messages), 0))

    def _changed(
        self, request: gr.Request, kept: Kept, values: Sequence[Any], change: Callable[[], Kept], **more: Any
    ) -> dict:
        """The conversation as `change` makes it, unless an answer is running."""
        strings = request_strings(request)
        if self.controller.answers.is_busy(client_of(request)):
            return self._update(hint=strings["busy"])
        try:
            changes = self.controller.show(strings, change(), self.controller.read_settings(values))
        except UserError as error:
            return self._update(hint=_told(request, error))
        return self._update(**changes, **more)

    def _begin_edit(self, request: gr.Request, kept: Kept, editing: Editing) -> dict:
        """Put a message back to where it was typed; sending it replaces it and what followed."""
        message = split_system(kept.messages)[1][2 * editing.turn + editing.of_answer]
        words = request_strings(request)["editing_answer" if editing.of_answer else "editing"]
        return self._update(
            message=gr.update(value=message["content"]),
            editing=editing,
            hint=words.format(n=editing.turn + 1),
            close=gr.update(visible=True),
        )

    def close_edit(self, editing: Editing | None) -> dict:
        """Leave what was edited as it is."""
        typed = gr.update(value=editing.typed) if editing else gr.skip()
        return self._update(message=typed, hint="", **NOT_EDITING)

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

    def restore(
        self, request: gr.Request, owner: str, conversation_id: str, stored: str, typed: str, *values: Any
    ) -> dict:
        """Show the conversation that the browser keeps for this address, under the settings that it had.

        Args:
            values: preset, and what `ChatController.read_settings` takes.
        """
        preset, *values = values
        place = {"owner": owner, "conversation_id": conversation_id}
        preset, values = self._usable(preset, values)
        try:
            kept = deserialize(stored)
            settings = self.controller.read_settings(values)
            changes = self.controller.show(request_strings(request), kept._replace(draft=""), settings)
        except UserError as error:
            return self._update(**place, hint=_told(request, error))
        # A question that was being answered as the page was left comes before what was typed meanwhile.
        text = "\n".join(filter(None, [kept.draft, typed]))
        shown = self._update(**place, **changes, message=gr.update(value=text))
        return {**shown, **dict(zip(self.controls, [preset, *values], strict=True))}

    def _usable(self, preset: Any, values: Sequence[Any]) -> tuple[str | None, list[Any]]:
        """Settings that a browser kept, or those at the start where they are none here any more."""
        try:
            self.controller.read_settings(values)
        except UserError:
            preset, *initial = self.initial
            initial[SYSTEM] = values[SYSTEM] if isinstance(values[SYSTEM], str) else ""
            return preset, initial
        return preset if isinstance(preset, str) and preset in PRESETS else None, list(values)

    def discard_stale_update(self, request: gr.Request, *values: Any) -> dict:
        """Show what was here again, where an update arrived of a conversation that the visitor has left."""
        *restored, visit, origin = values
        if visit == origin:
            return self._update(hint=gr.skip())  # Gradio fails at an empty dictionary
        changes = {**self.restore(request, *restored), **self._update(origin=visit)}
        for typed in (self.parts["message"], *self.controls):
            changes.pop(typed, None)
        is_busy = self.controller.answers.is_busy(client_of(request))
        return changes if is_busy else {**changes, **self._update(message=READY)}

    def open_conversation(self, request: gr.Request, *restored: Any) -> dict:
        """Leave a conversation for another that the browser keeps, or for an empty one."""
        left = self._leave(request)
        changes = self.restore(request, *restored)
        message = self.parts["message"]
        ready = {message: {**READY, **changes[message]}} if message in changes else self._update(message=READY)
        return {**changes, **self._update(**left), **ready}

    def _leave(self, request: gr.Request) -> Changes:
        """Turn to another conversation: what is still on its way of this one comes from elsewhere from now on."""
        self.controller.answers.abandon(client_of(request))
        visit = new_visit()
        return {"visit": visit, "origin": visit}

    def load_chat(self, request: gr.Request, text: str) -> dict:
        """Read the conversation of a file that the visitor picked; the browser sent its text, and keeps what is read.

        It is shown from there: an update that is on its way of what was here can come into this answer's parts.
        """
        strings = request_strings(request)
        if not text:
            return self._update(hint="")
        try:
            loaded = saved_chats.parse_last_chat(text)
            kept = conversation.serialize(loaded.messages, aside=loaded.aside)
        except UserError as error:
            return self._update(hint=_told(request, error))
        self.controller.answers.abandon(client_of(request))
        hint = strings["loaded"].format(turns=count_turns(loaded.messages))
        hint += strings["loaded_last"].format(count=loaded.count) if loaded.count > 1 else ""
        settings = {name: value for name, value in loaded.settings.items() if name in SETTING_NAMES}
        adapter = settings.get("adapter")
        if adapter and adapter not in self.assistant.choices:
            hint += strings["loaded_without"].format(name=safe_markdown(adapter))
            del settings["adapter"]
        settings["system"] = conversation.system_prompt(loaded.messages)
        kept = {"visit": new_visit(), "text": kept, "hint": hint, "settings": settings}
        return self._update(loaded=json.dumps(kept))

    def show_loaded(self, request: gr.Request, *values: Any) -> dict:
        """Show what the browser keeps now, and say what it is."""
        *restored, loaded = values
        changes = self.restore(request, *restored)
        if self.parts["chatbot"] not in changes:
            return {**changes, **self._update(message=READY)}
        message = {**READY, **changes[self.parts["message"]]}
        return {**changes, **self._update(message=message, hint=json.loads(loaded)["hint"])}

    def save_chat(
        self, request: gr.Request, conversation_id: str, form: str, stored: str, title: str, *values: Any
    ) -> list[str]:
        """A conversation as a file for the browser, and, with --save_path, on the server.

        Args:
            form: one of `saved_chats.FORMS`.
            title: what the browser's list calls it.
        """
        strings, text = request_strings(request), ""
        try:
            preset, values = self._usable(values[0], values[1:])
            kept = deserialize(stored)
            if not count_turns(kept.messages) and not kept.aside:
                return ["", strings["nothing_to_save"]]
            if form != "jsonl":
                return [saved_chats.as_text(strings, kept, title or "Chinese-Vicuna", form == "md"), strings["saved"]]
            text = self._export(kept, preset, values)
            if not self.save_path:
                return [text, strings["saved"]]
            name = saved_chats.write_chat(self.save_path, request.username or "", conversation_id, text)
        except UserError as error:
            return [text, _told(request, error)]
        return [text, strings["saved_as"].format(name=name)]

    def _export(self, kept: Kept, preset: str, values: Sequence[Any]) -> str:
        chosen = self.controller.read_settings(values)
        settings = {"preset": preset, **dict(zip(SETTING_NAMES[1:], values, strict=True))}
        messages = conversation.with_system_prompt(kept.messages, chosen.system)
        return saved_chats.export_chat(
            self.assistant, messages, settings, chosen.adapter, chosen.prompt_type, kept.aside
        )

    # --- settings -----------------------------------------------------------------------------------------------------

    def trained_prompt_type(self, adapter: str) -> str:
        """The prompt type that an adapter was trained with."""
        return self.assistant.choices[adapter].prompt_type

    def describe(self, request: gr.Request, adapter: str, prompt_type: str, system: str) -> list[Any]:
        """The status line, the warning about an untrained prompt type, the places of system prompt and thinking."""
        strings, choice = request_strings(request), self.assistant.choices[adapter]
        warning = ""
        if choice.trained_as and prompt_type != choice.trained_as:
            name = safe_markdown(choice.name or self.assistant.base_name)
            warning = strings["wrong_prompt_type"].format(name=name, trained=choice.trained_as)
        elif choice.name and asks_single_questions(choice.trained_as):
            warning = strings["single_questions"].format(name=safe_markdown(choice.name))
        asked = [{"role": "system", "content": system}] if system else []
        dropped = dropped_system(strings, self.assistant, asked, prompt_type)
        warning = "  \n".join(filter(None, [warning, dropped and f"⚠ {dropped}"]))
        takes_system = self.assistant.takes_system(prompt_type)
        hint = strings["system_hint" if takes_system else "no_system"].format(prompt_type=prompt_type)
        return [
            safe_markdown(self.assistant.status(strings["status"], adapter, prompt_type, strings["language"])),
            warning,
            gr.update(interactive=takes_system, placeholder=hint),
            gr.update(visible=knows_thinking(prompt_type, self.assistant.tokenizer.chat)),
        ]

    def pick_example(self, event: gr.SelectData) -> str:
        """The question of an empty page that was clicked, as the message to send."""
        return event.value["text"]

    def warnings(self, request: gr.Request) -> str:
        """What the visitor should know before the first answer."""
        language = request_strings(request)["language"]
        return "\n\n".join(notice(told(text, language)) for text in self.assistant.warnings)

    def refresh_memory(self, request: gr.Request, stored: str, forgotten: int, *values: Any) -> dict:
        """How full the memory is under other settings.

        The conversation is not shown again while the same turns are remembered: it may be another one by now.
        """
        if self.controller.answers.is_busy(client_of(request)):
            return self._update(hint=gr.skip())
        try:
            settings = self.controller.read_settings(values)
            changes = self.controller.show(request_strings(request), deserialize(stored), settings)
        except UserError as error:
            return self._update(memory=_told(request, error))
        names = ("memory",) if changes["forgotten"] == forgotten else ("chatbot", "memory", "forgotten")
        return self._update(**{name: changes[name] for name in names})


def _told(request: gr.Request, error: UserError) -> str:
    """What went wrong, to who asks."""
    return notice(told(error, request_strings(request)["language"]))


def new_visit() -> str:
    """A name that no other visit to a conversation has."""
    return secrets.token_hex(8)


def _readable(stored: str) -> list[StoredMessage]:
    """The messages that the browser stores; none where they are damaged."""
    with contextlib.suppress(UserError):
        return deserialize(stored).messages
    return []
