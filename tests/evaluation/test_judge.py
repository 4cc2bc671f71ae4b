"""tools/evaluate.py judge: pairs asked in both orders, what is read of the replies, and what they come to."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoints import Endpoint, completion
from tests.served import Server, assistant_of, wait_for
from vicuna.errors import UserError
from vicuna.evaluation.bootstrap import share_interval
from vicuna.evaluation.flags import OutputFlags
from vicuna.evaluation.judging import read_decision, request
from vicuna.evaluation.pairwise_judge import judge_answers
from vicuna.evaluation.score_flags import JudgeFlags

ROOT = Path(__file__).resolve().parent.parent.parent
QUESTION = {"instruction": "天空为什么是蓝的？", "input": "", "output": "散射。"}


@pytest.fixture
def endpoint():
    made = []

    def make(*answers, always=None):
        made.append(Endpoint(*answers, always=always))
        return made[-1]

    yield make
    for one in made:
        one.close()


def answers(file, said):
    rows = [{"row": n, "record": {**QUESTION, "input": str(n)}, "answer": one} for n, one in enumerate(said, 1)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def shown(body):
    """What the judge sees as the answers of A and of B."""
    text = body["messages"][0]["content"]
    return re.search(r"【A 的回答】\n(.*?)\n\n【B 的回答】\n(.*?)\n\n【你的判断】", text, re.DOTALL).groups()


def longer(body):
    """A judge without bias: the longer answer is the better one."""
    a, b = map(len, shown(body))
    return f"看长短。\n[[{'A' if a > b else 'B' if b > a else 'C'}]]"


def judge(tmp_path, server, first, second, **more):
    files = [answers(tmp_path / "a.jsonl", first), answers(tmp_path / "b.jsonl", second)]
    judge_answers(JudgeFlags(files, server.url, "m", **more), OutputFlags(str(tmp_path / "out")))
    return results(tmp_path)


def results(tmp_path):
    return json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))


def test_a_judge_without_bias_is_agreed_with_itself(endpoint, tmp_path, capsys):
    server = endpoint(always=longer)
    first, second = ["短"] * 9 + ["这里长得多", "一样", "同长"], ["长一些"] * 9 + ["短", "一样", "长同"]
    found = judge(tmp_path, server, first, second)

    assert (found["first"], found["ties"], found["second"], found["identical"]) == (1, 2, 9, 1)
    assert (found["agreeing"], found["both"], found["unreadable"]) == (11, 11, 0)
    assert (found["at_a"], found["decided"]) == (10, 20)
    assert len(server.asked) == 22  # nobody is asked about the same answer twice
    assert {(one["model"], one["temperature"]) for one in server.asked} == {("m", 0.0)}
    said = capsys.readouterr().out
    assert "b.jsonl is better: wins less losses +66.7 % of 12 questions" in said
    assert "biased" not in said
    assert said.strip() in (tmp_path / "out/results.md").read_text(encoding="utf-8")


def test_a_judge_that_prefers_the_first_place_decides_nothing_and_is_shown(endpoint, tmp_path, capsys):
    found = judge(tmp_path, endpoint(always=lambda body: "[[A]]"), ["甲"] * 8, ["乙"] * 8)

    assert (found["first"], found["ties"], found["second"], found["agreeing"]) == (0, 8, 0, 0)
    said = capsys.readouterr().out
    assert "The two orders agree on 0 of 8 (0 %)" in said
    assert "preferred in 16 of 16 (100 %) decisions for one, 95 % interval [81, 100] %: the judge is biased" in said
    assert "neither better nor worse" in said


def test_a_reply_without_a_decision_is_counted_and_never_guessed(endpoint, tmp_path, capsys):
    cut = (200, completion("先看 [[A]] 的", "length"))
    server = endpoint("[[A]]", "我觉得第一个好。", "[[A]] 还是 [[B]]？", "[[B]]", cut, "[[B]]", "[[B]]", "[[A]]")
    found = judge(tmp_path, server, list("一二三四"), list("五六七八"), jobs=1)

    assert (found["first"], found["second"], found["ties"]) == (0, 1, 0)
    assert (found["unreadable"], found["single"], found["both"]) == (3, 3, 1)
    assert "3 replies have no decision that can be read; 3 questions do not count for it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reply", "decision"),
    [
        ("理由。\n[[A]]", "A"),
        ("理由。\n结论：[[ B ]]。\n", "B"),
        ("[[C]]", "C"),
        ("[[A]] 更好，因为简洁。", "A"),
        ("[[A]] 表示 A 好，但是\n[[B]]", "B"),
        ("<think>[[A]]？不。</think>\n[[B]]", "B"),
        ("<think>[[A]] 也许", None),
        ("[[A]] 和 [[B]] 都好", None),
        ("[[A]]\n理由：[[B]] 太长，[[A]] 清楚。", None),
        ("A", None),
        ("[A]", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_what_is_read_of_a_reply(reply, decision):
    assert read_decision(reply) == decision
    assert read_decision(reply, is_whole=False) is None


def test_calls_that_fail_are_asked_again_by_the_same_command(endpoint, tmp_path, capsys):
    server = endpoint((500, "oops"), always=longer)
    with pytest.raises(UserError, match=r"1 calls failed, one with: status 500.* the same command asks them again"):
        judge(tmp_path, server, ["短", "短"], ["长的", "长的"], retries=0, jobs=1)
    assert results(tmp_path)["second"] == 1
    found = judge(tmp_path, server, ["短", "短"], ["长的", "长的"], retries=0, jobs=1)

    assert (found["second"], len(server.asked)) == (2, 5)
    judge(tmp_path, server, ["短", "短"], ["长的", "长的"])
    assert len(server.asked) == 5  # what was paid for is not asked again


def test_a_rate_limit_is_waited_for(endpoint, tmp_path):
    server = endpoint((429, '{"error": {"message": "slow down"}}'), always=longer)

    assert judge(tmp_path, server, ["短"], ["长的"])["second"] == 1
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [((401, '{"error": {"message": "no such key"}}'), "refuses the request: status 401"),
     ((503, "busy"), "5 calls in a row failed, the last with: status 503")],
)  # fmt: skip
def test_a_judge_that_can_not_be_asked_ends_the_run(endpoint, tmp_path, answer, said):
    with pytest.raises(UserError, match=said):
        judge(tmp_path, endpoint(always=lambda body: answer), list("一二三四"), list("五六七八"), retries=0)


def test_mistakes_are_said_before_anyone_is_asked(endpoint, tmp_path, monkeypatch):
    server = endpoint(always=longer)
    one = answers(tmp_path / "one.jsonl", ["甲"])
    (tmp_path / "other.jsonl").write_text('{"row": 1, "record": {"instruction": "别的"}, "answer": "乙"}\n', "utf-8")
    (tmp_path / "bare.jsonl").write_text('{"row": 1, "answer": "乙"}\n', "utf-8")
    out = OutputFlags(str(tmp_path / "out"))
    for second, said in (("other", "record 1 is another question"), ("bare", "does not say what was asked")):
        with pytest.raises(UserError, match=said):
            judge_answers(JudgeFlags([str(tmp_path / f"{second}.jsonl"), one], server.url, "m"), out)
    with pytest.raises(UserError, match=r"has 1 models, .*: expected two"):
        judge_answers(JudgeFlags([one], server.url, "m"), out)
    with pytest.raises(UserError, match="--model is missing"):
        JudgeFlags([one], server.url)
    with pytest.raises(UserError, match="is no address"):
        JudgeFlags([one], "example.com", "m")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    flags = JudgeFlags([one, answers(tmp_path / "two.jsonl", ["乙"])], "https://example.com/v1", "m")
    flags.key_variable = "NO_SUCH_KEY"
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        judge_answers(flags, out)
    assert server.asked == []
    assert not (tmp_path / "out").exists()


def test_a_later_turn_is_judged_with_what_each_model_has_said_before(endpoint, tmp_path):
    """In the rows of the kind answers, each model has its own answers before a follow-up."""
    server = endpoint(always=longer)
    rows = []
    for model, first, second in (("x", "甲一", "甲二"), ("y", "乙一", "乙二长")):
        for turn, answer in enumerate((first, second)):
            messages = [{"role": "user", "content": f"问{turn}"}]
            own = {"question": 1, "turn": turn, "messages": messages, "answer": answer}
            rows.append({"row": len(rows) + 1, "model": model, "record": 1 + turn, **own})
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judge_answers(JudgeFlags([str(folder)], server.url, "m", jobs=1), OutputFlags(str(tmp_path / "out")))

    assert [shown(one) for one in server.asked[::2]] == [
        ("甲一", "乙一"), ("助手: 甲一\n用户: 问1\n助手: 甲二", "助手: 乙一\n用户: 问1\n助手: 乙二长"),
    ]  # fmt: skip
    assert "【对话】\n用户: 问0\n\n【A" in server.asked[2]["messages"][0]["content"]
    found = results(tmp_path)
    assert (found["first_model"], found["second_model"], found["second"], found["ties"]) == ("x", "y", 1, 1)


def test_the_request_shows_the_dialogue_and_both_answers_in_the_order_asked_for():
    question = [{"role": "user", "content": "甲", "input": "乙"}, {"role": "assistant", "content": "丙"},
                {"role": "user", "content": "丁"}]  # fmt: skip
    first, second = (request(question, ("答一", " "), order, "zh") for order in (1, 2))

    assert "用户: 甲\n乙\n助手: 丙\n用户: 丁" in first
    assert first.index("答一") < first.index("（没有回答）")
    assert second.index("答一") > second.index("（没有回答）")
    assert "[Answer of A]\none" in request(question, ("one", "two"), 1, "en")


def test_the_interval_of_a_share_is_wilsons():
    assert share_interval(0, 0) == (0, 1)
    assert share_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927, as in textbooks


def test_our_own_api_can_be_the_judge(tiny_base, tmp_path):
    server = Server(assistant_of(tiny_base))
    try:
        files = [answers(tmp_path / "a.jsonl", ["甲"]), answers(tmp_path / "b.jsonl", ["乙"])]
        flags = JudgeFlags(files, f"http://{server.address}/v1", "tiny", max_tokens=4)
        judge_answers(flags, OutputFlags(str(tmp_path / "out")))
    finally:
        server.close()

    assert results(tmp_path)["unreadable"] == 2  # random weights decide nothing


def test_a_signal_ends_the_run_and_says_how_much_is_judged(endpoint, tmp_path):
    server = endpoint("[[A]]")  # nothing is answered after it
    files = [answers(tmp_path / "a.jsonl", list("一二")), answers(tmp_path / "b.jsonl", list("三四"))]
    words = ["judge", "--answers", *files, "--base_url", server.url, "--model", "m", "--jobs", "1"]
    command = [sys.executable, "tools/evaluate.py", *words, "--output_path", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(server.asked) == 2 or process.poll() is not None)
        process.terminate()
        stderr = process.communicate(timeout=60)[1]

    assert process.returncode == 143
    assert "stopped by SIGTERM: 1 of 4 replies of the judge are there in " in stderr
    assert "Traceback" not in stderr
