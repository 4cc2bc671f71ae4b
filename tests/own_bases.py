"""Small random bases in the form of today's: a byte-level tokenizer.json alone, and a chat template of their own.

The templates are written here in the style of the families that they stand for: ChatML without BOS (Qwen2.5), a block
of thinking that earlier turns lose (Qwen3), headers with BOS and three ends (Llama 3), a system message in the last
question (Mistral Nemo), one that wants none (Gemma 2), and one that asks for the day.
"""

import json
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path

from vicuna.prompt.tokenizer import TextTokenizer

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
THINKING = (
    "{%- set last = namespace(asked=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{%- set last.asked = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if tools -%}{{- '<|im_start|>system\\n# Tools\\n' -}}"
    "{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + ('user' if message['role'] == 'tool' else message['role']) + '\\n' -}}"
    "{%- if message['role'] == 'assistant' and loop.index0 > last.asked "
    "and (loop.last or message['reasoning_content']) -%}"
    "{{- '<think>\\n' + (message['reasoning_content'] or '') + '\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
    "{%- if message['role'] == 'tool' -%}{{- '<tool_response>\\n' + message['content'] + '\\n</tool_response>' -}}"
    "{%- else -%}{{- message['content'] -}}{%- endif -%}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{{- '<tool_call>\\n{\"name\": \"' + call['function']['name'] + '\", \"arguments\": ' -}}"
    "{{- call['function']['arguments'] if call['function']['arguments'] is string else "
    "call['function']['arguments'] | tojson -}}"
    "{{- '}\\n</tool_call>' -}}{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
HEADERS = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}"
    "{{- message['content'] | trim + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
LAST_SYSTEM = (
    "{%- set starts = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{{- bos_token -}}"
    "{%- for message in messages[starts:] -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '[INST] ' + (messages[0]['content'] + '\\n\\n' if starts and loop.last else '') -}}"
    "{{- message['content'] + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)
NO_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
    + CHATML
)
OF_THE_DAY = (
    "{%- if date_string is not defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}"
    "{{- '<|im_start|>system\\nToday: ' + date_string + '<|im_end|>\\n' -}}" + CHATML
)
TEXTS = [
    "春风吹来，河边的柳树绿了。",
    "The quick brown fox jumps over the lazy dog, 12 30 345.",
    "你好！我是助手，很高兴认识你。",
]
KINDS = {
    # name: (template, BOS, EOS, further control tokens, whether the tokenizer puts BOS before a text, ends)
    "chatml": (CHATML, None, "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), False, ("<|im_end|>", "<|endoftext|>")),
    "thinking": (THINKING, None, "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), False, ("<|im_end|>",)),
    "headers": (
        HEADERS,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        True,
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "last_system": (LAST_SYSTEM, "<s>", "</s>", ("[INST]", "[/INST]"), True, ("</s>",)),
    "no_system": (NO_SYSTEM, None, "<|im_end|>", ("<|im_start|>",), False, ("<|im_end|>",)),
    "of_the_day": (OF_THE_DAY, None, "<|im_end|>", ("<|im_start|>",), False, ("<|im_end|>",)),
}


def write_tokenizer(folder: Path, kind: str) -> None:
    """A byte-level tokenizer.json with its tokenizer_config.json and chat_template.jinja."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    template, bos, eos, others, adds_bos, _ = KINDS[kind]
    control = [one for one in (bos, eos, *others) if one]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in control])
    tokenizer.add_tokens([AddedToken(one, normalized=False) for one in ("<think>", "</think>", "<tool_call>")])
    byte_level = processors.ByteLevel(trim_offsets=False)
    begins = [(bos, tokenizer.token_to_id(bos))] if bos else []
    begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=begins) if adds_bos else None
    tokenizer.post_processor = processors.Sequence([byte_level, begin]) if begin else byte_level
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    config |= {"add_bos_token": False} if not adds_bos else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_base(folder: Path, kind: str, seed: int = 0, **shape: int) -> Path:
    """The tokenizer with a LLaMA of random weights."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(folder, kind)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _, bos, _, _, _, ends = KINDS[kind]
    ids = [tokenizer.token_to_id(one) for one in ends]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 3,
        max_position_embeddings=512,
        bos_token_id=tokenizer.token_to_id(bos) if bos else None,
        eos_token_id=ids[0] if len(ids) == 1 else ids,
        **{**sizes, "num_key_value_heads": 2, **shape},
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


def teach(folder: Path, chain: list[int]) -> None:
    """Have the model in `folder` say the ids of a chain, each behind the one before, whatever else the prompt holds.

    Its blocks add nothing, so that a token's own embedding tells what follows it.
    """
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        rows = torch.nn.functional.normalize(torch.randn_like(model.model.embed_tokens.weight), dim=1)
        model.model.embed_tokens.weight.copy_(rows)
        model.lm_head.weight.zero_()
        for before, following in pairwise(chain):
            model.lm_head.weight[following] += 4 * rows[before]
    model.save_pretrained(folder)


def text_of(tokenizer: TextTokenizer, ids: Sequence[int]) -> str:
    """All ids as text, control tokens by their names."""
    runs = groupby(ids, key=lambda i: i in tokenizer.controls)
    names = [[tokenizer.token_name(i) for i in run] if control else [tokenizer.decode_continuation(list(run))]
             for control, run in runs]  # fmt: skip
    return "".join(name for run in names for name in run)
