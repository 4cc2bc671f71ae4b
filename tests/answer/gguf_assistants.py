"""What the tests of GGUF files in llama.cpp share: models with their prompts, opened and asked."""

from pathlib import Path

from transformers import GenerationConfig

from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.model.flags import ModelFlags

BARE = GenerationConfig()
GREEDY = generation_kwargs(DecodingFlags(repetition_penalty=1.0, max_new_tokens=32), BARE)
PROMPTS = {
    "stories260K": ["Once upon a time", "Lily and Tom went", "The big red dog said,"],
    "babyllama-tok105": ["Once upon a time", "the dog", "She was so happy that"],
    "poem-zh-750k": ["题：春日\n", "题：送友人\n青山", "题：夜雨\n"],
}
POEMS = "lora/poem-zh-lora-generated/r8-qv"


def opened(file: Path, *lora: Path, **serve: object) -> Assistant:
    return load_assistant(ModelFlags(model_path=str(file)), ServeFlags(**serve), [str(one) for one in lora])


def answered(assistant: Assistant, ids: list[int], chosen: dict, seed: int | None = None, **more: object) -> list[int]:
    *_, last = assistant.stream(ids, chosen, seed, **more)
    return last.beams[0].ids
