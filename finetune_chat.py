"""Fine-tune a LoRA adapter on dialogues: finetune.py with other defaults.

    python finetune_chat.py --data_path sample/chat/data_sample.jsonl --train_turns all
    python finetune_chat.py --data_path dialogues.jsonl instructions.jsonl:0.5 --output_path out
    torchrun --standalone --nproc_per_node=2 finetune_chat.py --bits 4 --output_path out

The template is that of a conversation, examples have up to 2048 tokens, all seven linear layers of a block get an
adapter, and 5 % of the steps warm up. `python finetune_chat.py --help` lists every flag.
"""

from finetune import main
from vicuna.args import Fallback
from vicuna.data.flags import CHAT_CUTOFF_LEN
from vicuna.errors import run
from vicuna.train.command_line import parse_training

DEFAULTS = {
    "data_path": ["sample/chat/data_sample.jsonl"],
    "prompt_type": "chat",
    "cutoff_len": CHAT_CUTOFF_LEN,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "warmup_ratio": 0.05,
    "log_steps": 100,
}

if __name__ == "__main__":
    defaults = {**DEFAULTS, "prompt_type": Fallback(DEFAULTS["prompt_type"])}
    run(lambda: main(parse_training(__doc__, **defaults)))
