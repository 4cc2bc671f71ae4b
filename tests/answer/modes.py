"""What the tests of answers share: every decoding mode, long prompts, and how much of them is computed."""

from transformers import GenerationConfig

from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags

BARE = GenerationConfig()  # a base that declares nothing
MODES = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "sampling": {"temperature": 0.9, "top_p": 0.9, "top_k": 30},
    "beam search": {"num_beams": 3, "do_sample": False},
    "beam sampling": {"num_beams": 3, "temperature": 0.9, "top_k": 30},
}


def chosen_for(name: str, **more) -> dict:
    return generation_kwargs(
        DecodingFlags(**{"max_new_tokens": 24, "repetition_penalty": 1.2, **MODES[name], **more}), BARE
    )


def long_ids(assistant, length: int) -> list[int]:
    """A prompt of real words."""
    words = assistant.tokenizer.encode("春天的花有哪些？请写一首诗。Tell me about alpacas, please.\n" * 40)
    return [assistant.tokenizer.bos_id, *words][:length]


def counted(assistant) -> tuple[list[int], object]:
    """Positions of every forward pass from now on, and the hook to remove."""
    sizes: list[int] = []
    embedding = assistant.engine.model.get_input_embeddings()
    return sizes, embedding.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[-1]))
