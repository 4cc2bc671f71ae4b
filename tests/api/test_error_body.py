"""Errors name fields of requests; the flag that would help stands in the server's log."""

import re
from pathlib import Path

import pytest
from openai import BadRequestError

from tests.api.questions import GREEDY, HELLO
from tests.served import Server
from vicuna.answer.flags import ChatFlags
from vicuna.api.error_body import FOR_PROGRAMS, said_to_programs
from vicuna.errors import UserError
from vicuna.sentences import SENTENCES, Sentence

ROOT = Path(__file__).resolve().parents[2]
NOT_OF_REQUESTS = re.compile(r"--[a-z]|\bMax [A-Z]")  # flags, and what stands on a page
# Checked as fields of a request first; said when a server is started.
NEVER_REACHED = {"no_beams_in_llama_cpp", "trained_otherwise"}


@pytest.fixture
def logged(caplog, monkeypatch):
    """What the server's log says, whether it is shown or not."""
    monkeypatch.setattr("vicuna.log.log.propagate", True)
    caplog.set_level("INFO", "vicuna")
    return caplog


def test_no_sentence_about_an_answer_names_a_flag_or_a_control_to_programs():
    files = [*(ROOT / "vicuna/answer").glob("*.py"), *(ROOT / "vicuna/prompt").glob("*.py")]
    keys = {key for file in files for key in re.findall(r'Sentence\(\s*"(\w+)"', file.read_text(encoding="utf-8"))}
    naming = {key for key in keys if NOT_OF_REQUESTS.search(SENTENCES[key][0])}

    assert naming - NEVER_REACHED == set(FOR_PROGRAMS)
    assert not [body for body, _ in FOR_PROGRAMS.values() if NOT_OF_REQUESTS.search(body)]


def test_no_module_of_the_api_writes_a_flag_into_a_body():
    for file in (ROOT / "vicuna/api").glob("*.py"):
        calls = re.findall(r"APIError\([^)]*\)|message = [^\n]*", file.read_text(encoding="utf-8"))
        assert not [call for call in calls if re.search(r"--[a-z]", call)], file


def test_memory_is_told_in_words_of_requests_and_the_flag_is_logged(assistant, logged):
    server = Server(assistant, ChatFlags(api=True, max_memory=20))
    with pytest.raises(BadRequestError) as error:
        server.client().chat.completions.create(model="talks", messages=HELLO, **GREEDY)
    server.close()

    assert error.value.code == "context_length_exceeded"
    assert "this server takes 20 of a conversation: shorten them" in error.value.body["message"]
    assert "--max_memory 20; a larger one makes room" in logged.text


def test_running_out_of_memory_names_fields(logged):
    said = said_to_programs(UserError(Sentence("out_of_memory")))

    assert "lower max_tokens or num_beams" in said
    assert "--max_memory" in logged.text
