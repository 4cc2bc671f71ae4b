"""Clicks on the chat page at random, and compares what the browser keeps with a model of what it should.

    python -m tests.pages.clicker http://127.0.0.1:7860/ 500 0       # actions, seed

The model knows nothing of the page but its promise: whatever was said in a conversation that was not deleted is still
in it, under its own address, and so is the text that was typed and not sent.
"""

import json
import random
import sys
from typing import Any

from tests.pages.driven import next_frames, open_settings, send, set_new_tokens, watch_stop

KEPT = """() => Object.fromEntries(Object.keys(localStorage).filter((one) => /^chinese-vicuna(-typed)?[/][/]/.test(one))
    .map((one) => [one, localStorage.getItem(one)]))"""
ID = "new URL(location).searchParams.get('c')"
# Nothing runs, and the page shows the conversation of its address, as this browser keeps it.
STILL = f"""() => {{
    const kept = document.querySelector("#kept textarea"), id = {ID};
    const record = JSON.parse(localStorage.getItem("chinese-vicuna//" + id));
    const rows = JSON.parse((record ?? {{}}).text || '{{"messages": []}}').messages.length;
    return !document.querySelector("#message .stop-button")
        && document.querySelector("#conversation textarea")?.value === id && kept.value === (record?.text ?? "")
        && document.querySelectorAll("#chat .message-row:not(:has(.thought-group))").length === rows;
}}"""


