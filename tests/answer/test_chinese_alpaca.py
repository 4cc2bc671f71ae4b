"""Chinese-LLaMA-Alpaca's prompt: ids as its own programs make them; answers without the space that ids begin with."""

from dataclasses import replace

import pytest
from sentencepiece import SentencePieceProcessor

from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import ChatFlags, DecodingFlags
from vicuna.answer.stream import GenerationResult, Streamer, stream
from vicuna.api.parsing import parse_chat
from vicuna.pages.terminal_session import TerminalSession
from vicuna.prompt.templates import encode, prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

NAME = "chinese_alpaca"
ASKED = {"role": "user", "content": "把下面的句子译成英文。\n", "input": "你好，世界！"}
QUESTION = {"role": "user", "content": "春天的花有哪些？"}
PUBLISHED = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response: "
)


@pytest.mark.parametrize("name", ["llama", "chinese-llama-2"])
@pytest.mark.parametrize("answer", ["Hello, world!", "你好", "\n1. 春\n2. 夏", " x", ""])
def test_ids_are_those_of_the_published_program(shared, name, answer):
    folder = shared / "tokenizers" / name
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    source = PUBLISHED.format(instruction=f"{ASKED['content']}\n{ASKED['input']}")
    expected = [pieces.bos_id(), *pieces.encode(source)], [*pieces.encode(answer), pieces.eos_id()]

    tokenizer = TextTokenizer(folder)
    assert prompt_ids(tokenizer, NAME, [ASKED]) == expected[0]
    if answer:
        found = encode(tokenizer, NAME, [ASKED, {"role": "assistant", "content": answer}], 512)
        assert found.input_ids == expected[0] + expected[1]
        assert found.labels[len(expected[0]) :] == expected[1]


@pytest.mark.parametrize("text", ["你好，世界！", " x  y", "\n1. 春", "🦙 é", ""])
def test_a_streamed_answer_is_the_text_that_was_tokenised(assistant, text):
    ids = assistant.tokenizer.encode(text)
    streamer = Streamer(assistant.tokenizer, apart=True)

    def generate() -> GenerationResult:
        for end in range(1, len(ids) + 1):
            streamer.put([ids[:end]], [None])
        return GenerationResult([ids], [None], {assistant.tokenizer.eos_id})

    *growing, last = stream(generate, streamer, 100, assistant.worker.submit)
    assert last.text == text
    assert all(text.startswith(update.text) for update in growing)


def test_a_text_that_ends_answers_is_not_found_in_the_space_before_them(assistant):
    tokenizer = assistant.tokenizer
    streamer = Streamer(tokenizer, stops=[" "], apart=True)
    ids = tokenizer.encode("春 夏")
    *_, last = stream(lambda: GenerationResult([ids], [None], set()), streamer, 100, assistant.worker.submit)
    assert (last.text, last.finish) == ("春", "stop")


@pytest.fixture(scope="module")
def alpaca(assistant):
    """An assistant that was trained so, as its folder says."""
    return replace(assistant, choices={"": replace(assistant.choices[""], prompt_type=NAME, trained_as=NAME)})


@pytest.fixture(scope="module")
def drawn(alpaca) -> tuple[DecodingFlags, str]:
    """How an answer that begins with a space is drawn, and what the model goes on with."""
    for seed in range(500):
        decoding = DecodingFlags(temperature=5.0, top_k=0, top_p=1.0, max_new_tokens=8, seed=seed)
        chosen = generation_kwargs(decoding, alpaca.engine.generation_config)
        *_, last = alpaca.stream(alpaca.prompt_ids([QUESTION]), chosen, seed)
        if last.text.startswith(" "):
            return decoding, last.text
    raise AssertionError


def test_terminal_and_api_answer_without_the_space(alpaca, drawn, capsys):
    decoding, text = drawn

    TerminalSession(alpaca, ChatFlags(), decoding).ask(QUESTION["content"])
    assert capsys.readouterr().out == text[1:] + "\n"
    asked = parse_chat({"messages": [QUESTION]}, alpaca, ChatFlags(), decoding, "127.0.0.1:1")
    *_, last = alpaca.stream(asked.prompts[0], asked.chosen, asked.seed, prompt_type=asked.prompt_type)
    assert last.text == text[1:]


def test_the_preset_is_the_published_one(assistant):
    chosen = generation_kwargs(DecodingFlags(preset=NAME), assistant.engine.generation_config)
    assert chosen["do_sample"]
    assert (chosen["temperature"], chosen["repetition_penalty"], chosen["max_new_tokens"]) == (0.2, 1.3, 256)
    assert ChatFlags().max_memory == 2048
