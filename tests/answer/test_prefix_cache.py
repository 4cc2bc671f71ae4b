"""What earlier prompts share with the next is not computed again, and changes no answer."""

import gc
import random

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig

from tests.answer.stops import Awaited
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.engine import GenerationRequest
from vicuna.answer.flags import DecodingFlags
from vicuna.answer.hf_engine import HFEngine
from vicuna.answer.kv_cache import PreallocatedCache
from vicuna.answer.prefix_cache import PrefixCache, common_prefix_length
from vicuna.answer.worker import Worker
from vicuna.errors import UserError
from vicuna.prompt.templates import prompt_ids

MODES = {
    "greedy": {"num_beams": 1},
    "sampling": {"temperature": 0.9, "top_p": 0.9, "top_k": 30},
    "beam search": {"num_beams": 3},
    "beam sampling": {"num_beams": 3, "temperature": 0.9, "top_k": 30},
}
QUESTIONS = [
    "春天的花有哪些？",
    "🦙 讲个笑话 👨‍👩‍👧",
    "def f(x):\n    return x[1:]",
    "Tell me about alpacas.",
    "",
    "  空格  和\n\n换行  ",
    "再写一首关于秋天的诗，要五言绝句，题目叫《秋思》。",
    "a" * 60,
]


class Talk:
    """An engine on the assistant's model, asked one prompt after the other; counts the positions it computes."""

    def __init__(self, assistant, cache_gib: float):
        model = assistant.engine.model
        self.engine, self.worker = HFEngine(assistant.engine.base, model, {}, cache_gib), Worker()
        self.chosen = generation_kwargs(
            DecodingFlags(repetition_penalty=1.2, max_new_tokens=12), self.engine.generation_config
        )
        self.computed = 0
        self.embedding = model.get_input_embeddings()

    def ask(self, ids: list[int], stop_after: int = 0, **chosen):
        """The last update."""
        self.computed = 0
        hook = self.embedding.register_forward_hook(self._count)
        stop, last = Awaited() if stop_after else None, None
        try:
            asked = GenerationRequest(ids, {**self.chosen, **chosen}, seed=7, stop=stop)
            answers = self.engine.stream(asked, self.worker.submit)
            for last in answers:
                if stop_after and last.tokens >= stop_after:
                    stop.set()
        finally:
            hook.remove()
        return last

    def _count(self, module, args, output) -> None:
        self.computed += args[0].shape[-1]


@pytest.fixture
def cached(assistant) -> Talk:
    return Talk(assistant, 1)


@pytest.fixture
def plain(assistant) -> Talk:
    return Talk(assistant, 0)


def of(name: str, **more) -> dict:
    flags = {"repetition_penalty": 1.2, "max_new_tokens": 12, **MODES[name], **more}
    return generation_kwargs(DecodingFlags(**flags), GenerationConfig())


def conversation(talk: Talk, questions: list[str], chosen: dict) -> list[list[list[int]]]:
    """Ids of every beam of every answer, each asked with all turns before it."""
    messages, answers = [], []
    for question in questions:
        messages.append({"role": "user", "content": question})
        last = talk.ask(prompt_ids(talk.engine.tokenizer, "chat", messages), **chosen)
        messages.append({"role": "assistant", "content": last.text})
        answers.append([beam.ids for beam in last.beams])
    return answers


@pytest.mark.parametrize("name", MODES)
def test_conversations_are_the_same_with_and_without(cached, plain, name):
    draw = random.Random(5)
    for _ in range(2):
        questions = draw.choices(QUESTIONS, k=5)
        assert conversation(cached, questions, of(name)) == conversation(plain, questions, of(name))


@pytest.mark.parametrize("name", MODES)
def test_the_second_turn_computes_only_what_is_new(cached, plain, name):
    first, new = list(range(300, 400)), list(range(400, 420))
    chosen = of(name, max_new_tokens=30, min_new_tokens=30)
    answer = cached.ask(first, **chosen).beams[0].ids
    assert cached.computed == len(first) + len(answer) - 1
    second = first + answer + new
    again = cached.ask(second, **chosen)
    # Whatever answer it was, its last token was never read by the model. A search may have left the best answer early.
    least = 1 + len(new) + len(answer) - 1
    assert cached.computed >= least
    assert cached.computed == least if chosen["num_beams"] == 1 else cached.computed < least + len(answer)
    assert again.beams[0].ids == plain.ask(second, **chosen).beams[0].ids
    assert plain.computed == len(second) + len(answer) - 1


def test_the_text_of_an_answer_shares_its_beginning(cached):
    messages = [{"role": "user", "content": "春天的花有哪些？"}]
    tokenizer = cached.engine.tokenizer
    first = prompt_ids(tokenizer, "chat", messages)
    said = cached.ask(first)
    messages += [{"role": "assistant", "content": said.text}, {"role": "user", "content": "还有呢？"}]
    second = prompt_ids(tokenizer, "chat", messages)
    shared = common_prefix_length(second[:-1], first + said.beams[0].ids[:-1])
    last = cached.ask(second)
    assert shared >= len(first) - 1
    assert cached.computed == len(second) - shared + last.tokens - 1


