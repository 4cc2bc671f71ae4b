"""How likely a prompt is, by /v1/completions with echo and logprobs and by the model itself; the tokenizer's routes."""

import contextlib
import json
import urllib.error
import urllib.request

import pytest
import torch
from openai import AuthenticationError, BadRequestError

from tests.api.questions import message_of
from tests.served import Server
from vicuna.answer.flags import ChatFlags, ServeFlags

ECHO = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}  # as lm-eval asks
TEXT = "春天来了，🦊 sat down."


def post(address: str, path: str, data: dict, key: str = "") -> dict:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(data).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def own(assistant):
    """own(ids, adapter): the log probabilities of what follows each id, (T, V)."""

    @torch.inference_mode()
    def log_probs(ids: list[int], adapter: str = "talks") -> torch.Tensor:
        model = assistant.engine.model
        if adapter:
            model.set_adapter(assistant.engine.adapters[adapter], inference_mode=True)
        with contextlib.nullcontext() if adapter else model.disable_adapter():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return log_probs


def test_a_prompt_is_scored_token_by_token(client, assistant, own):
    tokenizer = assistant.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(TEXT)]
    for name, adapter in (("talks", "talks"), ("tiny", "")):
        done = client.completions.create(model=name, prompt=TEXT, **ECHO)
        (choice,), found = done.choices, own(ids, adapter)
        new = int(found[-1].argmax())
        expected = [*found[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist(), float(found[-1, new])]
        scores = choice.logprobs
        assert scores.token_logprobs == pytest.approx(expected, abs=1e-4)
        assert [max(one.values()) for one in scores.top_logprobs] == pytest.approx(
            found.max(1).values.tolist(), abs=1e-4
        )
        assert scores.tokens == [tokenizer.token_name(i) for i in [*ids[1:], new]]
        assert choice.text.startswith(TEXT)
        for at, token in zip(scores.text_offset, scores.tokens, strict=True):
            if not token.startswith("<0x") and at:
                assert choice.text[at:].startswith(token)
        assert "<0xF0>" in scores.tokens
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), 1)


def test_prompts_of_ids_begin_with_bos_as_the_base_was_trained(client, assistant, own):
    """lm-eval's client sends ids without it; what was put in front is not part of the answer."""
    tokenizer = assistant.tokenizer
    rows = [tokenizer.encode(text) for text in ("春天来了", "夏天", TEXT)]
    bos = tokenizer.bos_id

    bare = client.completions.create(model="talks", prompt=rows, **ECHO).choices
    whole = client.completions.create(model="talks", prompt=[[bos, *row] for row in rows], **ECHO).choices
    without = client.completions.create(
        model="talks", prompt=rows[0], **ECHO, extra_body={"add_special_tokens": False}
    ).choices[0]

    for row, one, other in zip(rows, bare, whole, strict=True):
        assert len(one.logprobs.tokens) == len(row) + 1
        assert other.logprobs.token_logprobs[0] is None
        assert other.logprobs.top_logprobs[0] is None
        assert other.logprobs.tokens[0] == "<s>"
        assert other.logprobs.token_logprobs[1:] == one.logprobs.token_logprobs
        assert other.text == one.text
    assert without.logprobs.token_logprobs[0] is None
    first = own(rows[0])[0, rows[0][1]]
    assert without.logprobs.token_logprobs[1] == pytest.approx(float(first), abs=1e-4)
    greedy = {"temperature": 0, "max_tokens": 8}
    texts = [client.completions.create(model="talks", prompt=one, **greedy).choices[0].text for one in
             (rows[0], [bos, *rows[0]], "春天来了")]  # fmt: skip
    assert len(set(texts)) == 1


def test_a_text_longer_than_a_part_has_the_scores_of_the_whole(client, assistant, own):
    tokenizer = assistant.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("春天来了，花都开了。" * 200)][: assistant.engine.context]

    done = client.completions.create(model="talks", prompt=ids, **{**ECHO, "logprobs": 3})

    found = own(ids)
    expected = found[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    scores = done.choices[0].logprobs
    assert len(ids) == 512
    assert scores.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-4)
    assert sorted(scores.top_logprobs[300].values(), reverse=True) == pytest.approx(
        found[299].topk(len(scores.top_logprobs[300])).values.tolist(), abs=1e-4
    )


