"""What the chat page gives the browser beside its parts: their look, and `chat.js`, of which events call functions."""

import json
from collections.abc import Sequence

from vicuna.pages import assets
from vicuna.pages.conversation import MAX_BYTES

MAX_KEPT = 100  # conversations in a browser, before the page offers to make room

# The page is as high as the window, and what does not fit scrolls inside of its column.
CSS = (
    assets.CSS
    + """
gradio-app, .gradio-container { height: 100dvh; min-height: 0 !important; overflow: hidden; }
.main.app { height: 100%; padding: 8px 16px !important; }
.main.app > .wrap, .main.app main.contain, .main.app main.contain > .column {
    height: 100%; min-height: 0; display: flex; flex-direction: column; flex-wrap: nowrap; gap: 6px; }
.main.app main.contain > .column > * { flex: 0 0 auto; }
.main.app main.contain > .column > #columns { flex: 1 1 0; min-height: 0; flex-wrap: nowrap; align-items: stretch; }
#columns > * { min-height: 0; flex-wrap: nowrap; }
#talk { gap: 6px; }
#talk > * { flex: 0 0 auto; }
#talk > #chat { flex: 1 1 0; height: auto !important; min-height: 100px; }
#controls, #history { overflow-y: auto; }
#controls > * { flex-shrink: 0; }
#history { flex: 0 0 250px; max-width: 250px; }
#columns > * { max-height: 100%; }
#memory p, #hint p, #warning p { font-size: var(--text-sm); margin: 0; }
#memory p { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
#notices { flex-wrap: wrap; align-items: center; gap: var(--spacing-sm); }
#notices > * { flex: 0 0 auto; min-width: 0 !important; width: auto; }
#notices > #hint { flex: 0 1 auto; }
#actions > #form { flex: 0 0 7em !important; max-width: 7em; margin: 0 !important; }
#limit_bar:not(:has(span)) { display: none; }
#actions #form .wrap-inner { padding: 0; }
#actions #form input { padding: 2px 8px; height: 26px; font-size: var(--text-sm); }
#notices:not(:has(p)):not(:has(button)) { display: none; }
/* New chat does what Gradio's dustbin seems to. */
#chat .top-panel { display: none; }
#hint:has(p) { background: var(--background-fill-secondary); border-left: 3px solid var(--color-accent);
    padding: 4px 10px; }
/* The list of conversations, and what is said of it. */
#history input { width: 100%; padding: 4px 8px; border: 1px solid var(--border-color-primary); border-radius: 4px;
    background: var(--input-background-fill); color: var(--body-text-color); }
#conversations { list-style: none; margin: 6px 0; padding: 0; }
#conversations li { font-weight: 400; display: flex; align-items: center; margin: 0; border-radius: 4px; }
#conversations li.current { background: var(--background-fill-secondary); font-weight: 600; }
#conversations button, .turn-tools button { padding: 2px 6px; cursor: pointer; background: none; font-weight: inherit;
    color: var(--body-text-color-subdued); }
#conversations .title { flex: 1 1 auto; min-width: 0; text-align: left; overflow: hidden; text-overflow: ellipsis;
    white-space: nowrap; color: var(--body-text-color); }
#deleted, #found, #limit { font-size: var(--text-sm); }
#deleted button, #limit button { margin-left: 8px; text-decoration: underline; cursor: pointer; }
.turn-tools { display: inline-flex; align-items: center; gap: 2px; font-size: var(--text-sm); }
.turn-tools button:disabled { opacity: 0.3; cursor: default; }
#chat .message-buttons { display: flex; align-items: center; }
/* Pressed by the page's own script. */
#open, #export, #act { display: none; }
/* What is forgotten is dim, and a line says where it ends: a message of the kind that Gradio folds. */
#chat .message-row:has(~ .message-row .thought-group) { opacity: 0.6; }
#chat .message-row:has(.thought-group) { margin: 0; max-width: 100%; align-self: center; pointer-events: none; }
#chat .message-row:has(.thought-group) .message,
#chat .message-row:has(.thought-group) .thought-group { border: none; background: none; box-shadow: none; padding: 0; }
#chat .message-row:has(.thought-group) :is(.arrow, svg) { display: none; }
/* But Regenerate and Undo are at the end, whatever is there. */
#chat .message-row:has(.thought-group)
    + .message-buttons:not(:has([aria-label="Retry"])):not(:has([aria-label="重试"])) { display: none; }
@media (max-width: 640px) {
    .main.app { padding: 6px !important; }
}
"""
)

# What stands in the list's place until the script fills it.
HISTORY = """<input id="search" type="search" autocomplete="off"><div id="deleted" role="status"></div>
<ul id="conversations"></ul><div id="found"></div>"""
LIMIT = '<div id="limit" role="status"></div>'
WORDS = (
    *("untitled", "rename", "export", "delete_chat", "none_found", "none_kept", "deleted", "undo_delete", "limit"),
    *("no_room", "edit", "edit_answer", "delete", "way_before", "way_next", "search", "show_history"),
)  # that the script says


def head() -> str:
    """The page's scripts, with the words that they say."""
    return assets.head(WORDS, ("chat.js",), most=MAX_KEPT, bytes=MAX_BYTES)


# --- what events call in the browser ----------------------------------------------------------------------------------


class Script:
    """Calls of `chat.js` for a page with these settings, by name."""

    def __init__(self, settings: Sequence[str]):
        names = json.dumps(list(settings))
        # (owner, id, kept, typed, *settings) -> the same, as this browser keeps them for the page's address
        self.read = f"(owner, _i, _k, _t, ...now) => vicuna.read(owner, {names}, now)"
        self.read_loaded = (
            f"(owner, _i, _k, _t, ...now) => [...vicuna.read(owner, {names}, now.slice(0, {len(settings)})), "
            f"...now.slice({len(settings)})]"
        )
        # The same for a new conversation, and for one that the list names.
        self.begin = "(owner, _i, _k, typed, ...now) => vicuna.begin(owner, typed, now)"
        self.open = f"(owner, _i, _k, _t, ...now) => vicuna.open(owner, {names}, now)"
        self.shown = "() => vicuna.shown()"
        self.keep = "(owner, kept, here, from) => vicuna.keep(owner, kept, here, from)"
        # (owner, what was read of a file) -> the visit, its update's, the text: kept before anything of it is shown
        self.keep_loaded = "(owner, loaded) => vicuna.keepLoaded(owner, loaded)"
        self.keep_typed = "(text) => vicuna.keepTyped(text)"
        self.keep_settings = f"(...now) => vicuna.keepSettings({names}, now)"
        # (id, form, kept, title, *settings) -> the same of the conversation that the list names, or of this one
        self.saving = f"(id, form, kept, _t, ...now) => vicuna.saving({names}, form, id, kept, now)"
        self.download = "(text, form) => vicuna.download(text, form)"
        self.pick = "() => vicuna.pick()"
        self.acted = "(_w, ...others) => [vicuna.acted(), ...others]"
        # A question that comes back stands before what is typed by now.
        self.returned = "(back, typed) => [back ? (typed ? `${back}\\n${typed}` : back) : typed, '']"
