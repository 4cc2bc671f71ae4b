"""Ask a base model, with or without an adapter, one instruction at a time.

    python generate.py --lora_path lora-Vicuna                 # opens a page on 127.0.0.1:7860
    python generate.py --lora_path lora-Vicuna --text "你好"    # prints one answer, and nothing else

Reads the base and the adapter; writes nothing. `python generate.py --help` lists every flag.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vicuna import log
from vicuna.answer.flags import AskFlags, DecodingFlags, ServeFlags
from vicuna.args import parse
from vicuna.errors import UserError, run
from vicuna.model.flags import ModelFlags

EXAMPLES = Path(__file__).parent / "sample/instruct/quickstart.json"


def main(model_flags: ModelFlags, ask: AskFlags, serve: ServeFlags, decoding: DecodingFlags) -> None:
    """Answer --text in the terminal, or open the page."""
    if ask.text is not None and not ask.text.strip():
        raise UserError("--text is empty; give it a question, or leave it out to open the page.")
    log.set_up()
    # Imported here so that --help and a mistyped flag answer at once.
    from vicuna.answer.assistant import check_beams, load_assistant
    from vicuna.answer.stream import generation_kwargs

    check_beams(model_flags.model_path, decoding)
    assistant = load_assistant(model_flags, serve, [ask.lora_path])
    for warning in assistant.warnings:
        log.log.warning("WARNING %s", warning)
    if ask.text is not None:
        messages = [{"role": "user", "content": ask.text, "input": ask.input}]
        *_, last = assistant.stream(
            assistant.prompt_ids(messages),
            generation_kwargs(decoding, assistant.engine.generation_config),
            decoding.seed,
        )
        print(last.text)
        return
    import gradio as gr

    from vicuna.pages import server
    from vicuna.pages.components import CSS
    from vicuna.pages.strings import TRANSLATIONS

    i18n = gr.I18n(**TRANSLATIONS)
    server.serve(page(assistant, ask, serve, decoding, i18n), serve, i18n=i18n, css=CSS)


def page(assistant: Any, flags: AskFlags, serve: ServeFlags, decoding: DecodingFlags, i18n: Any) -> Any:
    """The page: question and settings on the left, the streamed answer on the right."""
    import gradio as gr

    from vicuna.answer.stream import generation_kwargs
    from vicuna.pages import components, server
    from vicuna.pages.markup import LATEX_DELIMITERS, display

    running: dict[str, threading.Event] = {}  # browser session -> what its Stop button sets

    def answer(
        request: gr.Request, question: str, extra: str, before: list[int], all_beams: bool, *values: Any
    ) -> Iterator[list]:
        strings = components.words(request)
        if not question.strip():
            yield [gr.skip(), strings["empty"], gr.skip(), gr.skip(), [], gr.skip()]
            return
        messages = [{"role": "user", "content": question, "input": extra or ""}]
        text = assistant.tokenizer.decode_continuation
        stop_running(request)
        stop = running[request.session_hash] = threading.Event()
        try:
            prompt_ids = assistant.prompt_ids(messages)
            sent = f"{strings['tokens'].format(tokens=len(prompt_ids))}\n\n{assistant.prompt_text(messages)}"
            yield [components.CURSOR, "", sent, gr.update(visible=False), [], ""]
            updates = assistant.stream(
                prompt_ids + before, components.chosen(values), decoding.seed, stop, client=request.session_hash
            )
            for update in components.paced(updates, serve.use_typewriter):
                if running.get(request.session_hash) is not stop:
                    return  # the tab has asked something else, or is closed
                shown = components.show_answer(strings, update, text(before), all_beams)
                plain = text(before) + update.text if update.finish else gr.skip()
                ids = [*before, *update.beams[0].ids] if update.finish == "length" else []
                yield [shown, components.stats_line(strings, update), sent, gr.update(visible=bool(ids)), ids, plain]
        except UserError as error:
            yield [gr.skip(), components.notice(error), gr.skip(), gr.update(visible=False), [], gr.skip()]
        finally:
            stop.set()

    def heading(request: gr.Request) -> str:
        return f"## Chinese-Vicuna 中文小羊驼\n\n{display(assistant.status(components.words(request)['status']))}"

    def stop_running(request: gr.Request) -> None:
        if request.session_hash in running:
            running[request.session_hash].set()

    def forget(request: gr.Request) -> None:
        stop_running(request)
        running.pop(request.session_hash, None)

    values = components.start_values(
        components.ONE_QUESTION, decoding.preset, generation_kwargs(decoding, assistant.engine.generation_config)
    )
    with gr.Blocks(title="Chinese-Vicuna", **server.BLOCKS) as blocks:
        status = gr.Markdown(elem_id="status")
        before, none = gr.State([]), gr.State([])
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=2, elem_id="left"):
                with gr.Column(elem_id="ask"):
                    question = gr.Textbox(
                        label=i18n("question"), placeholder=i18n("question_hint"), lines=2, elem_id="question"
                    )
                    with gr.Row():
                        generate = gr.Button(i18n("generate"), variant="primary", elem_id="generate")
                        stop = gr.Button(i18n("stop"), elem_id="stop")
                with gr.Column(elem_id="controls"):
                    controls = components.Decoding(i18n, decoding.preset, values, max_beams=assistant.engine.max_beams)
                    all_beams = components.beams_checkbox(i18n, flags.show_beam, assistant.engine.max_beams)
                    with gr.Accordion(i18n("extra"), open=False):
                        extra = gr.Textbox(show_label=False, placeholder=i18n("extra_hint"), lines=2, elem_id="extra")
                    gr.Examples(_examples(), question, label=i18n("examples"))
            with gr.Column(scale=3, elem_id="right"):
                output = gr.Markdown(
                    container=True, min_height=320, buttons=["copy"], elem_id="output", line_breaks=True,
                    latex_delimiters=LATEX_DELIMITERS,
                )  # fmt: skip
                plain = gr.Textbox(visible="hidden", elem_id="plain")
                stats = gr.Markdown(elem_id="stats")
                go_on = gr.Button(i18n("continue"), visible=False, elem_id="continue")
                with gr.Accordion(i18n("prompt"), open=False, elem_id="sent"):
                    sent = gr.Textbox(show_label=False, lines=6, interactive=False, elem_id="prompt")
        outputs = [output, stats, sent, go_on, before, plain]
        tail = [all_beams, *controls.inputs]
        ask = {
            "fn": answer,
            "outputs": outputs,
            "show_progress": "hidden",
            "concurrency_limit": server.ANSWERS,
            "concurrency_id": "model",
            "trigger_mode": "multiple",  # "once" drops a click until the answer before is closed, not only shown
        }
        gr.on([generate.click, question.submit], inputs=[question, extra, none, *tail], api_name="predict", **ask)
        go_on.click(inputs=[question, extra, before, *tail], api_name="continue", **ask)
        stop.click(stop_running, **components.QUIET)
        output.copy(None, plain, None, js=components.COPY)
        blocks.unload(forget)
        blocks.load(heading, None, status, **components.QUIET)
        controls.describe_on(blocks)
    return blocks


def _examples() -> list[str]:
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return [row["instruction"] for row in rows if not row["input"]][:6]


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ModelFlags, AskFlags, ServeFlags, DecodingFlags)))