def test_parts_of_what_can_be_asked(client, assistant):
    whole = client.completions.create(model="talks", prompt=TEXT, **ECHO).choices[0]

    prompt = client.completions.create(model="talks", prompt=TEXT, **{**ECHO, "max_tokens": 0}).choices[0]
    token = client.completions.create(model="talks", prompt=TEXT, **{**ECHO, "echo": False}).choices[0]
    plain = client.completions.create(model="talks", prompt=TEXT, max_tokens=0, echo=True).choices[0]
    bare = client.completions.create(model="talks", prompt=TEXT, **{**ECHO, "logprobs": 0}).choices[0]

    assert prompt.logprobs.token_logprobs == whole.logprobs.token_logprobs[:-1]
    assert prompt.text == TEXT == plain.text
    assert plain.logprobs is None
    assert token.logprobs.token_logprobs == whole.logprobs.token_logprobs[-1:]
    assert TEXT + token.text == whole.text
    assert bare.logprobs.token_logprobs == whole.logprobs.token_logprobs
    assert set(map(len, bare.logprobs.top_logprobs)) == {0}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_tokens": 16}, "max_tokens", "max_tokens 16: with echo or logprobs it is 0 or 1"),
        ({"logprobs": 6}, "logprobs", "logprobs 6 is out of range: expected 0 to 5"),
        ({"logprobs": True}, "logprobs", "logprobs is true or false, expected an integer"),
        ({"echo": "yes"}, "echo", "echo is text, expected true or false"),
        ({"temperature": 0.7}, "temperature", "temperature is to be 0 with echo or logprobs"),
        ({"echo": False, "max_tokens": 0}, "max_tokens", "asks for nothing"),
        ({"n": 2}, "n", "n is not for a request with echo or logprobs"),
        ({"stop": ["a"]}, "stop", "stop is not for a request"),
        ({"top_p": 0.9}, "top_p", "'top_p' is not for a request with echo or logprobs"),
        ({"suffix": "x"}, "suffix", "suffix is not supported"),
        ({"best_of": 2}, "best_of", "best_of is not supported"),
        ({"prompt": [[1]] * 257}, "prompt", "257 texts of 257 tokens, expected at most 256 of 65536 together"),
        ({"prompt": [[1] * 512] * 129}, "prompt", "129 texts of 66048 tokens"),
        ({"prompt": [5] * 512}, "prompt", "prompt has 513 tokens, the base's context leaves room for 512"),
        ({"extra_body": {"add_special_tokens": False}}, "add_special_tokens", "is for prompts of token ids"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_has_no_scores_is_refused(client, fields, param, says):
    with pytest.raises(BadRequestError) as error:
        client.completions.create(**{"model": "talks", "prompt": TEXT, **ECHO, **fields})
    assert says in message_of(error)
    assert error.value.body["param"] == param


def test_streams_have_no_scores(client):
    with pytest.raises(BadRequestError, match="stream is not for a request"):
        client.completions.create(model="talks", prompt=TEXT, stream=True, **ECHO)


def test_the_tokenizer_gives_the_ids_that_models_are_given(server, assistant):
    tokenizer = assistant.tokenizer
    ids = tokenizer.encode(TEXT)
    said = post(server.address, "/tokenize", {"prompt": TEXT, "return_token_strs": True})
    assert said["tokens"] == [tokenizer.bos_id, *ids]
    assert said["count"] == len(ids) + 1
    assert said["max_model_len"] == 512
    assert said["token_strs"][0] == "<s>"
    bare = post(server.address, "/tokenize", {"prompt": TEXT, "add_special_tokens": False})
    assert bare["tokens"] == ids
    assert bare["token_strs"] is None
    assert post(server.address, "/detokenize", {"tokens": [tokenizer.bos_id, *ids]}) == {"prompt": TEXT}
    # alone a name is the id, which a client asks for; within a text it is text
    for name, i in (("<s>", tokenizer.bos_id), ("</s>", tokenizer.eos_id)):
        assert post(server.address, "/tokenize", {"prompt": name, "add_special_tokens": False})["tokens"] == [i]
        within = post(server.address, "/tokenize", {"prompt": f"a{name}", "add_special_tokens": False})["tokens"]
        assert i not in within
    with urllib.request.urlopen(f"http://{server.address}/tokenizer_info", timeout=60) as answer:
        info = json.load(answer)
    assert {name: info[name] for name in ("bos_token", "eos_token", "vocab_size")} == {
        "bos_token": "<s>", "eos_token": "</s>", "vocab_size": 1800,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "data", "says"),
    [
        ("/tokenize", {}, "prompt is missing"),
        ("/tokenize", {"prompt": 3}, "prompt is an integer, expected text"),
        ("/tokenize", {"prompt": "a", "messages": []}, "'messages' is not a field"),
        ("/tokenize", {"prompt": "a", "model": "x"}, "there is no model 'x' here"),
        ("/detokenize", {"tokens": [1800]}, "expected integers of 0 to 1799"),
        ("/detokenize", {"tokens": ["a"]}, "expected integers of 0 to 1799"),
    ],
)
def test_the_tokenizers_routes_say_what_is_wrong(server, path, data, says):
    with pytest.raises(urllib.error.HTTPError) as error:
        post(server.address, path, data)
    assert says in json.load(error.value)["error"]["message"]


def test_the_key_protects_scores_and_tokenizer(assistant):
    server = Server(assistant, ChatFlags(api=True, api_key="secret"), ServeFlags())
    try:
        for path in ("/tokenize", "/detokenize", "/tokenizer_info"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                post(server.address, path, {})
        assert post(server.address, "/tokenize", {"prompt": "a"}, key="secret")["count"]
        with pytest.raises(AuthenticationError):
            server.client(key="wrong").completions.create(model="talks", prompt=TEXT, **ECHO)
    finally:
        server.close()
