"""What is on the chat page, and where."""

import gradio as gr

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.pages.decoding_controls import CHAT_CONTROLS, DecodingControls, all_beams_checkbox
from vicuna.pages.localization import i18n
from vicuna.pages.markup import LATEX_DELIMITERS, safe_markdown
from vicuna.pages.rendering import notice
from vicuna.pages.strings import STRINGS
from vicuna.prompt.traits import knows_thinking

THINKING = {"trained": "", "on": "keep", "off": "empty"}
MAX_MEMORY = 2048  # the original's end of the slider


class ChatLayout:
    """The parts of the page, made inside of its `gr.Blocks`; those that events read or change are attributes.

    Attributes:
        settings: the controls beside the question, in the order of `ChatController.read_settings`.
        place: what says whose conversation this is and which, by name.
        changing: what an event of the conversation may change, by the names that `Changes` have for it.
    """

    def __init__(self, assistant: Assistant, flags: ChatFlags, decoding: DecodingFlags, with_login: bool):
        gr.Markdown("## Chinese-Vicuna 中文小羊驼", elem_id="title")
        self.status = gr.Markdown(safe_markdown(assistant.status(STRINGS["en"]["status"])), elem_id="status")
        if assistant.warnings:
            gr.Markdown("\n\n".join(notice(text) for text in assistant.warnings), elem_id="warnings")
        with gr.Row(elem_id="actions"):
            self.new, self.save, self.load, self.reset = (
                gr.Button(i18n(name), size="sm", elem_id=name) for name in ("new", "save", "load", "reset")
            )
            self.logout = gr.Button(i18n("logout"), size="sm", elem_id="logout") if with_login else None
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=3, elem_id="talk"):
                self._lay_out_conversation()
            with gr.Column(scale=1, min_width=300, elem_id="controls"):
                self._lay_out_settings(assistant, flags, decoding)
        self.owner, self.conversation_id, self.stored, self.plain, self.file, self.loaded = (
            gr.Textbox(visible="hidden", elem_id=name)
            for name in ("owner", "conversation", "kept", "plain", "file", "loaded")
        )
        # Which visit to a conversation this is, and which one the last update of an answer was made for: one that was
        # on its way as the visitor left its conversation arrives afterwards.
        self.visit, self.origin = (gr.Textbox(visible="hidden", elem_id=name) for name in ("here", "came"))
        self.forgotten, self.editing, self.picked = gr.State(0), gr.State(None), gr.State(None)
        self.place = {"owner": self.owner, "conversation_id": self.conversation_id}
        self.changing = {
            "visit": self.visit, "origin": self.origin, "chatbot": self.chatbot, "stored": self.stored,
            "memory": self.memory, "message": self.message, "hint": self.hint, "turn": self.turn,
            "forgotten": self.forgotten, "editing": self.editing, "system": self.system,
        }  # fmt: skip

    def _lay_out_conversation(self) -> None:
        self.chatbot = gr.Chatbot(
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

    def _lay_out_settings(self, assistant: Assistant, flags: ChatFlags, decoding: DecodingFlags) -> None:
        choices, first = assistant.choices, assistant.first
        named = [(name or i18n("base_only"), name) for name in choices]
        self.adapter = gr.Dropdown(
            named, value=first.name, label=i18n("adapter"), visible=len(choices) > 1, elem_id="adapter"
        )
        self.prompt_type = gr.Dropdown(
            assistant.prompt_types,
            value=first.prompt_type,
            label=i18n("prompt_type"),
            info=i18n("prompt_type_info"),
            elem_id="prompt_type",
        )
        self.warning = gr.Markdown(elem_id="warning")
        self.thinking = gr.Dropdown(
            [(i18n(f"thinking_{name}"), value) for name, value in THINKING.items()], value="", label=i18n("thinking"),
            info=i18n("thinking_info"), visible=knows_thinking(first.prompt_type, assistant.tokenizer.chat),
            elem_id="thinking",
        )  # fmt: skip
        with gr.Accordion(i18n("system"), open=False, elem_id="system_prompt"):
            self.system = gr.Textbox(
                show_label=False, lines=3, placeholder=i18n("system_hint"), elem_id="system", container=False
            )
        self.decoding = DecodingControls(CHAT_CONTROLS, decoding, assistant.engine)
        self.max_memory = gr.Slider(
            0, max(MAX_MEMORY, flags.max_memory), flags.max_memory, step=1, label=i18n("max_memory"),
            info=i18n("max_memory_info"), elem_id="max_memory",
        )  # fmt: skip
        self.all_beams = all_beams_checkbox(flags.show_beam, assistant.engine.max_beams)
        beside = [self.adapter, self.prompt_type, self.system, self.max_memory, self.all_beams]
        initial = [first.name, first.prompt_type, "", flags.max_memory, flags.show_beam]
        self.settings = [*beside, *self.decoding.inputs, self.thinking]
        self.initial_settings = [*initial, *self.decoding.initial.values(), ""]
