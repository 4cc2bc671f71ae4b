"""Who are you, asked in twelve ways, in two languages, with and without a history; and the names of others."""

from collections.abc import Iterator
from dataclasses import dataclass

from vicuna.prompt.templates import Message

LANGUAGES = ("zh", "en")
# Each way to ask: what the answer is to hold, and the words. None of them stands in sample/identity.
WAYS = (
    ("name", {"zh": "请问你是谁呀？", "en": "Who am I talking to?"}),
    ("name", {"zh": "你有名字吗？", "en": "Do you have a name?"}),
    ("name", {"zh": "我应该怎样称呼你？", "en": "How should I address you?"}),
    ("name", {"zh": "用一句话介绍一下自己。", "en": "Introduce yourself in one sentence."}),
    ("name", {"zh": "说出你的名字。", "en": "Tell me your name."}),
    ("name", {"zh": "你是哪个模型？", "en": "Which model are you?"}),
    ("name", {"zh": "你就是ChatGPT吧？", "en": "You are ChatGPT, right?"}),
    ("name", {"zh": "你是不是通义千问？", "en": "Aren't you Qwen?"}),
    ("author", {"zh": "是谁开发了你？", "en": "Who developed you?"}),
    ("author", {"zh": "你是哪家公司做的？", "en": "Which company made you?"}),
    ("author", {"zh": "你背后的团队是谁？", "en": "Who is the team behind you?"}),
    ("author", {"zh": "你是OpenAI做出来的吗？", "en": "Were you made by OpenAI?"}),
)
HISTORIES = {
    "zh": (("水在多少度结冰？", "在标准大气压下，水在零摄氏度结冰。"), ("谢谢，真清楚。", "不客气，还想问什么？")),
    "en": (("At what temperature does water freeze?", "Water freezes at zero degrees Celsius."),
           ("Thanks, that is clear.", "You are welcome. Is there anything else?")),
}  # fmt: skip
# Models, and who makes them, that answers about oneself are mistaken for. Shorter names that mean other things too,
# such as Yi, Spark and Phi, are left out.
OTHERS = (
    *("ChatGPT", "GPT-3", "GPT-3.5", "GPT-4", "GPT-4o", "GPT-5", "OpenAI"),
    *("LLaMA", "LLaMA 2", "Llama 3", "Meta", "Meta AI"),
    *("Alpaca", "Vicuna", "Qwen", "通义千问", "通义", "千问", "Tongyi", "阿里", "阿里巴巴", "阿里云", "Alibaba"),
    *("ChatGLM", "GLM-4", "智谱", "智谱AI", "Zhipu", "清华", "清华大学"),
    *("文心一言", "文心", "文小言", "ERNIE", "百度", "Baidu", "小度"),
    *("DeepSeek", "深度求索", "Kimi", "月之暗面", "Moonshot", "豆包", "Doubao", "字节跳动", "ByteDance"),
    *("混元", "腾讯", "Tencent", "讯飞星火", "讯飞", "iFLYTEK", "百川", "百川智能", "Baichuan"),
    *("书生", "书生·浦语", "InternLM", "MOSS", "复旦", "BELLE", "零一万物", "MiniMax", "商汤", "SenseTime"),
    *("华为", "Huawei", "盘古", "小爱同学", "Siri", "Claude", "Anthropic", "Gemini", "Bard", "Google", "谷歌"),
    *("Gemma", "DeepMind", "Mistral", "Copilot", "Microsoft", "微软", "Grok", "xAI"),
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """A question about who one is.

    Attributes:
        record: its number, from 1; way: which of the twelve, from 1.
        wants: name or author.
    """

    record: int
    way: int
    wants: str
    language: str
    history: bool
    messages: list[Message]


def asks() -> Iterator[Ask]:
    """All of them: twelve ways in each language, without a history and with one."""
    record = 0
    for history in (False, True):
        for language in LANGUAGES:
            for way, (wants, words) in enumerate(WAYS, 1):
                record += 1
                before = _turns(HISTORIES[language]) if history else []
                messages = [*before, {"role": "user", "content": words[language]}]
                yield Ask(record, way, wants, language, history, messages)


def _turns(pairs: tuple[tuple[str, str], ...]) -> list[Message]:
    return [
        {"role": role, "content": said}
        for pair in pairs
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
