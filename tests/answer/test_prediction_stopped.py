"""Files of questions whose run is stopped in the middle: what stands stays, and the same command does the rest."""

import signal
import time

import pytest

from tests.answer.predicting import COUNT, lines_of, predict, questions, started, words
from vicuna.answer.prediction import make_batches
from vicuna.data.questions import Question

DRAWN = ["--preset", "balanced", "--seed", "5"]
DONE = 8  # two batches of four


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return questions(tmp_path_factory.mktemp("questions") / "q.jsonl")


@pytest.fixture(scope="module")
def straight(tiny_base, asked, tmp_path_factory) -> bytes:
    """What a run writes that nobody stops."""
    output = tmp_path_factory.mktemp("straight") / "a.jsonl"
    assert len(predict(tiny_base, asked, output, preset="balanced", seed=5)) == COUNT
    return output.read_bytes()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_run_with_what_is_answered_and_the_same_command_goes_on(
    program, tiny_base, asked, straight, tmp_path, name
):
    output = tmp_path / "a.jsonl"
    argv = words(tiny_base, asked, output, *DRAWN)
    with started(name, argv) as process:
        said = process.communicate()[1]
    reason = "stopped by Ctrl-C" if name == "SIGINT" else f"stopped by {name}"
    assert process.returncode == 128 + getattr(signal, name)
    assert f"{reason}: {DONE} of {COUNT} records are answered in {output}; the same command goes on" in said
    assert "Traceback" not in said
    assert set(output.read_bytes().splitlines()) < set(straight.splitlines())
    assert len(lines_of(output)) == DONE

    again = program(*argv)
    assert again.returncode == 0, again.stderr
    assert f"{COUNT} records to answer in {asked}, {DONE} of them answered already" in again.stderr
    assert output.read_bytes() == straight
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.run_args.json"]


def test_a_killed_run_goes_on_also_from_within_a_batch_and_a_line(program, tiny_base, asked, straight, tmp_path):
    output = tmp_path / "a.jsonl"
    argv = words(tiny_base, asked, output, *DRAWN)
    with started("SIGKILL", argv) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = output.read_bytes()
    assert killed.count(b"\n") == DONE

    for kept in (len(killed), len(killed) - 1, len(killed) - 30, killed.index(b"\n") + 20):
        output.write_bytes(killed[:kept])
        again = program(*argv)
        assert again.returncode == 0, again.stderr
        assert output.read_bytes() == straight


def test_one_process_at_a_time_answers_into_a_file_and_a_killed_one_holds_nothing(
    program, tiny_base, asked, straight, tmp_path
):
    output = tmp_path / "a.jsonl"
    argv = words(tiny_base, asked, output, *DRAWN)
    with started("wait", argv) as process:
        while not (output.is_file() and output.read_bytes().count(b"\n") == DONE):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        before = output.read_bytes()
        second = program(*argv)
        assert second.returncode == 1
        assert f"--output_path {output} is in use by process {process.pid}, which writes it: wait" in second.stderr
        assert output.read_bytes() == before
        process.kill()
        process.communicate()
    again = program(*argv)
    assert again.returncode == 0, again.stderr
    assert output.read_bytes() == straight


def test_batches_are_of_similar_lengths_the_longest_first():
    asked = [Question(row, 0, row, {}, [], None) for row in range(1, 8)]
    batches = make_batches(asked, [5, 90, 5, 7, 90, 1, 30], 3)
    assert [[one.row for one in batch] for batch in batches] == [[2, 5, 7], [4, 1, 3], [6]]
