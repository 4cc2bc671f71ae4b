"""Chat with a base model, with or without adapters, over many turns.

    python chat.py --lora_path lora-Vicuna             # opens a page on 127.0.0.1:7860
    python chat.py --lora_path lora-A lora-B           # the page lets each message choose its adapter
    python chat.py --lora_path lora-Vicuna --cli       # chats in the terminal
    python chat.py --lora_path lora-Vicuna --api       # serves the OpenAI routes under /v1 beside the page

Reads the base and the adapters; writes conversations to --save_path, if it is given. `python chat.py --help` lists
every flag.
"""

from dataclasses import replace
from functools import partial

from vicuna import log
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.args import parse
from vicuna.errors import run
from vicuna.model.flags import ModelFlags
from vicuna.sentences import environment_language, told


def main(model_flags: ModelFlags, chat: ChatFlags, serve: ServeFlags, decoding: DecodingFlags) -> None:
    """Chat on a page, with or without routes beside it, or in the terminal."""
    from vicuna.doors.door import Door

    door = Door(serve, chat)  # a key that can not be sent is told before the base is loaded
    if decoding.preset == "original" and decoding.min_new_tokens is None:
        decoding = replace(decoding, min_new_tokens=5)  # where the original's chat page stood
    log.set_up()
    # Imported here so that --help and a mistyped flag answer at once, and so do a path and a port, before torch.
    from vicuna.answer.first_look import look_at_folder, look_first
    from vicuna.serving.listening import listen

    look_first(model_flags.model_path, serve, chat.lora_path)
    look_at_folder(chat.save_path, "--save_path")
    listening = None if chat.cli else listen(serve.host, serve.port)
    from vicuna.answer.loading import check_beams, load_assistant

    check_beams(model_flags.model_path, decoding, chat.lora_path)
    assistant = load_assistant(model_flags, serve, chat.lora_path)
    language = (chat.lang or environment_language()) if chat.cli else "en"  # a log is for whoever serves
    for warning in assistant.warnings:
        log.log.warning("WARNING %s", told(warning, language))
    if chat.cli:
        from vicuna.pages import terminal

        terminal.chat(assistant, chat, decoding)
        return
    from vicuna.files.proxies import proxy_of_clients, without_proxies

    with without_proxies():  # Gradio makes clients while it is imported
        from vicuna.pages import chat_events, server

    routes = []
    if chat.api:
        from vicuna.api.routes import add_routes, describe_routes

        if variable := proxy_of_clients():
            log.log.info(
                "%s is set: clients that are started with it ask that proxy for 127.0.0.1 too, unless no_proxy names "
                "127.0.0.1.",
                variable,
            )
        add = partial(add_routes, assistant=assistant, chat=chat, door=door, decoding=decoding)
        routes = [add, partial(describe_routes, assistant=assistant, has_key=bool(door.key))]
    page = chat_events.build_page(assistant, chat, serve, decoding, with_login=bool(door.accounts))
    server.serve(page, serve, door, *routes, listening=listening)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ModelFlags, ChatFlags, ServeFlags, DecodingFlags, preset="balanced")))
