"""The multi-turn page of chat.py: what is on it, and which part of `Talk` each event calls."""

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from vicuna import __version__
from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.answer.stream import generation_kwargs
from vicuna.errors import UserError
from vicuna.pages import chat_browser, components, conversation, server
from vicuna.pages.chat_turns import Changes, Talk, before_turn, bubbles, system_of, turn_of, turns
from vicuna.pages.markup import LATEX_DELIMITERS, display
from vicuna.pages.strings import STRINGS
from vicuna.prompt.templates import PROMPT_TYPES, TEMPLATES, split_system

IDLE = gr.update(submit_btn=True, stop_btn=False)  # where a message is typed, while no answer is running
MAX_MEMORY = 2048  # the original's end of the slider


class ChatPage:
    """The page of a loaded model; `blocks` is what to serve."""

    def __init__(
        self, assistant: Assistant, flags: ChatFlags, serve: ServeFlags, decoding: DecodingFlags, i18n: gr.I18n
    ):
        self.assistant, self.flags, self.i18n = assistant, flags, i18n
        self.with_login = bool(serve.auth)
        self.start = components.start_values(
            components.CHAT, decoding.preset, generation_kwargs(decoding, assistant.engine.generation_config)
        )
        self.preset = decoding.preset
        self.talk = Talk(assistant, decoding.seed, serve.use_typewriter)
        with gr.Blocks(title="Chinese-Vicuna", **server.BLOCKS) as self.blocks:
            self._lay_out()
            self._connect()

    # --- what is on it ------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        i18n = self.i18n
        gr.Markdown("## Chinese-Vicuna 中文小羊驼", elem_id="title")
        self.status = gr.Markdown(display(self.assistant.status(STRINGS["en"]["status"])), elem_id="status")
        if self.assistant.warnings:
            gr.Markdown("\n\n".join(components.notice(text) for text in self.assistant.warnings), elem_id="warnings")
        with gr.Row(elem_id="actions"):
            self.new = gr.Button(i18n("new"), size="sm", elem_id="new")
            self.save = gr.Button(i18n("save"), size="sm", elem_id="save")
            self.load = gr.Button(i18n("load"), size="sm", elem_id="load")
            self.reset = gr.Button(i18n("reset"), size="sm", elem_id="reset")
            if self.with_login:
                gr.Button(i18n("logout"), size="sm", link="/logout", link_target="_self", elem_id="logout")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=3, elem_id="talk"):
                self._lay_out_talk()
            with gr.Column(scale=1, min_width=300, elem_id="controls"):
                self._lay_out_controls()
        self.owner, self.id, self.kept, self.plain, self.file = (
            gr.Textbox(visible="hidden", elem_id=name) for name in ("owner", "conversation", "kept", "plain", "file")
        )
        # Which conversation is here, and which one the last update of an answer came from: one that was on its way as
        # the visitor left its conversation arrives afterwards.
        self.here, self.came = (gr.Textbox(visible="hidden", elem_id=name) for name in ("here", "came"))
        self.forgotten, self.editing, self.picked = gr.State(0), gr.State(None), gr.State(None)

    def _lay_out_talk(self) -> None:
        i18n = self.i18n
        self.chat = gr.Chatbot(
            show_label=False,
            elem_id="chat",
            buttons=["copy"],
            latex_delimiters=LATEX_DELIMITERS,
            group_consecutive_messages=False,
            allow_tags=False,
            feedback_options=None,
            layout="bubble",
            placeholder=i18n("placeholder"),
        )
        with gr.Row(elem_id="below"):
            self.memory = gr.Markdown(elem_id="memory")
            with gr.Row(visible=False, elem_id="turn") as self.turn:
                self.turn_label = gr.Markdown(elem_id="picked")
                self.edit = gr.Button(i18n("edit"), size="sm", elem_id="edit")
                self.delete = gr.Button(i18n("delete"), size="sm", elem_id="delete")
                self.close = gr.Button("✕", size="sm", elem_id="close")
        self.message = gr.Textbox(
            show_label=False,
            placeholder=i18n("message_hint"),
            lines=1,
            max_lines=8,
            submit_btn=True,
            autofocus=True,
            elem_id="message",
        )
        self.hint = gr.Markdown(elem_id="hint")

    def _lay_out_controls(self) -> None:
        i18n, choices = self.i18n, self.assistant.choices
        named = [(name or i18n("base_only"), name) for name in choices]
        first = self.assistant.first
        self.adapter = gr.Dropdown(
            named, value=first.name, label=i18n("adapter"), visible=len(choices) > 1, elem_id="adapter"
        )
        self.prompt_type = gr.Dropdown(
            list(PROMPT_TYPES),
            value=first.prompt_type,
            label=i18n("prompt_type"),
            info=i18n("prompt_type_info"),
            elem_id="prompt_type",
        )
        self.warning = gr.Markdown(elem_id="warning")
        with gr.Accordion(i18n("system"), open=False, elem_id="system_prompt"):
            self.system = gr.Textbox(
                show_label=False, lines=3, placeholder=i18n("system_hint"), elem_id="system", container=False
            )
        self.decoding = components.Decoding(
            i18n, self.preset, self.start, components.CHAT, self.assistant.engine.max_beams
        )
        self.max_memory = gr.Slider(
            0, max(MAX_MEMORY, self.flags.max_memory), self.flags.max_memory, step=1, label=i18n("max_memory"),
            info=i18n("max_memory_info"), elem_id="max_memory",
        )  # fmt: skip
        self.all_beams = components.beams_checkbox(i18n, self.flags.show_beam, self.assistant.engine.max_beams)

    # --- what its events do -------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        settings = [self.adapter, self.prompt_type, self.system, self.max_memory, self.all_beams, *self.decoding.inputs]
        self.parts = {
            "here": self.here, "came": self.came, "chat": self.chat, "kept": self.kept, "memory": self.memory,
            "message": self.message, "hint": self.hint, "turn": self.turn, "forgotten": self.forgotten,
            "editing": self.editing, "system": self.system,
        }  # fmt: skip
        changed = list(self.parts.values())
        quiet = {**components.QUIET, "outputs": changed}
        asking = {
            "outputs": changed,
            "show_progress": "hidden",
            "concurrency_limit": server.ANSWERS,
            "concurrency_id": "model",
            "trigger_mode": "multiple",
        }
        asked = [self.message, self.kept, self.editing, *settings, self.here]
        self.message.submit(self.send, asked, api_name="predict", **asking)
        self.chat.retry(self.again, [self.kept, *settings, self.here], api_visibility="private", **asking)
        self.message.stop(self.stop, None, None, **components.QUIET)
        self.chat.undo(self.undo, [self.kept, *settings], **quiet)
        self.chat.select(
            self.pick, [self.kept, self.forgotten], [self.picked, self.turn, self.turn_label], **components.QUIET
        )
        self.edit.click(
            self.begin_edit, [self.kept, self.picked], [self.message, self.editing, self.hint], **components.QUIET
        )
        self.delete.click(self.delete_from, [self.kept, self.picked, *settings], **quiet)
        self.close.click(
            lambda: [gr.update(visible=False), None, ""], None, [self.turn, self.editing, self.hint], **components.QUIET
        )
        self.chat.copy(self.original, self.kept, self.plain, **components.QUIET).then(
            None, self.plain, None, js=components.COPY
        )
        self._connect_storage(settings, changed)
        self._connect_settings(settings, changed)
        self.blocks.unload(self.leave)

    def _connect_storage(self, settings: list[Any], changed: list[Any]) -> None:
        place = [self.owner, self.id]
        self.blocks.load(self.whose, None, self.owner, **components.QUIET).then(
            self.restore, [*place, self.kept, *settings], [*place, *changed], js=chat_browser.READ, **components.QUIET
        )
        self.kept.change(None, [self.owner, self.kept, self.here, self.came], None, js=chat_browser.WRITE)
        self.came.change(
            self.put_back,
            [*place, self.kept, *settings, self.here, self.came],
            [*place, *changed],
            js=chat_browser.READ,
            **components.QUIET_LAST,
        )
        for begin in (self.new.click, self.chat.clear):
            begin(self.begin_new, [*place, *settings], [*place, *changed], js=chat_browser.FRESH, **components.QUIET)
        self.save.click(
            self.save_chat, [self.id, self.kept, *settings], [self.file, self.hint], **components.QUIET
        ).then(None, self.file, None, js=chat_browser.DOWNLOAD)
        self.load.click(self.load_chat, [*settings, self.file], changed, js=chat_browser.PICK, **components.QUIET)

    def _connect_settings(self, settings: list[Any], changed: list[Any]) -> None:
        look = [self.status, self.warning, self.system]
        components.whenever([self.adapter.input], self.adapter_chosen, [self.adapter], [self.prompt_type])
        triggers = [self.blocks.load, self.adapter.change, self.prompt_type.change]
        components.whenever(triggers, self.describe, [self.adapter, self.prompt_type], look)
        self.decoding.describe_on(self.blocks)
        parts = (self.prompt_type, self.system, self.max_memory, self.decoding.sliders["max_new_tokens"])
        components.whenever(
            [part.change for part in parts], self.refresh, [self.kept, self.forgotten, *settings], changed
        )
        first = self.assistant.first
        start = [first.name, first.prompt_type, "", self.flags.max_memory, self.flags.show_beam]
        self.reset.click(
            lambda: [self.decoding.start_preset, *start, *self.decoding.start.values()],
            None, [self.decoding.preset, *settings], **components.QUIET,
        )  # fmt: skip

    def _named(self, changes: Changes) -> dict[Any, Any]:
        return {self.parts[name]: value for name, value in changes.items()}

    def whose(self, request: gr.Request) -> str:
        """Who is logged in."""
        return request.username or ""

    def leave(self, request: gr.Request) -> None:
        """The tab is closed."""
        self.talk.runs.drop(request.session_hash)

    def send(self, request: gr.Request, message: str, kept: str, editing: int | None, *values: Any) -> Iterator[dict]:
        """Answer a message."""
        *values, here = values
        talk = self.talk.send(components.words(request), request.session_hash, kept, message or "", editing, values)
        for changes in talk:
            yield self._named({"came": here, **changes})

    def again(self, request: gr.Request, kept: str, *values: Any) -> Iterator[dict]:
        """Answer the last question once more."""
        *values, here = values
        for changes in self.talk.again(components.words(request), request.session_hash, kept, values):
            yield self._named({"came": here, **changes})

    def stop(self, request: gr.Request) -> None:
        """Stop the answer of this tab."""
        self.talk.runs.stop(request.session_hash)

    def undo(self, request: gr.Request, kept: str, *values: Any) -> dict:
        """Take the last turn back; its question returns to where it was typed."""
        return self._changed(request, kept, values, lambda messages: turns(messages) - 1, restore=True)

    def delete_from(self, request: gr.Request, kept: str, picked: int | None, *values: Any) -> dict:
        """Delete a turn and what follows it."""
        return self._changed(request, kept, values, lambda messages: -1 if picked is None else picked)

    def _changed(self, request: gr.Request, kept: str, values: tuple, where: Any, restore: bool = False) -> dict:
        strings = components.words(request)
        if self.talk.runs.busy(request.session_hash):
            return {self.hint: strings["busy"]}
        try:
            messages, _ = conversation.kept(kept)
            turn = where(messages)
            if not 0 <= turn < turns(messages):
                return {self.hint: ""}
            question = split_system(messages)[1][2 * turn]["content"]
            changes = self.talk.show(strings, before_turn(messages, turn), self.talk.options(values))
        except UserError as error:
            return {self.hint: components.notice(error)}
        return self._named({**changes, **({"message": gr.update(value=question)} if restore else {})})

    def pick(self, request: gr.Request, kept: str, forgotten: int, event: gr.SelectData) -> list[Any]:
        """Offer what can be done with the turn of a message that was clicked."""
        try:
            messages, _ = conversation.kept(kept)
        except UserError:
            messages = []
        turn = turn_of(event.index, forgotten) if isinstance(event.index, int) else -1
        if self.talk.runs.busy(request.session_hash) or not 0 <= turn < turns(messages):
            return [None, gr.update(visible=False), ""]
        return [turn, gr.update(visible=True), components.words(request)["picked"].format(n=turn + 1)]

    def begin_edit(self, request: gr.Request, kept: str, picked: int | None) -> list[Any]:
        """Put a sent question back to where it was typed; sending it replaces it and what followed."""
        try:
            messages, _ = conversation.kept(kept)
        except UserError as error:
            return [gr.skip(), None, components.notice(error)]
        if picked is None or picked >= turns(messages):
            return [gr.skip(), None, ""]
        question = split_system(messages)[1][2 * picked]["content"]
        return [question, picked, components.words(request)["editing"].format(n=picked + 1)]

    def original(self, kept: str, event: gr.CopyData) -> str:
        """What a message was written as, of which Gradio copied what it shows."""
        try:
            messages, _ = conversation.kept(kept)
        except UserError:
            return ""
        _, others = split_system(messages)
        shown = bubbles(STRINGS["en"], messages)
        found = (m["content"] for m, b in zip(others, shown, strict=True) if b["content"]["text"] == event.value)
        return next(found, "")

    def restore(self, request: gr.Request, owner: str, identity: str, kept: str, *values: Any) -> dict:
        """Show the conversation that the browser kept for this address."""
        strings = components.words(request)
        place = {self.owner: owner, self.id: identity}
        try:
            messages, draft = conversation.kept(kept)
            changes = self._shown(strings, messages, values)
        except UserError as error:
            return {**place, self.hint: components.notice(error)}
        return place | self._named({**changes, **({"message": gr.update(value=draft)} if draft else {})})

    def put_back(self, request: gr.Request, *values: Any) -> dict:
        """Show what is here again, where an update arrived from a conversation that the visitor has left."""
        *restored, here, came = values
        if here == came:
            return {self.hint: gr.skip()}  # Gradio fails at an empty dictionary
        changes = {**self.restore(request, *restored), self.came: here}
        for typed in (self.message, self.system):
            changes.pop(typed, None)
        return changes if self.talk.runs.busy(request.session_hash) else {**changes, self.message: IDLE}

    def _leave(self, request: gr.Request) -> Changes:
        """Turn to another conversation: what is still on its way of this one comes from elsewhere from now on."""
        self.talk.runs.drop(request.session_hash)
        here = secrets.token_hex(8)
        return {"here": here, "came": here, "message": IDLE}

    def _shown(self, strings: dict[str, str], messages: list, values: Sequence[Any]) -> Changes:
        """Another conversation than the one that is there, with its own system prompt in its place."""
        system = system_of(messages)
        adapter, prompt_type, _, *others = values
        options = self.talk.options([adapter, prompt_type, system, *others])
        return {**self.talk.show(strings, messages, options), "system": gr.update(value=system)}

    def begin_new(self, request: gr.Request, owner: str, identity: str, *values: Any) -> dict:
        """Leave a conversation for an empty one."""
        left = self._leave(request)
        changes = self.talk.show(components.words(request), [], self.talk.options(values))
        return {self.owner: owner, self.id: identity} | self._named({**changes, **left})

    def load_chat(self, request: gr.Request, *values: Any) -> dict:
        """Go on with the conversation of a file that the visitor picked; the browser sent its text."""
        *options, text = values
        strings = components.words(request)
        if not text:
            return {self.hint: ""}
        try:
            messages, count = conversation.load(text)
            changes = self._shown(strings, messages, options)
        except UserError as error:
            return {self.hint: components.notice(error)}
        left = self._leave(request)
        loaded = strings["loaded"].format(turns=turns(messages))
        hint = loaded + (strings["loaded_last"].format(count=count) if count > 1 else "")
        return self._named({**changes, **left, "hint": hint})

    def save_chat(self, request: gr.Request, identity: str, kept: str, *values: Any) -> list[str]:
        """The conversation as a file for the browser, and, with --save_path, on the server."""
        strings = components.words(request)
        try:
            messages, _ = conversation.kept(kept)
            if not turns(messages):
                return ["", strings["nothing_to_save"]]
            text = self._export(messages, values)
        except UserError as error:
            return ["", components.notice(error)]
        if not self.flags.save_path:
            return [text, strings["saved"]]
        try:
            name = conversation.write(self.flags.save_path, request.username or "", identity, text)
        except UserError as error:
            return [text, components.notice(error)]
        return [text, strings["saved_as"].format(name=name)]

    def _export(self, messages: list, values: tuple) -> str:
        options, tokenizer = self.talk.options(values), self.assistant.tokenizer
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.eos_id}
        set_ = dict(zip(components.NAMES, values[5:], strict=True))
        info = {
            "base": self.assistant.base_name,
            "adapter": options.adapter,
            "bits": self.assistant.where.split(" · ")[0],
            "prompt_type": options.prompt_type,
            "version": __version__,
        }
        return conversation.export(messages, {**set_, **ids, "max_memory": options.max_memory}, info)

    def adapter_chosen(self, adapter: str) -> str:
        """The prompt type that an adapter was trained with."""
        return self.assistant.choices[adapter].prompt_type

    def describe(self, request: gr.Request, adapter: str, prompt_type: str) -> list[Any]:
        """The status line, the warning about an untrained prompt type, and the system prompt's place."""
        strings, choice = components.words(request), self.assistant.choices[adapter]
        warning = ""
        if choice.trained_as and prompt_type != choice.trained_as:
            name = choice.name or self.assistant.base_name
            warning = strings["wrong_prompt_type"].format(name=display(name), trained=choice.trained_as)
        takes = TEMPLATES[prompt_type].takes_system
        hint = strings["system_hint" if takes else "no_system"].format(prompt_type=prompt_type)
        return [
            display(self.assistant.status(strings["status"], adapter, prompt_type)),
            warning,
            gr.update(interactive=takes, placeholder=hint),
        ]

    def refresh(self, request: gr.Request, kept: str, forgotten: int, *values: Any) -> dict:
        """How full the memory is under other settings.

        The conversation is not shown again while the same turns are remembered: it may be another one by now.
        """
        if self.talk.runs.busy(request.session_hash):
            return {self.hint: gr.skip()}
        try:
            messages, _ = conversation.kept(kept)
            changes = self.talk.show(components.words(request), messages, self.talk.options(values))
        except UserError as error:
            return {self.memory: components.notice(error)}
        names = ("memory",) if changes["forgotten"] == forgotten else ("chat", "memory", "forgotten")
        return self._named({name: changes[name] for name in names})
