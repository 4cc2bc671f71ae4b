"""What both pages give the browser beside their parts: their look, and a script."""

# On a phone: question, answer, then the settings.
CSS = """
.prose hr { margin: var(--spacing-xl) 0; }
/* What has no effect as things stand; moving it gives it one. */
.inert { opacity: 0.5; }
/* The thinking before an answer. */
.prose details { color: var(--body-text-color-subdued); border-left: 2px solid var(--border-color-primary);
    padding-left: var(--spacing-md); margin-bottom: var(--spacing-md); }
.prose summary { cursor: pointer; }
@media (max-width: 640px) {
    #columns { flex-direction: column; }
    #columns > * { min-width: 100% !important; }
    #left { display: contents; }
    #ask { order: 1; } #right { order: 2; } #controls { order: 3; }
}
"""

# Puts a text into the clipboard: what a message was written as, where Gradio's own button copies what is shown.
COPY_TEXT = """(text) => {
    if (!text) return;
    if (navigator.clipboard) { navigator.clipboard.writeText(text); return; }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.prepend(area);
    area.select();
    document.execCommand("copy");
    area.remove();
}"""