@pytest.mark.parametrize("name", MODES)
def test_three_conversations_at_once_keep_what_is_theirs(cached, plain, name):
    chosen = of(name)
    shared = list(range(300, 350))
    talks = [[*shared, *range(500 + 50 * n, 540 + 50 * n)] for n in range(3)]
    for turn in range(3):
        for n, ids in enumerate(talks):
            last = cached.ask(ids, **chosen)
            most = 90 if turn == 0 else 7 + len(last.beams[0].ids) + 12
            assert cached.computed <= most + last.tokens
            assert [b.ids for b in last.beams] == [b.ids for b in plain.ask(ids, **chosen).beams]
            talks[n] = [*ids, *last.beams[0].ids, 600 + turn, 700 + n, 5, 6, 7]


@pytest.mark.parametrize("name", MODES)
def test_a_regenerated_answer_computes_one_position_of_the_prompt(cached, plain, name):
    ids, chosen = list(range(300, 400)), of(name)
    first = cached.ask(ids, **chosen)
    again = cached.ask(ids, **chosen)
    steps = cached.computed
    assert [beam.ids for beam in again.beams] == [beam.ids for beam in first.beams]
    plain.ask(ids, **chosen)
    assert plain.computed - steps == len(ids) - 1
    # What was kept of the first answer is still there.
    follow = ids + first.beams[0].ids + [5]
    assert [b.ids for b in cached.ask(follow, **chosen).beams] == [b.ids for b in plain.ask(follow, **chosen).beams]
    assert cached.computed < plain.computed - len(ids) + 1


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("after", [1, 4])
def test_after_a_stop_the_known_part_is_used(cached, plain, name, after):
    ids, chosen = list(range(300, 400)), of(name, max_new_tokens=100, min_new_tokens=100)
    said = cached.ask(ids, stop_after=after, **chosen)
    assert said.finish == "stopped"
    follow = ids + said.beams[0].ids + [5, 6]
    chosen = of(name)
    assert [b.ids for b in cached.ask(follow, **chosen).beams] == [b.ids for b in plain.ask(follow, **chosen).beams]
    assert plain.computed - cached.computed >= len(ids)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("passes", [0, 1, 4])
def test_after_an_error_in_a_layer_the_known_part_is_used(assistant, cached, plain, name, passes):
    layer = assistant.engine.model.model.layers[1]  # the first has taken its keys and values by then
    left = [passes]

    def fail(*_) -> None:
        if not left[0]:
            raise RuntimeError("broken on purpose")
        left[0] -= 1

    ids, chosen = list(range(300, 700)), of(name)
    hook = layer.register_forward_pre_hook(fail)
    try:
        with pytest.raises(UserError, match="RuntimeError: broken on purpose"):
            cached.ask(ids, **chosen)
    finally:
        hook.remove()
    assert [b.ids for b in cached.ask(ids, **chosen).beams] == [b.ids for b in plain.ask(ids, **chosen).beams]
    assert (cached.computed < plain.computed) == (passes > 0)


def test_beams_whose_rows_were_reordered_are_told_apart(cached, plain):
    """The row that is kept is the one whose ids are said to be kept, whatever became of the others."""
    draw = random.Random(3)
    for _ in range(4):
        ids = [draw.randrange(300, 1700) for _ in range(20)]
        chosen = of("beam sampling", max_new_tokens=20, min_new_tokens=20)
        for _ in range(3):
            best = cached.ask(ids, **chosen)
            assert [b.ids for b in best.beams] == [b.ids for b in plain.ask(ids, **chosen).beams]
            ids = [*ids, *best.beams[0].ids[:-1], draw.randrange(300, 1700)]


# --- the tree -----------------------------------------------------------------------------------------------------


LAYERS, HEADS, SIZE = 2, 2, 3
PER_TOKEN = LAYERS * 2 * HEADS * SIZE * 8  # bytes; float64, which nothing else here uses


def filled(ids: list[int], rows: int = 1, row: int = 0) -> PreallocatedCache:
    """A cache whose keys and values tell what ids they belong to, in one row; the others are zero."""
    config = LlamaConfig(num_hidden_layers=LAYERS, hidden_size=HEADS * SIZE, num_attention_heads=HEADS)
    cache = PreallocatedCache(config)
    for number in range(LAYERS):
        keys = torch.zeros(rows, HEADS, len(ids), SIZE, dtype=torch.float64)
        keys[row] = expected(ids, number)
        if ids:
            cache.update(keys, -keys, number)
    return cache


