"""Messages as clients of OpenAI's models send them: a system message always, questions in a row, a begun answer."""

import pytest
from openai import BadRequestError

from tests.api.questions import GREEDY, HELLO, joined, message_of
from tests.own_bases import write_base
from tests.served import Server
from vicuna.answer.flags import ChatFlags
from vicuna.prompt.templates import begun_ids, prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

SYSTEM = {"role": "system", "content": "你是一位诗人。"}


@pytest.fixture(scope="module")
def raw(client):
    """raw(messages, model): the parsed answer, and the header of notices."""

    def ask(messages, model="talks", **more):
        reply = client.chat.completions.with_raw_response.create(model=model, messages=messages, **GREEDY, **more)
        return reply.parse(), reply.headers.get("x-vicuna-notice", "")

    return ask


def test_a_system_message_without_a_place_becomes_a_line_of_the_question(raw, direct):
    done, notice = raw([SYSTEM, *HELLO], "obeys")
    folded = [{"role": "user", "content": f"{SYSTEM['content']}\n{HELLO[0]['content']}"}]

    assert done.choices[0].message.content == direct(folded, "obeys").text
    assert notice == "the template has no place for a system message: 1 became lines of the question"
    assert "system" not in done.choices[0].message.content


def test_one_with_a_place_stays_there(raw, direct):
    done, notice = raw([SYSTEM, *HELLO])
    assert (done.choices[0].message.content, notice) == (direct([SYSTEM, *HELLO]).text, "")


def test_a_later_system_message_goes_to_the_question_behind_it_and_a_last_one_to_the_one_before(raw, direct):
    answer = {"role": "assistant", "content": "好"}
    done, _ = raw([*HELLO, answer, SYSTEM, *HELLO, SYSTEM], "obeys")
    text = "\n".join([SYSTEM["content"], HELLO[0]["content"], SYSTEM["content"]])
    assert done.choices[0].message.content == direct([*HELLO, answer, {"role": "user", "content": text}], "obeys").text


def test_a_server_can_refuse_them(assistant):
    server = Server(assistant, ChatFlags(api=True, system="refuse"))
    try:
        with pytest.raises(BadRequestError) as error:
            server.client().chat.completions.create(model="obeys", messages=[SYSTEM, *HELLO], **GREEDY)
        assert "use chat or chat_" in message_of(error)
    finally:
        server.close()


def test_questions_in_a_row_are_one(raw, direct):
    done, notice = raw([*HELLO, {"role": "user", "content": "夏天呢？"}])
    joined_up = [{"role": "user", "content": f"{HELLO[0]['content']}\n夏天呢？"}]
    assert done.choices[0].message.content == direct(joined_up).text
    assert notice == "1 user messages that follow another were joined with it"


@pytest.mark.parametrize("model", ["talks", "obeys"])
def test_a_begun_answer_goes_on_and_is_not_repeated(raw, client, assistant, direct, model):
    messages = [*HELLO, {"role": "assistant", "content": "有桃花"}]
    prompt_type = assistant.choices[model].prompt_type
    ids = prompt_ids(assistant.tokenizer, prompt_type, HELLO) + begun_ids(
        assistant.tokenizer, prompt_type, HELLO, "有桃花"
    )

    done, notice = raw(messages, model)
    expected = direct(None, model, ids=ids).text
    assert done.choices[0].message.content == expected
    assert done.usage.prompt_tokens == len(ids)
    assert notice == "the answer goes on with the last message"
    streamed = client.chat.completions.create(model=model, messages=messages, stream=True, **GREEDY)
    assert joined(streamed) == [expected]


@pytest.mark.parametrize("kind", ["chatml", "thinking", "headers"])
def test_an_answer_that_is_begun_for_the_bases_own_template_has_the_ids_of_the_whole_one(tmp_path, kind):
    tokenizer = TextTokenizer(write_base(tmp_path / kind, kind))
    whole = prompt_ids(tokenizer, "base", [*HELLO, {"role": "assistant", "content": "有桃花。"}, *HELLO])
    begun = prompt_ids(tokenizer, "base", HELLO) + begun_ids(tokenizer, "base", HELLO, "有桃花。")
    if kind == "thinking":  # which an earlier turn loses
        assert tokenizer.show(begun).endswith("<think>\n\n</think>\n\n有桃花。")
    else:
        assert whole[: len(begun)] == begun


def test_a_model_is_called_by_its_name_or_its_path(client, assistant):
    path = assistant.choices["obeys"].path
    names = ("obeys", path, f"{path}/")
    answers = [client.chat.completions.create(model=name, messages=HELLO, **GREEDY) for name in names]
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert [answer.model for answer in answers] == list(names)
