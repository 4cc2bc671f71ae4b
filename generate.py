"""Ask a base model, with or without an adapter, one instruction at a time, or a file of them.

    python generate.py --lora_path lora-Vicuna                 # opens a page on 127.0.0.1:7860
    python generate.py --lora_path lora-Vicuna --text "你好"    # prints one answer, and nothing else
    python generate.py --lora_path lora-Vicuna --data_path questions.jsonl --output_path answers.jsonl

Reads the base, the adapter and --data_path; writes --output_path alone. `python generate.py --help` lists every flag.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vicuna import log
from vicuna.answer.flags import AskFlags, DecodingFlags, PredictFlags, ServeFlags
from vicuna.args import parse
from vicuna.errors import UserError, print_answer, run
from vicuna.model.flags import ModelFlags
from vicuna.sentences import Sentence, environment_language, told

EXAMPLES = Path(__file__).parent / "sample/instruct/quickstart.json"


def main(
    model_flags: ModelFlags, ask: AskFlags, predict: PredictFlags, serve: ServeFlags, decoding: DecodingFlags
) -> None:
    """Answer --text in the terminal or the records of --data_path into a file, or open the page."""
    if ask.text is not None and not ask.text.strip():
        raise UserError("--text is empty; give it a question, or leave it out to open the page.")
    if predict.data_path and (ask.text is not None or ask.input):
        given = "--input" if ask.text is None else "--text"
        raise UserError(f"{given} is one question, --data_path a file of them; give one of them.")
    log.set_up()
    # Imported here so that --help and a mistyped flag answer at once, and so do files, paths and a port, before torch.
    from vicuna.answer.first_look import look_at_questions, look_first
    from vicuna.serving.listening import listen

    if predict.data_path:
        look_at_questions(model_flags.model_path, serve, ask.lora_path, predict)
    else:
        look_first(model_flags.model_path, serve, [ask.lora_path])
    listening = None if predict.data_path or ask.text is not None else listen(serve.host, serve.port)
    from vicuna.answer.decoding import generation_kwargs
    from vicuna.answer.loading import check_beams, load_assistant

    check_beams(model_flags.model_path, decoding, [ask.lora_path])
    if predict.data_path:
        from vicuna.answer.prediction import answer_files

        answer_files(model_flags, ask.lora_path, serve, decoding, predict)
        return
    assistant = load_assistant(model_flags, serve, [ask.lora_path])
    language = environment_language() if ask.text is not None else "en"
    for warning in assistant.warnings:
        log.log.warning("WARNING %s", told(warning, language))
    if ask.text is not None:
        if not ask.lora_path:
            alone = Sentence("base_alone_answers", base=assistant.base_name)
            log.log.warning("%s", told(alone, language))
        messages = [{"role": "user", "content": ask.text, "input": ask.input}]
        *_, last = assistant.stream(
            assistant.prompt_ids(messages),
            generation_kwargs(decoding, assistant.engine.generation_config),
            decoding.seed,
            prompt_type=assistant.first.prompt_type,
        )
        said = assistant.split(messages, last.text)
        if said.thought and not said.content:
            log.log.warning("%s", told(Sentence("only_thought"), language))
        print_answer(said.content)
        return
    from vicuna.doors.door import Door
    from vicuna.files.proxies import without_proxies

    with without_proxies():  # Gradio makes clients while it is imported
        from vicuna.pages import server

    door = Door(serve)
    page = build_page(assistant, ask, serve, decoding, with_login=bool(door.accounts))
    server.serve(page, serve, door, listening=listening)


def build_page(
    assistant: Any, flags: AskFlags, serve: ServeFlags, decoding: DecodingFlags, with_login: bool = False
) -> Any:
    """The page: question and settings on the left, the streamed answer on the right."""
    import gradio as gr

    from vicuna.pages import assets, server

    with gr.Blocks(title="Chinese-Vicuna", **server.BLOCKS_KWARGS) as blocks:
        parts = lay_out(assistant, flags, decoding, with_login)
        connect(blocks, parts, make_handlers(assistant, serve, decoding))
    return server.Page(blocks, assets.CSS, assets.head())


def lay_out(assistant: Any, flags: AskFlags, decoding: DecodingFlags, with_login: bool) -> SimpleNamespace:
    """What is on the page, made inside of its `gr.Blocks`: the parts that events read or change."""
    import gradio as gr

    from vicuna.pages.decoding_controls import ASK_CONTROLS, DecodingControls, all_beams_checkbox
    from vicuna.pages.header import HEADING, page_buttons
    from vicuna.pages.localization import i18n
    from vicuna.pages.markup import LATEX_DELIMITERS

    parts = SimpleNamespace()
    gr.Markdown(HEADING, elem_id="title")
    parts.status = gr.Markdown(elem_id="status")
    parts.warnings = gr.Markdown(visible=bool(assistant.warnings), elem_id="warnings")
    with gr.Row(elem_id="actions"):
        page_buttons(with_login)
    parts.cut_ids, parts.no_ids = gr.State([]), gr.State([])  # of an answer that a limit cut, and of none
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=2, elem_id="left"):
            with gr.Column(elem_id="ask"):
                parts.question = gr.Textbox(
                    label=i18n("question"), placeholder=i18n("question_hint"), lines=1, max_lines=8, elem_id="question"
                )
                with gr.Row():
                    parts.generate = gr.Button(i18n("generate"), variant="primary", elem_id="generate")
                    parts.stop = gr.Button(i18n("stop"), visible=False, elem_id="stop")
            with gr.Column(elem_id="controls"):
                parts.decoding = DecodingControls(ASK_CONTROLS, decoding, assistant.engine)
                parts.all_beams = all_beams_checkbox(flags.show_beam, parts.decoding)
            with gr.Column(elem_id="more"):
                with gr.Accordion(i18n("extra"), open=False):
                    parts.extra = gr.Textbox(
                        show_label=False, label=i18n("extra"), placeholder=i18n("extra_hint"), lines=2, elem_id="extra"
                    )
                gr.Examples(_examples(), parts.question, label=i18n("examples"))
        with gr.Column(scale=3, elem_id="right"):
            parts.output = gr.Markdown(
                container=True, min_height=320, buttons=["copy"], elem_id="output", line_breaks=True,
                latex_delimiters=LATEX_DELIMITERS,
            )  # fmt: skip
            parts.plain = gr.Textbox(visible="hidden", elem_id="plain")
            parts.stats = gr.Markdown(elem_id="stats")
            parts.resume = gr.Button(i18n("continue"), visible=False, elem_id="continue")
            with gr.Accordion(i18n("prompt"), open=False, elem_id="sent"):
                parts.sent = gr.Textbox(
                    show_label=False, label=i18n("prompt"), lines=6, interactive=False, elem_id="prompt"
                )
    return parts


def make_handlers(assistant: Any, serve: ServeFlags, decoding: DecodingFlags) -> SimpleNamespace:
    """What the events call: answer a question, stop the answer, forget a tab that is closed, head the page."""
    import gradio as gr

    from vicuna.answer.fair_queue import Client
    from vicuna.pages import notes, rendering
    from vicuna.pages.decoding_controls import kwargs_from_controls
    from vicuna.pages.events import throttle
    from vicuna.pages.localization import request_strings
    from vicuna.pages.markup import safe_markdown
    from vicuna.pages.turns import attended, client_of
    from vicuna.prompt.rendering import BASE

    stops: dict[Client, threading.Event] = {}  # a tab -> what ends the answer that it is getting

    # The page's API calls the parameters by these names.
    def answer(
        request: gr.Request, question: str, extra: str, before: list[int], all_beams: bool, *values: Any
    ) -> Iterator[list]:
        strings, client = request_strings(request), client_of(request)
        if not question.strip():
            yield [gr.skip(), strings["empty"], gr.skip(), gr.skip(), [], gr.skip(), gr.skip()]
            return
        messages = [{"role": "user", "content": question, "input": extra or ""}]
        # What a limit cut is gone on with as text: it has its beginning.
        said = assistant.shown(assistant.tokenizer.decode_continuation(before))
        prompt_type = "" if before else assistant.first.prompt_type
        stop(request)
        ended = stops[client] = threading.Event()
        last, running, over = None, gr.update(visible=True), gr.update(visible=False)
        try:
            prompt_ids = assistant.prompt_ids(messages)
            prompt, context = assistant.prompt_text(messages), assistant.engine.context
            prompt_end = prompt if assistant.first.prompt_type == BASE else None
            sent = f"{strings['tokens'].format(tokens=len(prompt_ids))}\n\n{prompt}"
            yield [rendering.CURSOR, "", sent, over, [], "", running]
            generation = kwargs_from_controls(values)
            updates = assistant.stream(
                prompt_ids + before, generation, decoding.seed, ended, client=client, prompt_type=prompt_type
            )
            for update in throttle(updates, serve.use_typewriter):
                if stops.get(client) is not ended:
                    return  # the tab has asked something else, or is closed
                last = update
                text = rendering.answer_markdown(strings, update, said, all_beams, prompt_end)
                plain = assistant.split(messages, said + update.text).content if update.finish else gr.skip()
                ids = [*before, *update.beams[0].ids] if update.finish == "length" else []
                stats = notes.answer_note(strings, assistant.first.name, len(prompt_ids + before), context, update)
                stop_shown = over if update.finish else running
                yield [text, stats, sent, gr.update(visible=bool(ids)), ids, plain, stop_shown]
        except UserError as error:
            # What there is of an answer stands, without a cursor.
            ended_there = last and replace(last, finish="stop")
            shown = rendering.answer_markdown(strings, ended_there, said, all_beams, prompt_end) if ended_there else ""
            yield [shown, rendering.notice(told(error, strings["language"])), gr.skip(), over, [], gr.skip(), over]
        finally:
            ended.set()

    def stop(request: gr.Request) -> None:
        if client_of(request) in stops:
            stops[client_of(request)].set()

    def forget(request: gr.Request) -> None:
        stop(request)
        stops.pop(client_of(request), None)

    def heading(request: gr.Request) -> list[str]:
        strings = request_strings(request)
        warnings = [rendering.notice(told(text, strings["language"])) for text in assistant.warnings]
        return [safe_markdown(assistant.status(strings["status"], language=strings["language"])), "\n\n".join(warnings)]

    return SimpleNamespace(answer=attended(answer, stop), stop=stop, forget=forget, heading=heading)


def connect(blocks: Any, parts: SimpleNamespace, handlers: SimpleNamespace) -> None:
    """Which handler each event calls."""
    import gradio as gr

    from vicuna.pages.assets import COPY_TEXT
    from vicuna.pages.events import ANSWERING, IMMEDIATE

    outputs = [parts.output, parts.stats, parts.sent, parts.resume, parts.cut_ids, parts.plain, parts.stop]
    settings = [parts.all_beams, *parts.decoding.inputs]
    answering = {"fn": handlers.answer, "outputs": outputs, **ANSWERING}
    asked = [parts.question, parts.extra, parts.no_ids, *settings]
    gr.on([parts.generate.click, parts.question.submit], inputs=asked, api_name="predict", **answering)
    resumed = [parts.question, parts.extra, parts.cut_ids, *settings]
    parts.resume.click(inputs=resumed, api_name="continue", **answering)
    parts.stop.click(handlers.stop, **IMMEDIATE)
    parts.output.copy(None, parts.plain, None, js=COPY_TEXT)
    blocks.unload(handlers.forget)
    blocks.load(handlers.heading, None, [parts.status, parts.warnings], **IMMEDIATE)
    parts.decoding.connect_mode_line(blocks, parts.all_beams)


def _examples() -> list[str]:
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return [row["instruction"] for row in rows if not row["input"]][:6]


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ModelFlags, AskFlags, PredictFlags, ServeFlags, DecodingFlags)))
