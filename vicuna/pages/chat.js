// What the chat page does in the browser: the address, what this browser keeps and its list, buttons at messages.
//
// A conversation's id is in the page's address (`?c=…`), so that a reload finds it and a second tab has its own. Each is
// kept under a key of its own, so that two tabs never write over each other; nothing goes without a click.
window.vicuna = (() => {
    const {words, most, bytes} = window.vicunaTable, {panels, panel} = window.vicunaPage;
    const state = {owner: "", ready: false, wanted: null, pending: null, deleted: null};
    const find = (selector) => document.querySelector(selector);
    const press = (id) => find(`#${id}`)?.click();
    const type = () => find("#message textarea")?.focus();
    // Whoever goes by the keyboard is still where they were, once the buttons are drawn anew.
    const keepingFocus = (home, draw) => {
        const button = document.activeElement, {id} = button.closest("[data-id]")?.dataset ?? {};
        const isInside = home.contains(button), what = button.classList[0];
        draw();
        if (!isInside || home.contains(document.activeElement)) return;
        const same = [...home.querySelectorAll(`.${what}:enabled`)].find((one) => one.closest("[data-id]")?.dataset.id === id);
        (same ?? find("#deleted button") ?? find("#search"))?.focus();
    };

    // --- the address ---
    const hex = (byte) => byte.toString(16).padStart(2, "0");
    const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join("");
    const isId = (id) => /^[0-9a-f]{32}$/.test(id ?? "");
    const current = () => {
        const given = new URL(location).searchParams.get("c");
        return isId(given) ? given : null;
    };
    const go = (id) => {
        if (id === current()) return;
        state.ready = false;
        const url = new URL(location);
        url.searchParams.set("c", id);
        history.replaceState(null, "", url);
    };

    // --- what is kept ---
    const parsed = (text) => { try { return JSON.parse(text); } catch { return null; } };
    const prefixes = {kept: "chinese-vicuna/", typed: "chinese-vicuna-typed/", settings: "chinese-vicuna-settings/"};
    const key = (what, id) => `${prefixes[what]}${state.owner}/${id}`;
    const record = (id) => parsed(localStorage.getItem(key("kept", id)));
    const typed = (id) => localStorage.getItem(key("typed", id)) ?? "";
    const put = (name, text) => {
        if (!text) { localStorage.removeItem(name); return true; }
        try { localStorage.setItem(name, text); return true; } catch { return false; }
    };
    const change = (id, fields) => {
        const before = record(id) ?? {}, after = {...before, ...(state.pending?.id === id ? state.pending.fields : {}), ...fields};
        if (after.text !== before.text || !before.time) after.time = Date.now();
        const fits = put(key("kept", id), after.text ? JSON.stringify(after) : "");
        if (!fits) state.pending = {id, fields: after};
        else if (state.pending?.id === id) state.pending = null;
        refresh();
    };
    const ids = () => {
        const found = new Set();
        for (const start of [`${prefixes.kept}${state.owner}/`, `${prefixes.typed}${state.owner}/`])
            for (const name of Object.keys(localStorage))
                if (name.startsWith(start) && isId(name.slice(start.length))) found.add(name.slice(start.length));
        return [...found];
    };
    const talk = (text) => parsed(text) ?? {messages: [], draft: ""};
    const asked = (text) => (talk(text).messages ?? []).filter((one) => one.role === "user");
    const said = (messages) => (messages ?? []).flatMap((one) =>
        [one.content, ...(one.others ?? []).flatMap(said), ...(one.after ?? []).flatMap(said)]);
    const line = (text) => text.trim().split("\n")[0].slice(0, 80);
    const entry = (id) => {
        const kept = record(id) ?? {}, found = talk(kept.text);
        const texts = [...said(found.messages), ...(found.aside ?? []).flatMap(said), found.draft ?? "", typed(id)];
        const first = asked(kept.text)[0]?.content ?? texts.find((text) => text?.trim()) ?? "";
        return {id, kept: !!kept.text, time: kept.time ?? Date.now(), title: kept.title || line(first) || words.untitled, texts};
    };
    const entries = () => ids().map(entry).sort((a, b) => b.time - a.time);
    const settingsOf = (id) => {
        const kept = record(id);
        const system = talk(kept?.text).messages?.find((one) => one.role === "system")?.content ?? "";
        const own = kept?.settings ?? (kept ? {} : parsed(sessionStorage.getItem(key("settings", id))) ?? {});
        return kept ? {system, ...own} : own;
    };
    const settled = (id, names, values) => {
        const own = settingsOf(id);
        return values.map((value, i) => own[names[i]] ?? value);
    };

    // --- what Gradio's events call ---
    const read = (owner, names, values) => {
        state.owner = owner;
        const id = current() ?? fresh();
        go(id);
        return [owner, id, record(id)?.text ?? "", typed(id), ...settled(id, names, values)];
    };
    const begin = (owner, message, values) => {
        state.owner = owner;
        const isEmpty = current() && !record(current());
        if (!isEmpty) go(fresh());
        return [owner, current(), "", isEmpty ? message : "", ...values];
    };
    const open = (owner, names, values) => {
        if (isId(state.wanted)) go(state.wanted);
        state.wanted = null;
        return read(owner, names, values);
    };
    const keep = (owner, text, here, from) => {
        // What arrives late of another conversation is not kept.
        if (current() && here === from) change(current(), {text});
        refresh();
    };
    const keepLoaded = (owner, loaded) => {
        const {visit, text, settings} = JSON.parse(loaded);
        if (!current() || record(current())) go(fresh());
        change(current(), {text, settings});
        return [visit, visit, text];
    };
    const keepTyped = (text) => {
        if (!state.ready || text === typed(current())) return;
        put(key("typed", current()), text);
        refresh();
    };
    const keepSettings = (names, values) => {
        if (!state.ready) return;
        const settings = Object.fromEntries(names.map((name, i) => [name, values[i]]));
        try { sessionStorage.setItem(key("settings", current()), JSON.stringify(settings)); } catch {}
        const kept = record(current());
        if (kept && JSON.stringify(kept.settings) !== JSON.stringify(settings)) change(current(), {settings});
    };
    const shown = () => {
        state.ready = true;
        for (const id of ["settings", "system_prompt"]) {
            const head = find(`#${id} > button`);
            if (head && panels()[id] && !head.classList.contains("open")) head.click();
        }
        refresh();
    };
    const saving = (names, form, id, stored, values) => {
        const wanted = state.wanted;
        state.wanted = null;
        if (!isId(wanted)) return [id, form, stored, entry(id).title, ...values];
        return [wanted, form, record(wanted)?.text ?? "", entry(wanted).title, ...settled(wanted, names, values)];
    };
    const download = (text, form) => {
        if (!text) return;
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([text], {type: "text/plain"}));
        link.download = `chat-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${form}`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };
    const pick = async () => {
        const file = await new Promise((done) => {
            const input = document.createElement("input");
            input.type = "file";
            input.accept = ".jsonl,.json,.txt";
            input.onchange = () => done(input.files[0]);
            input.oncancel = () => done(null);
            input.click();
        });
        return file ? await file.slice(0, bytes + 1).text() : "";
    };

    // --- the list ---
    const make = (tag, attributes, ...children) => {
        const made = Object.assign(document.createElement(tag), attributes);
        made.append(...children);
        return made;
    };
    const button = (name, label, onclick) => {
        const made = make("button", {type: "button", className: name, title: label, onclick}, {
            rename: "✎", export: "⤓", delete: "✕", edit: "✎", edit_answer: "✎", cut: "⌫", before: "‹", next: "›",
        }[name] ?? label);
        made.setAttribute("aria-label", label);
        return made;
    };
    const said_of = (text, parts) => text.replace(/\{(\w+)\}/g, (_, name) => parts[name]);
    const visit = (id) => { state.wanted = id; press("open"); };
    const send_out = (id) => { state.wanted = id; press("export"); };
    const remove = (id) => {
        state.deleted = {id, title: entry(id).title, kept: localStorage.getItem(key("kept", id)), typed: typed(id)};
        put(key("kept", id), "");
        put(key("typed", id), "");
        if (state.pending && state.pending.id !== id) change(state.pending.id, {});
        if (id === current()) visit(fresh());
        refresh();
    };
    const bring_back = () => {
        const {id, kept, typed} = state.deleted;
        state.deleted = null;
        put(key("kept", id), kept);
        put(key("typed", id), typed);
        if (!record(current()) && !find("#message textarea")?.value) visit(id);
        refresh();
    };
    const rename = (item, one) => {
        const input = make("input", {type: "text", value: one.title, className: "title"});
        input.setAttribute("aria-label", words.rename);
        let done = false;
        const end = (title) => {
            if (done) return;
            done = true;
            if (title !== null && record(one.id)) change(one.id, {title: title.trim()});
            list(true);
        };
        input.onkeydown = (event) => {
            event.stopPropagation();
            if (event.key === "Enter") { event.preventDefault(); end(input.value); }  // else it presses what has the focus then
            if (event.key === "Escape") end(null);
        };
        input.onblur = () => end(input.value);
        item.replaceChildren(input);
        input.select();
        input.focus();
    };
    const list = (anew = false) => {
        const home = find("#conversations");
        if (!home || (!anew && home.querySelector("input.title"))) return;
        const search = find("#search").value.trim().toLowerCase();
        const all = entries();
        const found = search ? all.filter((one) => [one.title, ...one.texts].some((text) => text?.toLowerCase().includes(search))) : all;
        const items = found.map((one) => {
            const item = make("li", {});
            item.dataset.id = one.id;
            const title = make("button", {type: "button", className: "title", onclick: () => visit(one.id), title: one.title}, one.title);
            if (one.id === current()) { item.className = "current"; title.setAttribute("aria-current", "true"); }
            item.append(title, button("rename", words.rename, () => rename(item, one)));
            if (one.kept) item.append(button("export", words.export, () => send_out(one.id)));
            item.append(button("delete", words.delete_chat, () => remove(one.id)));
            return item;
        });
        const bar = find("#deleted");
        keepingFocus(find("#history"), () => {
            home.replaceChildren(...items);
            bar.replaceChildren(...(state.deleted
                ? [make("span", {}, said_of(words.deleted, state.deleted)), button("undo_delete", words.undo_delete, bring_back)] : []));
        });
        find("#found").textContent = found.length ? "" : search ? words.none_found : words.none_kept;
        find("#search").placeholder = words.search;
        find("#search").setAttribute("aria-label", words.search);
        find("#show_history").title = words.show_history;
        find("#show_history").setAttribute("aria-label", words.show_history);
        limit(all.filter((one) => one.kept));
    };
    const limit = (all) => {
        const bar = find("#limit"), others = all.filter((one) => one.id !== current());
        const oldest = others.at(-1), full = state.pending;
        if (!bar) return;
        keepingFocus(bar, () => bar.replaceChildren(...(!oldest || (!full && others.length < most) ? [] : [
            make("span", {}, said_of(full ? words.no_room : words.limit, {most, title: oldest.title})),
            button("export_oldest", words.export, () => send_out(oldest.id)),
            button("remove_oldest", words.delete_chat, () => remove(oldest.id))])));
    };

    // --- buttons at messages ---
    const act = (what, turn, by = 0) => {
        state.wanted = JSON.stringify({what, turn, by});
        press("act");
        if (what !== "step") type();
    };
    const acted = () => { const wanted = state.wanted; state.wanted = null; return wanted ?? ""; };
    let read_last = {};
    const tools = () => {
        const text = find("#kept textarea")?.value;
        if (read_last.text !== text) read_last = {text, turns: asked(text)};
        const {turns} = read_last;
        const rows = [...document.querySelectorAll("#chat .message-row")].filter((row) => !row.querySelector(".thought-group"));
        rows.forEach((row, i) => {
            const home = row.nextElementSibling, turn = i >> 1, asking = turns[turn], isAnswer = i % 2;
            if (!home?.classList.contains("message-buttons")) return;
            const ways = (asking?.others?.length ?? 0) + 1, place = Math.min(asking?.place ?? 0, ways - 1);
            const sign = asking ? `${turn} ${isAnswer} ${ways} ${place}` : "";
            const old = home.querySelector(".turn-tools");
            if ((old?.dataset.sign ?? "") === sign) return;
            const held = old?.contains(document.activeElement) && document.activeElement.className;
            old?.remove();
            if (!sign) return;
            const made = make("div", {className: "turn-tools"});
            made.dataset.sign = sign;
            if (!isAnswer && ways > 1) {
                const before = button("before", words.way_before, () => act("step", turn, -1));
                const next = button("next", words.way_next, () => act("step", turn, 1));
                [before.disabled, next.disabled] = [place === 0, place === ways - 1];
                made.append(before, make("span", {className: "ways"}, `${place + 1}/${ways}`), next);
            }
            made.append(isAnswer ? button("edit_answer", words.edit_answer, () => act("edit_answer", turn))
                : button("edit", words.edit, () => act("edit", turn)));
            if (!isAnswer) made.append(button("cut", words.delete, () => act("delete", turn)));
            home.append(made);
            if (held) (made.querySelector(`.${held}:enabled`) ?? made.querySelector("button:enabled"))?.focus();
        });
    };

    // --- what happens ---
    // The list reads everything that is kept: not with every piece of an answer that grows.
    const waiting = new Set();
    const soon = (...what) => {
        if (!waiting.size) requestAnimationFrame(() => {
            const now = [...waiting];
            waiting.clear();
            now.forEach((one) => one());
        });
        what.forEach((one) => waiting.add(one));
    };
    const redraw = () => list();
    const refresh = () => soon(redraw, tools);
    document.addEventListener("input", (event) => { if (event.target.id === "search") list(true); });
    document.addEventListener("click", (event) => {
        const head = event.target.closest?.("#settings > button, #system_prompt > button");
        if (head && event.isTrusted) panel(head.parentElement.id, !head.classList.contains("open"));
        // What is pressed with a key and is gone then leaves the focus where one goes on.
        const byKey = event.isTrusted && event.detail === 0;
        if (byKey && event.target.closest?.("#new, #close, #back, #message .stop-button, .example")) type();
    }, true);
    // Another tab of the same conversation has gone on with it: this one shows that, so that neither loses the other's.
    addEventListener("storage", (event) => {
        const isMine = current() && event.key === key("kept", current()) && event.newValue;
        if (isMine && parsed(event.newValue)?.text !== find("#kept textarea")?.value && !find("#message .stop-button")) visit(current());
        refresh();
    });
    new MutationObserver((changes) => {
        if (changes.some((change) => change.target.closest?.("#chat"))) soon(tools);
    }).observe(document, {subtree: true, childList: true});

    return {read, begin, open, keep, keepLoaded, keepTyped, keepSettings, shown, saving, download, pick, acted};
})();
