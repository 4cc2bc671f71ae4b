"""Every word of the chat in the terminal, in English and Chinese."""

STRINGS = {
    "en": {
        "start": "/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.",
        "help": """\
/new              forget the conversation; the system prompt stays
/undo             take the last question back, with its answer
/regenerate       answer the last question again
/system TEXT      begin every prompt with TEXT; without TEXT, as the adapter was trained
/adapter NAME     answer with another adapter, or with the base alone; without NAME, list them
/save FILE        add the conversation to FILE as a line of JSON
/load FILE        go on with the last conversation in FILE
/help             this list
/quit, /exit      leave
//…               send a line that begins with /
\"\"\"               begins and ends a message of several lines""",
        "unknown": "{command} is no command; /help lists them, and // sends a line that begins with /.",
        "again": "Ctrl-C once more leaves.",
        "new": "a new conversation",
        "undone": "taken back: {question}",
        "nothing": "there is nothing to {command} yet",
        "system": "the system prompt is set",
        "no_system": "no system prompt of your own",
        "no_place": "prompt type {prompt_type} has no place for a system prompt; it needs chat or chat_eos",
        "no_adapter": "there is no adapter {name!r}; there are: {names}",
        "saved": "added to {file}",
        "loaded": "{turns} turns loaded",
        "which_file": "name a file: {command} FILE",
        "forgotten": "{count} earlier turns no longer fit and are left out",
        "lowered": "the context leaves {count} tokens for the answer",
        "length": "cut at {count} tokens; --max_new_tokens allows more",
        "stopped": "stopped",
        "empty": "the answer is empty",
        "cut": "the last character was incomplete and is left out",
        "beam": "beam {n} ({score:.2f}): {text}",
        "thinking": "thinking",
        "single_questions": "{name} was trained on single questions: each does better alone, after /new",
    },
    "zh": {
        "start": "/help 列出命令；Ctrl-C 停止回答，Ctrl-D 退出。",
        "help": """\
/new              忘掉对话；系统提示词保留
/undo             撤回上一个问题及其回答
/regenerate       重新回答上一个问题
/system 文字      每个提示词以此开头；不写文字则与训练时相同
/adapter 名称     换用另一个适配器，或只用基座模型；不写名称则列出全部
/save 文件        把对话作为一行 JSON 加到文件末尾
/load 文件        继续文件中最后一段对话
/help             本列表
/quit, /exit      退出
//…               发送以 / 开头的一行
\"\"\"               多行消息的开始与结束""",
        "unknown": "没有命令 {command}；/help 列出命令，// 用来发送以 / 开头的一行。",
        "again": "再按一次 Ctrl-C 退出。",
        "new": "新的对话",
        "undone": "已撤回：{question}",
        "nothing": "还没有可以 {command} 的内容",
        "system": "已设置系统提示词",
        "no_system": "没有自定的系统提示词",
        "no_place": "提示词类型 {prompt_type} 没有系统提示词的位置；需要 chat 或 chat_eos",
        "no_adapter": "没有适配器 {name!r}；可用的有：{names}",
        "saved": "已加到 {file}",
        "loaded": "已载入 {turns} 轮",
        "which_file": "请写出文件名：{command} 文件",
        "forgotten": "较早的 {count} 轮放不下，已略去",
        "lowered": "上下文只给回答留下 {count} 个词元",
        "length": "到 {count} 个词元处截断；--max_new_tokens 可以放宽",
        "stopped": "已停止",
        "empty": "回答为空",
        "cut": "最后一个字不完整，未显示",
        "beam": "第 {n} 束（{score:.2f}）：{text}",
        "thinking": "思考",
        "single_questions": "{name} 是用单个问题训练的：先输入 /new 再单独提问，效果更好",
    },
}
