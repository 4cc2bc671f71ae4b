"""tools/crawl_prompt.py against a server that answers as real ones do on bad days, and against our own API."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoints import Endpoint
from tests.served import Server, assistant_of, wait_for
from tests.starting import Started
from vicuna.crawling.prompts import TOPICS, request
from vicuna.data.records import read_records

ROOT = Path(__file__).resolve().parent.parent.parent
TOOL = "tools/crawl_prompt.py"
WORDS = "春夏秋冬山水云雨花鸟鱼虫琴棋书画诗酒茶月"


def record(number: int) -> dict[str, str]:
    """A record that is like no other."""
    word = WORDS[number % len(WORDS)]
    return {"instruction": f"{word * 6}{number}", "input": "", "output": f"关于{word}的回答。"}


@pytest.fixture
def endpoint():
    made = []

    def make(*answers: object) -> Endpoint:
        made.append(Endpoint(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def words(out: Path, endpoint: Endpoint, *more: object) -> list[str]:
    return [TOOL, str(out), "--base_url", endpoint.url, "--model", "m", "--jobs", "1", *map(str, more)]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def questions(file: Path) -> list[str]:
    return [one["instruction"] for one in lines(file)]


def test_a_bad_day_costs_no_record(program, endpoint, tmp_path):
    out = tmp_path / "new/records.jsonl"
    cut = json.dumps([record(2), record(3)], ensure_ascii=False)[:-20]
    near = {**record(0), "instruction": record(0)["instruction"] + "吗"}
    server = endpoint(
        [record(0), record(1)],
        (429, '{"error": {"message": "slow down"}}'),
        (500, "<html>oops</html>"),
        cut,
        "抱歉。",
        (200, "no JSON at all"),
        [record(1), near, record(4)],
        (200, '{"choices": []}'),
        {"records": [record(5)]},
    )
    done = program(*words(out, server, "--num_records", 5, "--price_prompt", 2, "--price_completion", 4))

    assert done.returncode == 0, done.stderr
    assert questions(out) == [record(number)["instruction"] for number in (0, 1, 2, 4, 5)]
    refused = lines(tmp_path / "new/records.refused.jsonl")
    assert [one["reason"] for one in refused] == [
        "cut off", "no JSON object", "a duplicate", "a near-duplicate", "an empty reply",
    ]  # fmt: skip
    assert "call 3 failed: " in done.stderr
    assert f"{out}: 5 records, 5 of them new" in done.stdout
    assert "asked    7 calls, 500 + 250 tokens, 1 replies without a count, cost 0.0020" in done.stdout
    checked = program("tools/check_data.py", out)
    assert checked.returncode == 0
    assert "duplicates  0" in checked.stdout
    assert len(read_records([str(out)], "instruct").dialogues) == 5


def test_a_killed_run_goes_on_without_losing_or_repeating(program, endpoint, tmp_path):
    out = tmp_path / "records.jsonl"
    server = endpoint([record(0), record(1)], [record(2)])
    command = [sys.executable, *words(out, server, "--num_records", 6)]
    with Started(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(server.asked) == 3 or process.poll() is not None)
        assert process.poll() is None
        process.kill()
    assert questions(out) == [record(number)["instruction"] for number in range(3)]
    with out.open("ab") as file:
        file.write('{"instruction": "没写完'.encode())
    server.released.set()
    again = endpoint([record(2), record(3)], [record(4), record(5), record(6)])
    done = program(*words(out, again, "--num_records", 6))

    assert done.returncode == 0, done.stderr
    assert f"line 4 of {out} was not written to its end, and is left out" in done.stderr
    assert questions(out) == [record(number)["instruction"] for number in range(7)]  # paid for is kept
    asked = [one["messages"][0]["content"] for one in server.asked[:2] + again.asked]
    assert len(set(asked)) == 4  # no call is repeated
    done = program(*words(out, again, "--num_records", 6))
    assert (done.returncode, len(again.asked)) == (0, 2)  # nothing is asked once there are enough
    assert f"{out}: 7 records, 0 of them new" in done.stdout
    checked = program("tools/check_data.py", out)
    assert (checked.returncode, "duplicates  0" in checked.stdout) == (0, True)


def test_several_calls_run_at_once(program, endpoint, tmp_path):
    out = tmp_path / "records.jsonl"
    server = endpoint()
    command = [sys.executable, *words(out, server, "--jobs", 3)]
    with Started(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(server.asked) == 3 or process.poll() is not None)
        assert process.poll() is None
        second = program(*words(out, server))
        process.terminate()
        stderr = process.communicate(timeout=60)[1]
    assert second.returncode == 1
    assert f"--output {out} is in use by process {process.pid}, which writes it" in second.stderr
    assert process.returncode == 143
    assert "Traceback" not in stderr


def test_a_server_that_never_answers_is_given_up(program, endpoint, tmp_path):
    server = endpoint()
    done = program(*words(tmp_path / "r.jsonl", server, "--timeout", 0.1, "--retries", 0))

    assert done.returncode == 1
    assert "5 calls in a row failed, the last with: Request timed out" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusal_ends_the_run_with_what_the_server_says(program, endpoint, tmp_path):
    server = endpoint((401, '{"error": {"message": "no such key"}}'))
    done = program(*words(tmp_path / "r.jsonl", server))

    assert done.returncode == 1
    assert f"{server.url} refuses the request: status 401, " in done.stderr
    assert "no such key" in done.stderr
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", ["mine", '{"question": "q"}\n', '{"instruction": "a"}\n', "[" * 3000])
def test_what_is_no_collection_stays_as_it_is(program, endpoint, tmp_path, content):
    out = tmp_path / "mine.jsonl"
    out.write_text(content, encoding="utf-8")
    server = endpoint()
    done = program(*words(out, server))

    assert done.returncode == 1
    assert f"{out}, line 1, is not of an earlier run" in done.stderr
    assert out.read_text(encoding="utf-8") == content
    assert server.asked == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--base_url", "example.com"], "--base_url example.com is no address"),
        (["--model", ""], "--model is missing"),
        (["--jobs", "0"], "--jobs 0 is too small"),
        (["--most_cost", "1"], "--most_cost 1 needs --price_prompt"),
        (["--base_url", "https://api.example.com/v1", "--key_variable", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["--topics", "no.txt"], "--topics no.txt does not exist"),
    ],
)
def test_mistakes_are_said_before_anything_is_asked(program, endpoint, tmp_path, more, said):
    server = endpoint()
    done = program(*words(tmp_path / "r.jsonl", server), *more)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert server.asked == []


def test_the_bounds_of_a_run_hold_and_the_key_is_sent_and_not_written(program, endpoint, tmp_path):
    out = tmp_path / "records.jsonl"
    server = endpoint(*[[record(number)] for number in range(5)])
    done = program(*words(out, server, "--most_calls", 2), env={"MY_KEY": "sk-1"}, warm=True)
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 2
    more = ["--price_prompt", 1e4, "--price_completion", 0, "--most_cost", 1.5, "--key_variable", "MY_KEY"]
    done = program(*words(out, server, *more), env={"MY_KEY": "sk-1"}, warm=True)
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 4  # each costs 1
    assert server.keys == ["Bearer none"] * 2 + ["Bearer sk-1"] * 2
    assert all("sk-1" not in file.read_text(encoding="utf-8") for file in tmp_path.iterdir())


def test_topics_are_drawn_by_seed_and_call(program, endpoint, tmp_path):
    (tmp_path / "topics.txt").write_text("天文\n\n农业\n", encoding="utf-8")
    server = endpoint([record(0)])
    done = program(*words(tmp_path / "r.jsonl", server, "--most_calls", 1, "--topics", "茶", tmp_path / "topics.txt"))

    assert done.returncode == 0, done.stderr
    assert server.asked[0]["messages"][0]["content"] == request(0, 42, 20, ["茶", "天文", "农业"])
    assert request(1, 42, 20, TOPICS) != request(0, 42, 20, TOPICS)
    assert len(set(TOPICS)) == len(TOPICS)


def test_our_own_api_is_asked_like_any_other(program, tiny_base, tmp_path):
    server = Server(assistant_of(tiny_base))
    more = ["--model", "tiny", "--most_calls", 1, "--max_tokens", 8, "--per_call", 1, "--topics", "茶"]
    argv = [TOOL, str(tmp_path / "r.jsonl"), "--base_url", f"http://{server.address}/v1", *map(str, more)]
    done = program(*argv)
    server.close()

    assert done.returncode == 1  # random weights write no JSON
    assert "asked    1 calls, " in done.stdout
    assert "without a count" not in done.stdout
    assert "no call brought a record that can be used" in done.stderr
