"""What is on the chat page, and where."""

import json
from itertools import islice
from pathlib import Path

import gradio as gr

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.pages import chat_assets
from vicuna.pages.decoding_controls import CHAT_CONTROLS, CONTROL_NAMES, DecodingControls, all_beams_checkbox, longest
from vicuna.pages.header import HEADING, page_buttons
from vicuna.pages.localization import i18n
from vicuna.pages.markup import LATEX_DELIMITERS
from vicuna.pages.saved_chats import FORMS
from vicuna.prompt.traits import knows_thinking

EXAMPLES = Path(__file__).parents[2] / "sample/chat/quickstart.jsonl"  # which the quickstart's adapter has learnt
SHOWN_EXAMPLES = 4
THINKING = {"trained": "", "on": "keep", "off": "empty"}
# The settings in the order of `ChatLayout.kept_settings`, by which a browser and a file keep them.
SETTING_NAMES = (
    *("preset", "adapter", "prompt_type", "system", "max_memory", "show_beam"),
    *CONTROL_NAMES,
    "thinking",
)


class ChatLayout:
    """The parts of the page, made inside of its `gr.Blocks`; those that events read or change are attributes.

    Attributes:
        settings: the controls beside the question, in the order of `ChatController.read_settings`.
        place: what says whose conversation this is and which, by name.
        changing: what an event of the conversation may change, by the names that `Changes` have for it.
    """

    def __init__(self, assistant: Assistant, flags: ChatFlags, decoding: DecodingFlags, with_login: bool):
        gr.Markdown(HEADING, elem_id="title")
        self.status = gr.Markdown(elem_id="status")
        self.warnings = gr.Markdown(elem_id="warnings") if assistant.warnings else None
        with gr.Row(elem_id="actions"):
            self.show_history = gr.Button("☰", size="sm", elem_id="show_history")
            self.new, self.save = (gr.Button(i18n(name), size="sm", elem_id=name) for name in ("new", "save"))
            self.form = gr.Dropdown(
                [(i18n(f"form_{form}"), form) for form in FORMS], value=FORMS[0], show_label=False, container=False,
                label=i18n("form"), elem_id="form",
            )  # fmt: skip
            self.load, self.reset = (gr.Button(i18n(name), size="sm", elem_id=name) for name in ("load", "reset"))
            page_buttons(with_login)
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=0, elem_id="history"):
                gr.HTML(chat_assets.HISTORY)
            with gr.Column(scale=3, elem_id="talk"):
                self._lay_out_conversation()
            with gr.Column(scale=1, min_width=300, elem_id="controls"):
                self._lay_out_settings(assistant, flags, decoding)
        self.owner, self.conversation_id, self.stored, self.plain, self.file, self.loaded, self.returned = (
            gr.Textbox(visible="hidden", elem_id=name)
            for name in ("owner", "conversation", "kept", "plain", "file", "loaded", "returned")
        )
        self.title, self.wanted = (gr.Textbox(visible="hidden", elem_id=name) for name in ("name", "wanted"))
        # Which visit to a conversation this is, and which one the last update of an answer was made for: one that was
        # on its way as the visitor left its conversation arrives afterwards.
        self.visit, self.origin = (gr.Textbox(visible="hidden", elem_id=name) for name in ("here", "came"))
        self.open, self.export, self.act = (gr.Button(name, elem_id=name) for name in ("open", "export", "act"))
        self.forgotten, self.editing = gr.State(0), gr.State(None)
        self.place = {"owner": self.owner, "conversation_id": self.conversation_id}
        self.changing = {
            "visit": self.visit, "origin": self.origin, "chatbot": self.chatbot, "stored": self.stored,
            "memory": self.memory, "message": self.message, "hint": self.hint, "close": self.close, "back": self.back,
            "forgotten": self.forgotten, "editing": self.editing, "returned": self.returned,
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
            examples=[{"text": question} for question in _examples()],
        )
        self.memory = gr.Markdown(elem_id="memory")
        gr.HTML(chat_assets.LIMIT, elem_id="limit_bar")
        with gr.Row(elem_id="notices"):
            self.hint = gr.Markdown(elem_id="hint")
            self.close = gr.Button(i18n("close_edit"), size="sm", visible=False, elem_id="close")
            self.back = gr.Button(i18n("bring_back"), size="sm", visible=False, elem_id="back")
        self.message = gr.Textbox(
            show_label=False,
            label=i18n("message"),
            placeholder=i18n("message_hint"),
            lines=1,
            max_lines=8,
            submit_btn=True,
            autofocus=True,
            elem_id="message",
        )

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
                show_label=False,
                label=i18n("system"),
                lines=3,
                placeholder=i18n("system_hint"),
                elem_id="system",
                container=False,
            )
        self.decoding = DecodingControls(CHAT_CONTROLS, decoding, assistant.engine)
        context = longest(assistant.engine)
        max_memory = min(flags.max_memory, context)
        self.max_memory = gr.Slider(
            0, context, max_memory, step=1, label=i18n("max_memory"), info=i18n("max_memory_info"),
            elem_id="max_memory",
        )  # fmt: skip
        self.all_beams = all_beams_checkbox(flags.show_beam, self.decoding)
        beside = [self.adapter, self.prompt_type, self.system, self.max_memory, self.all_beams]
        initial = [first.name, first.prompt_type, "", max_memory, flags.show_beam and assistant.engine.max_beams > 1]
        self.settings = [*beside, *self.decoding.inputs, self.thinking]
        self.kept_settings = [self.decoding.preset, *self.settings]
        initial = [self.decoding.initial_preset, *initial, *self.decoding.initial.values(), ""]
        self.initial = dict(zip(self.kept_settings, initial, strict=True))


def _examples() -> list[str]:
    """Questions to click on an empty page; none where the project's samples are not beside it."""
    if not EXAMPLES.is_file():
        return []
    with EXAMPLES.open(encoding="utf-8") as lines:
        return [json.loads(line)["input"][0] for line in islice(lines, SHOWN_EXAMPLES)]
