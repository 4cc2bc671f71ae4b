"""Both pages in headless Chromium, in Chinese: whatever they say, above all when things go wrong, is no English."""

import json

import pytest

from tests.pages.driven import (
    ENGLISH,
    as_file,
    choose,
    choose_preset,
    fill_system,
    load,
    next_frames,
    open_settings,
    send,
    set_new_tokens,
    set_slider,
    tool,
    wait_hint,
    wait_idle,
    wait_ready,
)

pytestmark = pytest.mark.browser

# Collects every text and every name that the page shows, but for what people and models wrote.
COLLECT = """
    window.said = new Set();
    const written = "#chat .message-content p:not(:has(small)), #output .md, #conversations .title, textarea, script, "
        + "style, svg";
    const names = ["aria-label", "title", "placeholder", "alt"];
    const take = (node) => {
        if (node.nodeType === 3) {
            if (!node.parentElement?.closest(written)) window.said.add(node.data.trim());
            return;
        }
        if (node.nodeType !== 1) return;
        for (const one of [node, ...node.querySelectorAll("*")])
            if (!one.closest("#conversations .title"))
                for (const name of names) window.said.add(one.getAttribute(name) ?? "");
        const texts = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) take(texts.currentNode);
    };
    // Once the frame is drawn: what is replaced before is seen by nobody.
    let waiting = [];
    new MutationObserver((changes) => {
        if (!waiting.length) requestAnimationFrame(() => setTimeout(() => {
            const now = waiting;
            waiting = [];
            now.filter((node) => node.isConnected).forEach(take);
        }));
        for (const change of changes)
            waiting.push(...(change.type === "childList" ? change.addedNodes : [change.target]));
    }).observe(document, {
        subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: names,
    });
"""
PROBLEMS = (
    "[]",
    '{"history": {}}',
    "nonsense",
    " ",
    '{"history": [{"input": 1}]}',
    as_file(("一", "二")) + "\n" + json.dumps({"history": [], "system": 3}),
)


def check_said(page) -> None:
    """What the page has said since it was opened, and the names of what is on it, hold no English sentence."""
    next_frames(page)
    said = {text for text in page.evaluate("[...window.said]") if text}
    assert len(said) > 40
    assert [text for text in said if ENGLISH.search(text)] == []
    names = page.evaluate(
        """[...document.querySelectorAll("button, input, textarea, [role=log]")].filter((one) => one.offsetParent)
            .map((one) => one.getAttribute("aria-label") || one.title || one.innerText || one.placeholder
                || one.labels?.[0]?.innerText || one.outerHTML.slice(0, 200))"""
    )
    assert [name for name in names if "<" in name or ENGLISH.search(name)] == []
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


def test_whatever_the_chinese_chat_page_says_is_no_english(visit, browser):
    context = browser.new_context(locale="zh-CN", viewport={"width": 1280, "height": 800})
    context.add_init_script(COLLECT)
    try:
        page = visit(context=context)
        send(page, "")
        wait_hint(page, "请先输入问题")
        page.click("#save")
        wait_hint(page, "还没有可保存的对话")
        for text in PROBLEMS:
            load(page, text)
            page.wait_for_function("document.querySelector('#hint')?.innerText.includes('⚠')")
            page.fill("#message textarea", "")
            send(page, "")
            wait_hint(page, "请先输入问题")
        send(page, "长" * 900)
        wait_hint(page, "而基座模型的上下文只有 512 个")
        wait_idle(page)
        page.fill("#message textarea", "")
        load(page, as_file(*((f"问题{i}" * 8, f"回答{i}" * 8) for i in range(12))))
        wait_hint(page, "已载入 12 轮")
        tool(page, "edit_answer", "bot", 1).click()
        wait_hint(page, "正在编辑第 2 个回复")
        page.click("#close")
        tool(page, "cut", "user", 1).click()
        page.click("#back")
        fill_system(page, "你是一位诗人。")
        open_settings(page)
        choose(page, "adapter", "B")
        page.wait_for_function("document.querySelector('#warning')?.innerText.includes('没有系统提示词的位置')")
        choose(page, "prompt_type", "chat")
        page.wait_for_function("document.querySelector('#warning')?.innerText.includes('instruct')")
        set_new_tokens(page, 300)
        send(page, "讲一个很长的故事。")
        page.wait_for_selector("#message .stop-button")
        page.press("#message textarea", "Escape")
        wait_idle(page)
        page.locator("#preset input[value=original]").click()
        page.wait_for_selector("#show_beam")
        page.locator("#conversations .delete").first.click()
        page.wait_for_selector("#deleted button")
        page.fill("#search", "没有")
        page.wait_for_function("document.querySelector('#found')?.innerText === '没有对话含有这段文字。'")
        context.set_offline(True)
        send(page, "断线了")
        page.wait_for_function("document.querySelector('.toast-wrap')?.innerText.trim()")
        next_frames(page)
        context.set_offline(False)
        check_said(page)
        page.reload()
        wait_ready(page)
    finally:
        context.close()


def wait_stats(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#stats')?.innerText.includes(text)", arg=text)


def test_whatever_the_chinese_page_for_single_questions_says_is_no_english(open_page):
    page = open_page("zh-CN", script=COLLECT)
    page.click("#generate")
    wait_stats(page, "请先输入问题")
    page.fill("#question textarea", "问" * 2000)
    page.press("#question textarea", "Enter")
    wait_stats(page, "而基座模型的上下文只有 512 个")
    for name in ("sent", "more"):
        page.locator(f"#{name} button").first.click()
    open_settings(page)
    for preset in ("beam", "creative", "original", "precise"):
        choose_preset(page, preset)
    set_slider(page, "temperature", 0)
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('温度为 0')")
    set_slider(page, "max_new_tokens", 300)
    set_slider(page, "min_new_tokens", 300)
    page.fill("#question textarea", "讲一个很长的故事。")
    page.press("#question textarea", "Enter")
    wait_stats(page, "首字")
    page.keyboard.press("Escape")
    wait_stats(page, "已由你停止")
    set_slider(page, "max_new_tokens", 4)
    set_slider(page, "min_new_tokens", 4)
    page.click("#generate")
    page.wait_for_selector("#continue")
    page.locator("#more button", has_text="季节").first.click()
    page.wait_for_function("document.querySelector('#question textarea')?.value.includes('季节')")
    page.context.set_offline(True)
    page.click("#generate")
    page.wait_for_function("document.querySelector('.toast-wrap')?.innerText.trim()")
    next_frames(page)
    page.context.set_offline(False)
    check_said(page)
    page.reload()
    page.wait_for_function("document.querySelector('#mode')?.innerText.includes('当前解码')")
    page.click("#logout")
    page.fill("input[name=username]", "anna")
    page.fill("input[type=password]", "falsch")
    page.press("input[type=password]", "Enter")
    page.get_by_role("alert").wait_for()
    assert not ENGLISH.search(page.inner_text("main"))
