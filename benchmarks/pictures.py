"""Make the pictures of the documents anew: the chat page in Chromium, and the loss curve that training writes.

    python benchmarks/pictures.py

The curve is that of scripts/quickstart.sh, whose adapter for dialogues answers on the page. What is missing of base and
adapters is made first, by it, in some minutes. Writes loss.png and the page in both languages, on a screen and on a
phone, to docs/pictures; needs Chromium and requirements_dev.txt. Answers are greedy, so they are the same every time.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.files.proxies import without_proxies
from vicuna.model.flags import ModelFlags

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ("“画蛇添足”是什么意思？", "用它造个句子。")
# Name of a picture -> language of the browser, width and height of its window.
PICTURES = {
    "chat": ("en-US", 1280, 800),
    "chat-zh-1280": ("zh-CN", 1280, 800),
    "chat-zh-390": ("zh-CN", 390, 844),
    "chat-en-390": ("en-US", 390, 844),
}
COLOURS = 64  # of a picture, which keeps it small
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@dataclass
class PictureFlags:
    """Who is photographed, and where the pictures go."""

    lora_path: str = flag("lora-Vicuna", "adapter of the quickstart, whose folder has the loss curve")
    chat_path: str = flag("", "adapter that answers on the page; default: the quickstart's for dialogues")
    out_path: str = flag("docs/pictures", "folder for the pictures")


def main(model_flags: ModelFlags, flags: PictureFlags) -> None:
    """Train what is not there yet, then take the pictures."""
    curve, chat = Path(flags.lora_path) / "loss.png", flags.chat_path or f"{flags.lora_path}-chat"
    if not (curve.is_file() and Path(chat).is_dir()):
        made = {"MODEL_PATH": model_flags.model_path, "OUTPUT_PATH": flags.lora_path}
        made = {name: str(Path(path).resolve()) for name, path in made.items()}
        subprocess.run(["bash", ROOT / "scripts/quickstart.sh"], env=os.environ | made, check=True)
    base = ["--model_path", model_flags.model_path, "--bits", str(model_flags.bits)]
    out = Path(flags.out_path)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(curve, out / "loss.png")
    with served(*base, "--lora_path", chat, flags.lora_path, "--preset", "precise") as address:
        photograph(address, out)
    print(f"wrote {len(PICTURES) + 1} pictures to {out}")


@contextmanager
def served(*argv: str) -> Iterator[str]:
    """chat.py, on a free port of this machine: its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    server = subprocess.Popen([sys.executable, ROOT / "chat.py", *argv, "--port", str(port)])
    try:
        while not answers(address):
            if server.poll() is not None:
                raise UserError("chat.py has ended without serving its page; its error stands above.")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def answers(address: str) -> bool:
    """Whether a page is served there."""
    try:
        urllib.request.urlopen(address, timeout=20).close()
    except OSError:
        return False
    return True


def photograph(address: str, folder: Path) -> None:
    """Ask the questions on the page, one after the other, and take its pictures."""
    from PIL import Image
    from playwright.sync_api import Error, sync_playwright

    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        except Error as error:
            raise UserError(
                f"no Chromium to take the picture with ({str(error).splitlines()[0]}); install it."
            ) from error
        for name, (language, width, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, locale=language)
            page.set_default_timeout(120_000)
            page.goto(address)
            ask_questions(page)
            page.mouse.move(0, 0)
            taken = page.screenshot(animations="disabled", caret="hide")
            Image.open(io.BytesIO(taken)).quantize(COLOURS).save(folder / f"{name}.png", optimize=True)
            page.close()
        browser.close()


def ask_questions(page: Any) -> None:
    """Ask the questions once the page is ready, each once the one before is answered."""
    page.wait_for_function("/\\d \\/ \\d/.test(document.querySelector('#memory')?.innerText ?? '')")
    for number, question in enumerate(QUESTIONS, 1):
        page.fill("#message textarea", question)
        page.press("#message textarea", "Enter")
        page.wait_for_function("count => document.querySelectorAll('#chat .bot small').length === count", arg=number)
        page.wait_for_selector("#message .submit-button")
    page.evaluate("document.activeElement.blur()")


if __name__ == "__main__":
    with without_proxies():  # the server is asked, and nobody between
        run(lambda: main(*parse(__doc__, ModelFlags, PictureFlags)))
