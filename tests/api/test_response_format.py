"""Answers in a form that the request asks for, under penalties that it names, by transformers and by llama.cpp."""

import json

import pytest
from openai import BadRequestError

from tests.api.questions import joined, message_of
from vicuna.answer.grammar import ANY_OBJECT, Grammar

SCHEMA = {
    "type": "object",
    "properties": {"花": {"enum": ["桃花", "杏花"]}, "几月": {"type": "integer", "minimum": 1, "maximum": 12}},
    "required": ["花", "几月"],
    "additionalProperties": False,
}
ASKED = {"type": "json_schema", "json_schema": {"name": "flower", "schema": SCHEMA, "strict": True}}


def fits(text: str) -> bool:
    found = json.loads(text)
    return list(found) == ["花", "几月"] and found["花"] in ("桃花", "杏花") and 1 <= found["几月"] <= 12


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("model", ["talks", "obeys"])
def test_an_answer_follows_the_schema_and_ends_with_it(ask, model, seed):
    how = {"temperature": 0} if seed is None else {"temperature": 2.0, "seed": seed}
    done = ask(model=model, response_format=ASKED, max_tokens=60, **how)
    assert fits(done.choices[0].message.content)
    assert done.choices[0].finish_reason == "stop"


def test_pieces_and_several_answers_follow_it_too(ask):
    chunks = list(ask(response_format=ASKED, max_tokens=60, stream=True, n=2, temperature=1, seed=3))
    assert all(map(fits, joined(chunks, 2)))


def test_an_object_of_any_kind_begins_as_one(ask):
    text = ask(response_format={"type": "json_object"}, max_tokens=8).choices[0].message.content
    assert text.startswith("{")


def test_what_was_asked_for_by_text_is_what_is_asked_for_by_nothing(ask):
    assert ask(response_format={"type": "text"}).choices[0].message == ask().choices[0].message


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"type": "json_schema"}, "response_format.json_schema is null, expected an object"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "json_schema.schema is null, expected an object"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "flower"}}},
            "response_format: the schema can not be followed: ",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a" * 70_000]}}},
            "the schema is larger than 64 KB",
        ),
    ],
)
def test_a_form_that_can_not_be_had_is_refused(ask, form, says):
    with pytest.raises(BadRequestError) as error:
        ask(response_format=form)
    assert says in message_of(error)
    assert error.value.param.startswith("response_format")


def test_beams_follow_no_form(ask):
    with pytest.raises(BadRequestError, match="response_format and num_beams 2 are not had together"):
        ask(response_format=ASKED, extra_body={"num_beams": 2})


def test_no_control_token_is_text_of_an_answer(assistant):
    follower = Grammar(ANY_OBJECT, assistant.tokenizer).follow({assistant.tokenizer.eos_id})
    quoted = assistant.tokenizer.encode_continuation('{"')
    allowed = follower.allowed(quoted, assistant.tokenizer.size + 3)
    assert allowed.any()
    assert not allowed[sorted(assistant.tokenizer.controls)].any()
    assert not allowed[assistant.tokenizer.size :].any()


def test_a_presence_penalty_of_the_answer_takes_repetitions_away(ask):
    plain = ask(max_tokens=40, extra_body={"repetition_penalty": 1.0})
    for name in ("presence_penalty", "frequency_penalty"):
        fewer = ask(max_tokens=40, extra_body={"repetition_penalty": 1.0}, **{name: 2})
        assert fewer.choices[0].message.content != plain.choices[0].message.content


def test_a_min_p_of_one_leaves_the_likeliest_token(ask):
    drawn = ask(temperature=1, seed=1, extra_body={"min_p": 1.0, "repetition_penalty": 1.0})
    assert drawn.choices[0].message.content == ask(extra_body={"repetition_penalty": 1.0}).choices[0].message.content