class Clicker:
    """A visitor who clicks anywhere.

    Attributes:
        said: what was said in each conversation; typed: what was typed there and not sent; deleted: the last one.
    """

    def __init__(self, page: Any, seed: int):
        self.page, self.chance, self.count = page, random.Random(seed), 0
        self.said: dict[str, set[str]] = {}
        self.typed: dict[str, str] = {}
        self.deleted: tuple[str, set[str], str] | None = None
        self.log: list[str] = []

    @property
    def here(self) -> str:
        return self.page.evaluate(ID)

    def run(self, actions: int) -> None:
        """Do so many things, and look after each."""
        open_settings(self.page)
        set_new_tokens(self.page, 2)
        names = [name for name in dir(self) if name.startswith("do_")]
        while len(self.log) < actions:
            name = self.chance.choice(["do_ask", *names])
            try:
                if getattr(self, name)() is not False:
                    self.log.append(name)
                    self.check()
            except Exception as error:
                raise AssertionError(f"{name} behind {self.log}: {self.page.inner_text('#talk')!r}") from error

    def check(self) -> None:
        """Fail where something was lost, or came back."""
        self.page.wait_for_function(STILL)
        next_frames(self.page)
        kept = self.page.evaluate(KEPT)
        texts = {key[-32:]: value for key, value in kept.items() if key.startswith("chinese-vicuna//")}
        typed = {key[-32:]: value for key, value in kept.items() if key.startswith("chinese-vicuna-typed//")}
        assert set(texts) == set(self.said), self.log
        for one, said in self.said.items():
            lost = [text for text in said if json.dumps(text, ensure_ascii=False)[1:-1] not in texts[one]]
            assert lost == [], (lost, self.log)
        assert typed == {one: text for one, text in self.typed.items() if text}, self.log
        assert (self.page.input_value("#message textarea") or "") == self.typed.get(self.here, ""), self.log

    def _new(self, kind: str) -> str:
        self.count += 1
        return f"<{kind}{self.count}>"

    def _rows(self, kind: str) -> int:
        return self.page.locator(f"#chat .{kind}-row:not(:has(.thought-group))").count()

    def _tool(self, name: str, role: str) -> bool:
        """Press one of the buttons at messages; False where there is none."""
        found = self.page.locator(f"#chat .{role}-row + .message-buttons .turn-tools .{name}:enabled")
        if not (count := found.count()):
            return False
        found.nth(self.chance.randrange(count)).click()
        return True

    def _say(self, text: str, after: str = "") -> None:
        """Send a text, and wait until it is kept with its answer; `after` is typed then."""
        here = self.here
        send(self.page, text)
        self.page.wait_for_function(
            """([id, text]) => {
                const kept = JSON.parse(JSON.parse(localStorage.getItem("chinese-vicuna//" + id))?.text ?? "null");
                return kept && !kept.draft && JSON.stringify(kept).includes(text);
            }""",
            arg=[here, text],
        )
        self.said.setdefault(here, set()).add(text)
        self.typed[here] = after

    # --- what can be done ---------------------------------------------------------------------------------------------

    def do_ask(self) -> None:
        self._say(self._new("q"))

    def do_type(self) -> None:
        text = self._new("t")
        self.page.fill("#message textarea", text)
        self.typed[self.here] = text
        self.page.wait_for_function(f"text => localStorage.getItem('chinese-vicuna-typed//' + {ID}) === text", arg=text)

    def _visited(self, press: Any) -> None:
        """Press what turns to another conversation, and wait until it has: what is sent before is not answered."""
        before = self.page.input_value("#here textarea")
        press()
        self.page.wait_for_function("before => document.querySelector('#here textarea').value !== before", arg=before)

    def do_new(self) -> None:
        before, is_empty = self.here, self.here not in self.said
        self._visited(lambda: self.page.click("#new"))
        assert (self.here == before) == is_empty

    def do_open(self) -> bool | None:
        ids = sorted({*self.said, *(one for one, text in self.typed.items() if text)} - {self.here})
        if not ids:
            return False
        one = self.chance.choice(ids)
        self._visited(lambda: self.page.click(f"#conversations li[data-id='{one}'] .title"))
        return None

    def do_delete(self) -> bool | None:
        if not self.said:
            return False
        one, here = self.chance.choice(sorted(self.said)), self.here
        if one == here:
            self._visited(lambda: self.page.click(f"#conversations li[data-id='{one}'] .delete"))
        else:
            self.page.click(f"#conversations li[data-id='{one}'] .delete")
        self.page.wait_for_function("document.querySelector('#deleted button')")
        self.deleted = (one, self.said.pop(one), self.typed.pop(one, ""))
        return None

    def do_undelete(self) -> bool | None:
        if not self.deleted:
            return False
        one, said, typed = self.deleted
        if self.here not in self.said and not self.typed.get(self.here):
            self._visited(lambda: self.page.click("#deleted button"))  # it opens where nothing else is
        else:
            self.page.click("#deleted button")
        self.page.wait_for_selector(f"#conversations li[data-id='{one}']")
        self.said[one], self.typed[one], self.deleted = said, typed, None
        return None

    def _edit(self, tool: str, role: str, kind: str) -> bool | None:
        """Put another text in a message's place; what was typed before comes back."""
        before = self.typed.get(self.here, "")
        if not self._tool(tool, role):
            return False
        self.page.wait_for_selector("#close")
        self._say(self._new(kind), before)
        return None

    def do_edit(self) -> bool | None:
        return self._edit("edit", "user", "q")

    def do_edit_answer(self) -> bool | None:
        return self._edit("edit_answer", "bot", "a")

    def do_leave_edit(self) -> bool | None:
        if not self._tool("edit", "user"):
            return False
        self.page.wait_for_selector("#close")
        self.page.click("#close")
        self.page.wait_for_selector("#close", state="hidden")
        return None

    def do_cut(self) -> bool | None:
        before = self._rows("user")
        if not self._tool("cut", "user"):
            return False
        self.page.wait_for_function(
            "before => document.querySelectorAll('#chat .user-row').length < before", arg=before
        )
        return None

    def do_bring_back(self) -> bool | None:
        if not self.page.locator("#back").is_visible():
            return False
        before = self._rows("user")
        self.page.click("#back")
        self.page.wait_for_function(
            "before => document.querySelectorAll('#chat .user-row').length > before", arg=before
        )
        return None

    def do_step(self) -> bool | None:
        before = self.page.input_value("#kept textarea")
        if not self._tool(self.chance.choice(["before", "next"]), "user"):
            return False
        self.page.wait_for_function("text => document.querySelector('#kept textarea').value !== text", arg=before)
        return None

    def do_regenerate(self) -> bool | None:
        if not self._rows("user"):
            return False
        watch_stop(self.page)
        self.page.click("#chat button[aria-label=Retry]")
        self.page.wait_for_function("window.ran")
        return None

    def do_undo(self) -> bool | None:
        if not (before := self._rows("user")):
            return False
        messages = json.loads(self.page.input_value("#kept textarea"))["messages"]
        question = [message["content"] for message in messages if message["role"] == "user"][-1]
        self.page.click("#chat button[aria-label=Undo]")
        self.page.wait_for_function(
            "before => document.querySelectorAll('#chat .user-row').length < before", arg=before
        )
        typed = self.typed.get(self.here, "")
        self.typed[self.here] = f"{question}\n{typed}" if typed else question
        self.page.wait_for_function(
            "text => document.querySelector('#message textarea')?.value === text", arg=self.typed[self.here]
        )
        return None

    def do_reload(self) -> None:
        self.deleted = None  # which is undone until a reload
        self.page.reload()
        self.page.wait_for_function("document.querySelector('#conversation textarea')?.value")


def main(address: str, actions: str, seed: str) -> None:
    """Click on a page that is served."""
    import shutil

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        page = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"]).new_page(locale="en-US")
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_function("document.querySelector('#conversation textarea')?.value")
        clicker = Clicker(page, int(seed))
        clicker.run(int(actions))
        print(f"{len(clicker.log)} actions, {len(clicker.said)} conversations, {clicker.count} texts: nothing lost")


if __name__ == "__main__":
    main(*sys.argv[1:])
