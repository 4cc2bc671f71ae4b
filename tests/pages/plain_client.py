"""A small page over plain HTTP, without a browser and without a model."""

from collections.abc import Callable, Sequence

import gradio as gr
from fastapi import FastAPI
from starlette.testclient import TestClient

from vicuna.answer.flags import ServeFlags
from vicuna.doors.door import Door
from vicuna.pages.server import BLOCKS_KWARGS, Page, application


def small_page(
    routes: Callable[[FastAPI], Sequence[str]] | None = None, door: Door | None = None, **flags: object
) -> TestClient:
    """A client on this machine, of a page with one event in the queue and one outside of it."""
    with gr.Blocks(**BLOCKS_KWARGS) as blocks:
        box = gr.Textbox()
        box.submit(lambda text: text, box, box, api_name="queued", concurrency_id="model")
        gr.Button().click(lambda text: text, box, box, api_name="direct", queue=False)
    serve = ServeFlags(**flags)
    app = application(Page(blocks, css=""), serve, door or Door(serve), routes)
    return TestClient(app, base_url="http://127.0.0.1:7860", client=("127.0.0.1", 1))
