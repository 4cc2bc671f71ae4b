// What both pages do in the browser: the names that Gradio itself gives to things, and what it says, in the reader's words.
(() => {
    const {language, gradio} = window.vicunaTable;
    document.documentElement.lang = language;
    const name = (text) => {
        for (const [pattern, own] of gradio) {
            const start = pattern.slice(0, -1);
            if (text === pattern) return own;
            if (pattern.endsWith("*") && text.startsWith(start)) return own.replace("*", () => text.slice(start.length));
        }
        return text;
    };
    const look = (element) => {
        for (const attribute of ["aria-label", "title"]) {
            const text = element.getAttribute(attribute);
            if (text !== null && name(text) !== text) element.setAttribute(attribute, name(text));
        }
    };
    const read = (node) => {
        if (node.nodeType === 3) {
            const own = name(node.data.trim());
            if (node.parentElement?.closest(".toast-wrap, .empty") && own !== node.data.trim()) node.data = own;
        } else if (node.nodeType === 1) {
            // Buttons that Gradio leaves without a name.
            for (const [button, own] of [[".submit-button", "Submit"], [".stop-button", "Stop"]])
                for (const one of node.parentElement?.querySelectorAll(`${button}:not([aria-label])`) ?? [])
                    one.setAttribute("aria-label", own);
            look(node);
            node.querySelectorAll("[aria-label], [title]").forEach(look);
            if (node.closest(".toast-wrap")) {
                const texts = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
                while (texts.nextNode()) read(texts.currentNode);
            }
        }
    };
    new MutationObserver((changes) => changes.forEach((change) => {
        if (change.type === "childList") change.addedNodes.forEach(read);
        else read(change.target);
    })).observe(document, {
        subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["aria-label", "title"],
    });
})();