def expected(ids: list[int], number: int) -> torch.Tensor:
    """(HEADS, n, SIZE): at each position a number that all ids up to it decide on."""
    value, values = float(number), []
    for i in ids:
        value = (value * 31 + i + 1) % 1000003
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)[None, :, None].expand(HEADS, len(ids), SIZE)


def known(prefixes: PrefixCache, adapter: str, ids: list[int]) -> int:
    """How many of `ids` the cache gives back, each with the right keys and values."""
    cache = filled([])
    n = prefixes.fill(cache, adapter, ids)
    for number, layer in enumerate(cache.layers if n else []):
        assert torch.equal(layer.keys[0], expected(ids[:n], number))
        assert torch.equal(layer.values[0], -expected(ids[:n], number))
    return n


def some_ids(draw: random.Random) -> list[int]:
    return [draw.randrange(3) for _ in range(draw.randrange(1, 14))]


def test_the_longest_known_beginning_is_found():
    draw, prefixes, kept = random.Random(1), PrefixCache(1 << 30), []
    for _ in range(200):
        ids, adapter = some_ids(draw), draw.choice("AB")
        best = max((common_prefix_length(ids, other) for name, other in kept if name == adapter), default=0)
        assert known(prefixes, adapter, ids) == best
        row = draw.randrange(3)
        prefixes.keep(adapter, ids, filled(ids, rows=3, row=row), row)
        kept.append((adapter, ids))
        assert known(prefixes, adapter, ids) == len(ids)
    sequences = {(name, tuple(ids[:n])) for name, ids in kept for n in range(1, len(ids) + 1)}
    assert prefixes.bytes == len(sequences) * PER_TOKEN  # what is shared is there once


def held() -> int:
    """Bytes of every float64 tensor in this process, whole storages."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.dtype is torch.float64]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_the_bound_is_kept_and_bytes_are_counted_truly():
    draw, limit = random.Random(2), 40 * PER_TOKEN
    prefixes, before = PrefixCache(limit), held()
    for turn in range(200):
        ids = some_ids(draw)
        prefixes.keep("A", ids, filled(ids + [9] * draw.randrange(5), rows=2))
        assert prefixes.bytes <= limit
        assert known(prefixes, "A", ids) == len(ids)  # what is new is never what goes
        if turn in (50, 199):
            assert held() - before == prefixes.bytes
    assert prefixes.bytes > limit / 2
    assert prefixes.clear()
    assert held() == before
    assert not prefixes.clear()


def test_what_was_used_last_stays():
    prefixes = PrefixCache(30 * PER_TOKEN)
    for start in (0, 100, 200):
        ids = list(range(start, start + 10))
        prefixes.keep("A", ids, filled(ids))
    assert known(prefixes, "A", list(range(10))) == 10
    ids = list(range(300, 310))
    prefixes.keep("A", ids, filled(ids))
    found = [known(prefixes, "A", list(range(start, start + 10))) for start in (0, 100, 200, 300)]
    assert found == [10, 0, 10, 10]


def test_a_prompt_longer_than_the_bound_keeps_its_beginning():
    prefixes, ids = PrefixCache(10 * PER_TOKEN + 5), list(range(50))
    prefixes.keep("A", ids, filled(ids))
    assert prefixes.bytes == 10 * PER_TOKEN
    assert known(prefixes, "A", ids) == 10


def test_layers_that_got_unequally_far_are_known_as_far_as_the_shortest():
    cache, prefixes = filled(list(range(8))), PrefixCache(1 << 20)
    cache.layers[1].crop(-3)
    prefixes.keep("A", list(range(8)), cache)
    assert known(prefixes, "A", list(range(8))) == 5


def test_nothing_is_kept_without_room_or_for_layers_that_forget():
    none, prefixes = PrefixCache(0), PrefixCache(1 << 20)
    none.keep("A", [1, 2], filled([1, 2]))
    assert known(none, "A", [1, 2]) == none.bytes == 0
    window = LlamaConfig(num_hidden_layers=1, sliding_window=4, layer_types=["sliding_attention"])
    cache = PreallocatedCache(window)
    cache.update(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), 0)
    prefixes.keep("A", [1, 2], cache)
    assert prefixes.bytes == 0
    assert prefixes.fill(PreallocatedCache(window), "A", [1, 2]) == 0


def test_a_base_whose_keys_change_with_the_length_shares_none(assistant):
    base = assistant.engine.base
    rope = {"rope_type": "longrope", "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}
    changed = type(base)(base.path, LlamaConfig(**{**base.config.to_dict(), "rope_parameters": rope}), *[None] * 2)
    changed.tokenizer, changed.generation_config = base.tokenizer, base.generation_config
    assert HFEngine(changed, assistant.engine.model, {}, 1).prefixes.limit == 0
    assert HFEngine(base, assistant.engine.model, {}, 1).prefixes.limit == 1 << 30
    assert HFEngine(base, assistant.engine.model, {}, 0).prefixes.limit == 0
