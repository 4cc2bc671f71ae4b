"""What a model is asked for: varied instructions on some topics and of some kinds, as JSON records."""

import random
from collections.abc import Sequence

TOPICS = (
    "天气与气候", "家常菜", "茶与咖啡", "节日习俗", "唐诗宋词", "成语故事", "古代历史", "近现代史",
    "世界地理", "中国地理", "旅行计划", "城市交通", "家居收纳", "植物养护", "宠物照料", "健康饮食",
    "运动健身", "睡眠", "心理调节", "急救常识", "育儿", "小学数学", "中学物理", "化学实验安全",
    "生物与进化", "天文", "环境保护", "能源", "计算机基础", "Python 编程", "数据库", "网络安全常识",
    "人工智能", "办公软件", "求职简历", "职场沟通", "商业邮件", "市场营销", "个人理财", "保险常识",
    "合同与租房", "消费者权益", "劳动法常识", "新闻写作", "小说构思", "歌词", "电影赏析", "绘画与设计",
    "音乐入门", "摄影", "外语学习", "翻译", "逻辑谜题", "棋牌规则", "体育赛事", "农业",
    "机械维修", "建筑", "公益活动", "哲学问题",
)  # fmt: skip
KINDS = (
    "开放式问答", "有材料的问答", "摘要", "改写", "续写", "分类", "信息抽取", "翻译",
    "对比分析", "步骤说明", "头脑风暴", "角色扮演", "代码编写或解释", "纠错", "数学应用题", "写信或写文案",
)  # fmt: skip
CHOSEN = 10  # topics, and kinds, of one request
REQUEST = """请编写 {count} 条用于训练中文助手的指令数据。

要求：
1. 主题从这些里选，尽量分散：{topics}。
2. 任务类型从这些里选，尽量不重复：{kinds}。
3. 指令的措辞要多样：有的是问句，有的是祈使句，长短不一；不要编号，不要互相改写。
4. 只写仅凭文字就能完成的任务：不要求看图、听音频、上网或执行操作。
5. 除非任务本身需要别的语言，一律用简体中文。
6. 需要材料的任务把真实、具体的材料写进 input，不超过 {most_input} 个字；不需要时 input 为空字符串。不要写占位符或网址。
7. output 是完整、正确、可以直接使用的回答，不超过 {most_output} 个字。

只输出一个 JSON 数组，不要任何解释。数组的每个元素都有且只有三个字符串字段：
[{{"instruction": "……", "input": "……", "output": "……"}}]"""


def request(number: int, seed: int, count: int, topics: Sequence[str]) -> str:
    """The text of a call.

    Args:
        number: of the call, which with the seed decides what is drawn: the same call is asked the same again.
        count: records to ask for.
        topics: to draw from.
    """
    draw = random.Random(f"{seed} {number}")
    return REQUEST.format(
        count=count,
        topics="、".join(draw.sample(list(topics), min(CHOSEN, len(topics)))),
        kinds="、".join(draw.sample(KINDS, CHOSEN)),
        most_input=draw.randrange(80, 121),
        most_output=draw.randrange(128, 513),
    )
