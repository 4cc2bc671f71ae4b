"""The page of chat.py put together: which handler each event of its layout calls."""

from typing import Any

import gradio as gr

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.pages import assets, chat_assets, server
from vicuna.pages.chat_controller import ChatController
from vicuna.pages.chat_handlers import ChatHandlers
from vicuna.pages.chat_layout import ChatLayout
from vicuna.pages.events import ANSWERING, IMMEDIATE, LATEST, debounce
from vicuna.pages.turns import attended


def build_page(
    assistant: Assistant, flags: ChatFlags, serve: ServeFlags, decoding: DecodingFlags, with_login: bool = False
) -> server.Page:
    """The multi-turn page of a loaded model."""
    with gr.Blocks(title="Chinese-Vicuna", **server.BLOCKS_KWARGS) as blocks:
        layout = ChatLayout(assistant, flags, decoding, with_login)
        controller = ChatController(assistant, decoding.seed, serve.use_typewriter)
        parts = {**layout.place, **layout.changing, "loaded": layout.loaded}
        handlers = ChatHandlers(assistant, flags.save_path, controller, parts)
        changing = list(layout.changing.values())
        _connect_answers(layout, handlers, changing)
        _connect_turns(layout, handlers, changing)
        _connect_storage(blocks, layout, handlers, changing)
        _connect_settings(blocks, layout, handlers, changing)
        if layout.logout:
            layout.logout.click(None, None, None, js=chat_assets.LOG_OUT)
        blocks.unload(handlers.close_tab)
    return server.Page(blocks, chat_assets.CSS, chat_assets.HEAD)


def _connect_answers(layout: ChatLayout, handlers: ChatHandlers, changing: list[Any]) -> None:
    settings, answering = layout.settings, {**ANSWERING, "outputs": changing}
    asked = [layout.message, layout.stored, layout.editing, *settings, layout.visit]
    layout.message.submit(attended(handlers.send, handlers.close_tab), asked, api_name="predict", **answering)
    regenerate = attended(handlers.regenerate, handlers.close_tab)
    layout.chatbot.retry(regenerate, [layout.stored, *settings, layout.visit], api_visibility="private", **answering)
    layout.message.stop(handlers.stop, None, None, **IMMEDIATE)


def _connect_turns(layout: ChatLayout, handlers: ChatHandlers, changing: list[Any]) -> None:
    stored, picked, settings = layout.stored, layout.picked, layout.settings
    layout.chatbot.undo(handlers.undo, [stored, *settings], changing, **IMMEDIATE)
    layout.chatbot.select(
        handlers.pick_turn, [stored, layout.forgotten], [picked, layout.turn, layout.turn_label], **IMMEDIATE
    )
    layout.edit.click(handlers.begin_edit, [stored, picked], [layout.message, layout.editing, layout.hint], **IMMEDIATE)
    layout.delete.click(handlers.delete_turns, [stored, picked, *settings], changing, **IMMEDIATE)
    layout.close.click(handlers.close_turn, None, [layout.turn, layout.editing, layout.hint], **IMMEDIATE)
    layout.chatbot.copy(handlers.original_text, stored, layout.plain, **IMMEDIATE).then(
        None, layout.plain, None, js=assets.COPY_TEXT
    )


def _connect_storage(blocks: gr.Blocks, layout: ChatLayout, handlers: ChatHandlers, changing: list[Any]) -> None:
    stored, settings, place = layout.stored, layout.settings, list(layout.place.values())
    outputs = [*place, *changing]
    blocks.load(handlers.user_name, None, layout.owner, **IMMEDIATE).then(
        handlers.restore, [*place, stored, *settings], outputs, js=chat_assets.READ_STORED, **IMMEDIATE
    )
    stored.change(None, [layout.owner, stored, layout.visit, layout.origin], None, js=chat_assets.WRITE_STORED)
    layout.origin.change(
        handlers.discard_stale_update,
        [*place, stored, *settings, layout.visit, layout.origin],
        outputs,
        js=chat_assets.READ_STORED,
        **LATEST,
    )
    for begin in (layout.new.click, layout.chatbot.clear):
        begin(handlers.begin_conversation, [*place, *settings], outputs, js=chat_assets.NEW_CONVERSATION, **IMMEDIATE)
    layout.save.click(
        handlers.save_chat, [layout.conversation_id, stored, *settings], [layout.file, layout.hint], **IMMEDIATE
    ).then(None, layout.file, None, js=chat_assets.DOWNLOAD_FILE)
    layout.load.click(
        handlers.load_chat, layout.file, [layout.loaded, layout.hint], js=chat_assets.PICK_FILE, **IMMEDIATE
    )
    visit, loaded = [layout.visit, layout.origin, stored], layout.loaded
    layout.loaded.change(None, [layout.owner, loaded], visit, js=chat_assets.KEEP_LOADED).then(
        handlers.show_loaded, [*place, stored, *settings, loaded], outputs, js=chat_assets.READ_STORED, **IMMEDIATE
    )


def _connect_settings(blocks: gr.Blocks, layout: ChatLayout, handlers: ChatHandlers, changing: list[Any]) -> None:
    settings, decoding = layout.settings, layout.decoding
    status = [layout.status, layout.warning, layout.system, layout.thinking]
    debounce([layout.adapter.input], handlers.trained_prompt_type, [layout.adapter], [layout.prompt_type])
    triggers = [blocks.load, layout.adapter.change, layout.prompt_type.change]
    debounce(triggers, handlers.describe, [layout.adapter, layout.prompt_type], status)
    decoding.connect_mode_line(blocks)
    parts = (layout.prompt_type, layout.thinking, layout.system, layout.max_memory, decoding.sliders["max_new_tokens"])
    inputs = [layout.stored, layout.forgotten, *settings]
    debounce([part.change for part in parts], handlers.refresh_memory, inputs, changing)
    layout.reset.click(
        lambda: [decoding.initial_preset, *layout.initial_settings], None, [decoding.preset, *settings], **IMMEDIATE
    )
