// What both pages do in the browser: what Gradio itself says and names, in the reader's words; light and dark; panels.
window.vicunaPage = (() => {
    const {language, gradio} = window.vicunaTable;
    const parsed = (text) => { try { return JSON.parse(text); } catch { return null; } };

    // --- words ---
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
    // What Gradio leaves unsaid of its parts: the names of buttons, that a line says what has happened, and that the
    // buttons of a list are no list items.
    const roles = [["#hint, #warning", "status"], ["#chat .examples", "group"]];
    const mend = (home) => {
        for (const [selector, role] of roles)
            for (const one of home.querySelectorAll(selector)) one.setAttribute("role", role);
        if (home.querySelector("#show_controls, #show_history")) place();
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
            mend(node.parentElement ?? node);
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

    // --- light and dark: as the system has it, until another is chosen here ---
    const THEME = "chinese-vicuna-theme", system = matchMedia("(prefers-color-scheme: dark)");
    const stored = () => { try { return localStorage.getItem(THEME); } catch { return null; } };
    let chosen = stored();
    const paint = () => { if (chosen) document.body.classList.toggle("dark", chosen === "dark"); };
    const switchTheme = () => {
        const isDark = !document.body.classList.contains("dark");
        document.body.classList.toggle("dark", isDark);
        chosen = isDark === system.matches ? null : isDark ? "dark" : "light";
        try { chosen ? localStorage.setItem(THEME, chosen) : localStorage.removeItem(THEME); } catch {}
    };
    // Gradio follows the system at its start, and whenever that changes.
    const follow = () => {
        paint();
        new MutationObserver(paint).observe(document.body, {attributes: true, attributeFilter: ["class"]});
    };
    if (document.body) follow();
    else document.addEventListener("DOMContentLoaded", follow);

    // --- panels ---
    const panels = () => {
        const wide = matchMedia("(min-width: 1000px)").matches, medium = matchMedia("(min-width: 641px)").matches;
        let kept = null;
        try { kept = parsed((medium ? localStorage : sessionStorage).getItem("chinese-vicuna-panels")); } catch {}
        return {history: wide, controls: medium, settings: false, system_prompt: false, ...kept};
    };
    const place = () => {
        for (const name of ["history", "controls"]) {
            document.documentElement.dataset[name] = panels()[name] ? "open" : "closed";
            document.querySelector(`#show_${name}`)?.setAttribute("aria-expanded", panels()[name]);
        }
    };
    const panel = (name, open = !panels()[name]) => {
        const narrow = matchMedia("(max-width: 640px)").matches;
        const other = {history: "controls", controls: "history"}[name];
        const all = {...panels(), [name]: open, ...(narrow && open && other ? {[other]: false} : {})};
        try { (narrow ? sessionStorage : localStorage).setItem("chinese-vicuna-panels", JSON.stringify(all)); } catch {}
        place();
    };
    place();
    addEventListener("resize", place);

    document.addEventListener("keydown", (event) => {
        if (event.key === "Escape") document.querySelector("#message .stop-button, #stop")?.click();
    });
    return {panels, panel, switchTheme};
})();
