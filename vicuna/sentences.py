"""What a page or a chat in the terminal may say that is wrong, in English and in Chinese: one table of sentences.

Idea: a `Sentence` is its English text, and knows its key and its parts, so that whoever shows it can say the same in
the reader's language. A part may be a sentence itself.
"""

import errno
import os

LANGUAGES = ("en", "zh")

# key -> English, Chinese; the parts are named alike in both, and what only English can say is left out in Chinese.
SENTENCES: dict[str, tuple[str, str]] = {
    # --- answering
    "message_beyond_context": (
        "the message needs {tokens} tokens, the base's context is {context}: shorten it.",
        "这条消息需要 {tokens} 个词元，而基座模型的上下文只有 {context} 个：请缩短。",
    ),
    "message_beyond_memory": (
        "the message needs {tokens} tokens, Max Memory {memory} leaves it no room: raise Max Memory, or shorten it.",
        "这条消息需要 {tokens} 个词元，历史长度上限 {memory} 容不下它：请调高上限，或缩短消息。",
    ),
    "prompt_beyond_context": (
        "the prompt has {tokens} tokens, the base's context is {context}: shorten it.",
        "提示词有 {tokens} 个词元，而基座模型的上下文只有 {context} 个：请缩短。",
    ),
    "no_such_adapter": (
        "no adapter {name!r} is loaded; there is {names}.",
        "没有载入适配器 {name!r}；已有的是 {names}。",
    ),
    "none": ("none", "无"),
    "out_of_memory": (
        "out of memory while answering: lower Max New Tokens or the number of beams, or shorten the text.",
        "回复时内存不足：请调低最大生成长度或束数，或缩短文字。",
    ),
    "model_failed": (
        "the model failed while answering ({kind}: {reason}); the log has the details.",
        "模型回复时出错（{kind}）；详情见日志。",
    ),
    "queue_full": (
        "{waiting} requests are waiting already; try again in a little while.",
        "已有 {waiting} 个请求在等待；请稍后再试。",
    ),
    "place_lost": (
        "others wait too, and your requests had most places: try again later.",
        "还有别人在等，而你的请求占了最多的位置：请过一会儿再试。",
    ),
    "template_refuses": (
        "the chat template in {path} refuses the messages ({reason}).",
        "{path} 里的对话模板拒绝了这些消息（{reason}）。",
    ),
    "no_beams_in_llama_cpp": (
        "--num_beams {beams} is beam search, which llama.cpp does not have: take 1 with a GGUF.",
        "--num_beams {beams} 是束搜索，llama.cpp 没有：用 GGUF 时请取 1。",
    ),
    "trained_otherwise": (
        "the {what} in {name} was trained with --prompt_type {trained}; {prompt_type} gives worse answers.",
        "{name} 里的{what}是用 --prompt_type {trained} 训练的；用 {prompt_type} 效果会变差。",
    ),
    "adapter": ("adapter", "适配器"),
    "model": ("model", "模型"),
    # --- what is loaded
    "bits": ("{bits} bit", "{bits} 位"),
    "bits_as_stored": ("{bits} bit as stored", "按所存的 {bits} 位"),
    "on_device": ("{weights}, {dtype} · {device}", "{weights}，{dtype} · 在 {device} 上"),
    "gguf_in_transformers": (
        "GGUF dequantised, in transformers · {where}",
        "GGUF，反量化后由 transformers 运行 · {where}",
    ),
    "in_llama_cpp": (
        "{kind} · llama.cpp, {device}, {threads} threads",
        "{kind} · llama.cpp，{device}，{threads} 个线程",
    ),
    "layers_on_gpu": ("{on_gpu} of {layers} layers on GPU", "{layers} 层中有 {on_gpu} 层在 GPU 上"),
    "rank": ("r {rank}", "秩 {rank}"),
    "at_step": ("step {step}, {detail}", "第 {step} 步，{detail}"),
    "trained_at": ("{detail}, trained at {bits} bits", "{detail}，以 {bits} 位训练"),
    "rounded_worse": (
        "--bits 4: {count} of {all} weights are rounded up to {worst:.1f} times worse than 4 bits need, since "
        "bitsandbytes on a CPU reads rows of {rows} back wrongly. Take --bits 8, or a GPU.",
        "--bits 4：{all} 个权重里有 {count} 个的舍入误差最多达 4 位应有的 {worst:.1f} 倍，因为 bitsandbytes 在 CPU 上"
        "读回长为 {rows} 的行时会出错。请用 --bits 8 或 GPU。",
    ),
    "no_adapter_config": (
        "{folder} has no {file}: rank {rank} and modules {names} are read from its tensors, alpha {alpha} is assumed "
        "from {sample}/{file}. Put the right config beside it if alpha differs.",
        "{folder} 里没有 {file}：秩 {rank} 和模块 {names} 读自它的张量，alpha {alpha} 取自 {sample}/{file}。"
        "如果 alpha 不同，请把正确的配置放在旁边。",
    ),
    "used_as_plain": (
        "{folder} was begun with {kind}; it is used as the plain LoRA of rank {rank} that it equals",
        "{folder} 是以 {kind} 开始训练的；使用的是与它相等的、秩为 {rank} 的普通 LoRA",
    ),
    "base_alone_answers": (
        "no --lora_path is given: {base} alone answers",
        "没有写 --lora_path：只由 {base} 回答",
    ),
    "only_thought": (
        "the answer ended while it was thought about; --max_new_tokens allows more",
        "还在思考时回答就到头了；--max_new_tokens 可以放宽",
    ),
    # --- settings of a page
    "no_such_choice": (
        "there is no adapter {adapter!r} or no prompt type {prompt_type!r} here.",
        "这里没有适配器 {adapter!r}，或没有模板 {prompt_type!r}。",
    ),
    "bad_memory": (
        "Max Memory {value!r} is not possible: expected 0 to {most}.",
        "历史长度上限不能是 {value!r}：应为 0 到 {most}。",
    ),
    "bad_thinking": (
        "Thinking {value!r} is not possible: expected keep or empty, or nothing.",
        "“思考”不能是 {value!r}：应为 keep、empty 或不填。",
    ),
    "too_many_beams": (
        "{beams} beams are more than the {most} possible.",
        "{beams} 束太多了：最多 {most} 束。",
    ),
    "bad_number": (
        "{name} {value!r} is not possible: expected a number from {low}.",
        "{name} 不能是 {value!r}：应为不小于 {low} 的数。",
    ),
    "no_button": ("this is no request of a button at a message.", "这不是消息处按钮发出的请求。"),
    # --- conversations
    "no_list": (
        "a conversation is a list of messages, found {found}.",
        "对话应为一列消息，得到的却是 {found}。",
    ),
    "not_in_turns": (
        "a conversation is user, assistant, user, assistant, … behind at most one system message; found {roles}.",
        "对话应为 user、assistant、user、assistant……，前面最多一条 system；得到的是 {roles}。",
    ),
    "too_many_turns": (
        "{what} has {turns} turns, more than the {most} that a page holds; begin a new chat.",
        "{what}有 {turns} 轮，超过了页面所能容纳的 {most} 轮；请开始新对话。",
    ),
    "too_deep": (
        "the conversation has more than {most} ways within ways; begin a new chat.",
        "对话里的分支嵌套超过了 {most} 层；请开始新对话。",
    ),
    "too_large": (
        "the conversation is larger than {most} MB; save it and begin a new chat.",
        "对话大于 {most} MB；请保存后开始新对话。",
    ),
    "no_text": ("{what} is not a text: found {found}.", "{what}不是文字：得到的是 {found}。"),
    "no_unicode": (
        "{what} is not Unicode text: half of a surrogate pair at character {at}.",
        "{what}不是 Unicode 文字：第 {at} 个字符是半个代理对。",
    ),
    "no_message": (
        "message {n} is not one: expected an object with role system, user or assistant, and content.",
        "第 {n} 条不是消息：应为含有 role（system、user 或 assistant）和 content 的对象。",
    ),
    "no_count": (
        "message {n}: {name} is not a number from 1 to {most}.",
        "第 {n} 条消息：{name} 不是 1 到 {most} 的数。",
    ),
    "no_ways": (
        "the other ways of a conversation are not lists of messages.",
        "对话的其他分支不是消息的列表。",
    ),
    "no_way": (
        "another way of a conversation does not begin with a question.",
        "对话的某个分支不是以问题开头。",
    ),
    "damaged": (
        "what this browser kept of the conversation is damaged; begin a new chat.",
        "这个浏览器保存的对话已损坏；请开始新对话。",
    ),
    "the_conversation": ("the conversation", "对话"),
    "the_draft": ("the draft", "草稿"),
    "message_field": ("message {n}: {name}", "第 {n} 条消息的 {name} "),
    # --- saved conversations
    "file_too_large": (
        "the file is larger than {most} MB, the most that Load takes.",
        "文件大于 {most} MB，超过了载入的上限。",
    ),
    "file_empty": (
        "the file is empty: expected the JSON lines that Save writes.",
        "文件是空的：应为“保存”所写的 JSON 行。",
    ),
    "row_no_json": (
        "row {n} is not JSON ({reason}): expected the JSON lines that Save writes.",
        "第 {n} 行不是 JSON：应为“保存”所写的 JSON 行。",
    ),
    "row_no_chat": (
        "row {n} is no saved chat: expected an object whose history is a list.",
        "第 {n} 行不是保存的对话：应为 history 是列表的对象。",
    ),
    "row_no_turn": (
        "row {n}, turn {turn} is not an object with input and output.",
        "第 {n} 行第 {turn} 轮不是含有 input 和 output 的对象。",
    ),
    "row_no_ways": (
        "row {n}: the other ways of the conversation are not lists of turns.",
        "第 {n} 行：对话的其他分支不是轮次的列表。",
    ),
    "row": ("row {n}", "第 {n} 行"),
    "row_field": ("row {n}: {name}", "第 {n} 行的 {name} "),
    "turn_field": ("row {n}, turn {turn}: {name}", "第 {n} 行第 {turn} 轮的 {name} "),
    "saved_chats_full": (
        "the server keeps at most {most} MB of saved chats, and they are full; the download in your browser is "
        "complete.",
        "服务器最多保存 {most} MB 的对话，已经满了；浏览器下载的文件是完整的。",
    ),
    "not_written": (
        "the server could not write the saved chat ({reason}); the download in your browser is complete.",
        "服务器没能写下这个对话（{reason}）；浏览器下载的文件是完整的。",
    ),
    # --- what the system says
    "ENOENT": ("No such file or directory", "没有这个文件或文件夹"),
    "EACCES": ("Permission denied", "没有权限"),
    "EISDIR": ("Is a directory", "这是一个文件夹"),
    "ENOTDIR": ("Not a directory", "上级不是文件夹"),
    "EEXIST": ("File exists", "已有同名文件"),
    "ENOSPC": ("No space left on device", "磁盘已满"),
    "EROFS": ("Read-only file system", "文件系统是只读的"),
    # --- files of the terminal
    "loaded_too_large": (
        "{file} is larger than {most} MB, the most that is loaded.",
        "{file} 大于 {most} MB，超过了载入的上限。",
    ),
    "other_file": ("{file}: {reason}; name another file.", "{file}：{reason}；请换一个文件。"),
    "no_utf8": (
        "{file} is not UTF-8 text; name a file that /save wrote.",
        "{file} 不是 UTF-8 文字；请写出 /save 所写的文件。",
    ),
}


class Sentence(str):
    """A sentence of the table, as its English text."""

    key: str
    parts: dict[str, object]

    def __new__(cls, key: str, /, **parts: object) -> "Sentence":
        """Make it of its parts."""
        made = super().__new__(cls, SENTENCES[key][0].format(**parts))
        made.key, made.parts = key, parts
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, object]]:
        return (self.key,), self.parts

    def told(self, language: str) -> str:
        """The sentence in another language."""
        parts = {name: part.told(language) if isinstance(part, Sentence) else part for name, part in self.parts.items()}
        return SENTENCES[self.key][language.startswith("zh")].format(**parts)


def told(said: object, language: str) -> str:
    """A text, or what an error says, in a language as far as the table has it."""
    text = said.args[0] if isinstance(said, BaseException) and said.args else said
    return text.told(language) if isinstance(text, Sentence) else str(said)


def refusal(error: OSError) -> str:
    """What the system has against a file, as far as the table has it."""
    name = errno.errorcode.get(error.errno or 0, "")
    return Sentence(name) if name in SENTENCES else str(error.strerror)


def environment_language() -> str:
    """The language of the environment that a program runs in."""
    said = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return LANGUAGES[said.lower().startswith("zh")]
