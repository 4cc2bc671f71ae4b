"""What the chat page gives the browser beside its parts: their look, and the few lines of JavaScript that no event of
Gradio can stand for: the address, the browser's storage, files, keys.

A conversation's id is in the page's address (`?c=…`), so that a reload finds it and a second tab has its own; each is
kept under a key of its own, so that two tabs never write over each other.
"""

from vicuna.pages import assets
from vicuna.pages.conversation import MAX_BYTES

CSS = (
    assets.CSS
    + """
#chat { height: calc(100dvh - 260px) !important; min-height: 340px; }
#status p, #memory p, #hint p, #picked p, #warning p { font-size: var(--text-sm); margin: 0; }
#memory p { color: var(--neutral-500); font-variant-numeric: tabular-nums; }
#actions, #below, #turn { flex-wrap: wrap; align-items: center; gap: var(--spacing-sm); }
#actions > *, #below > *, #turn > * { flex: 0 0 auto; min-width: 0 !important; width: auto; }
/* What is forgotten is dim, and a line says where it ends: a message of the kind that Gradio folds. */
#chat .message-row:has(~ .message-row .thought-group) { opacity: 0.6; }
#chat .message-row:has(.thought-group) { margin: 0; max-width: 100%; align-self: center; pointer-events: none; }
#chat .message-row:has(.thought-group) .message,
#chat .message-row:has(.thought-group) .thought-group { border: none; background: none; box-shadow: none; padding: 0; }
#chat .message-row:has(.thought-group) :is(.arrow, svg) { display: none; }
/* But Regenerate and Undo are at the end, whatever is there. */
#chat .message-row:has(.thought-group) + .message-buttons:not(:has([aria-label="Retry"])) { display: none; }
@media (max-width: 640px) {
    #chat { height: 56dvh !important; }
    #talk { order: 1; } #controls { order: 2; }
}
"""
)

# Escape presses Stop.
HEAD = """<script>
document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#message .stop-button")?.click();
});
</script>"""

_ADDRESS = """
    const key = (owner, id) => `chinese-vicuna/${owner}/${id}`;
    const hex = (byte) => byte.toString(16).padStart(2, "0");
    const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join("");
    const given = new URL(location).searchParams.get("c");
    const current = /^[0-9a-f]{32}$/.test(given ?? "") ? given : null;
    const go = (id) => {
        const url = new URL(location);
        url.searchParams.set("c", id);
        history.replaceState(null, "", url);
    };"""

# (owner, id, stored, …) -> the same, with what this browser kept under the address's id
READ_STORED = f"""(owner, _id, _kept, ...others) => {{{_ADDRESS}
    const id = current ?? fresh();
    go(id);
    let stored = null;
    try {{ stored = JSON.parse(localStorage.getItem(key(owner, id)) ?? "null"); }} catch {{}}
    return [owner, id, stored?.text ?? "", ...others];
}}"""

# Keeps a text under the address's id; the oldest conversations make room for the latest.
_WRITE = """
    const write = (owner, kept) => {
        const mine = key(owner, current);
        if (!kept) { localStorage.removeItem(mine); return; }
        const age = (one) => { try { return JSON.parse(localStorage.getItem(one)).time; } catch { return 0; } };
        const others = Object.keys(localStorage)
            .filter((one) => one.startsWith("chinese-vicuna/") && one !== mine)
            .map((one) => [age(one), one])
            .sort((a, b) => a[0] - b[0]);
        while (others.length > 99) localStorage.removeItem(others.shift()[1]);
        for (;;) {
            try { localStorage.setItem(mine, JSON.stringify({time: Date.now(), text: kept})); return; }
            catch {
                if (!others.length) return;
                localStorage.removeItem(others.shift()[1]);
            }
        }
    };"""

# What arrives late of another conversation is not kept.
WRITE_STORED = f"""(owner, kept, here, from) => {{{_ADDRESS}{_WRITE}
    if (current && here === from) write(owner, kept);
}}"""

# (owner, what was read of a file) -> the visit, its update's, the text: kept before anything of it is shown
KEEP_LOADED = f"""(owner, loaded) => {{{_ADDRESS}{_WRITE}
    const {{visit, text}} = JSON.parse(loaded);
    if (current) write(owner, text);
    return [visit, visit, text];
}}"""

# (owner, id, …) -> the same with a new id; what was kept under the old one is gone
NEW_CONVERSATION = f"""(owner, _id, ...others) => {{{_ADDRESS}
    if (current) localStorage.removeItem(key(owner, current));
    const id = fresh();
    go(id);
    return [owner, id, ...others];
}}"""

# The text of a file that the visitor picks; nothing is uploaded as a file.
PICK_FILE = f"""async () => {{
    const file = await new Promise((done) => {{
        const input = document.createElement("input");
        input.type = "file";
        input.accept = ".jsonl,.json,.txt";
        input.onchange = () => done(input.files[0]);
        input.oncancel = () => done(null);
        input.click();
    }});
    return file ? await file.slice(0, {MAX_BYTES + 1}).text() : "";
}}"""

DOWNLOAD_FILE = """(text) => {
    if (!text) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
    link.download = `chat-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""

# By a form and not by a link, which any page could have a visitor follow.
LOG_OUT = """() => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = "/logout";
    document.body.append(form);
    form.submit();
}"""
