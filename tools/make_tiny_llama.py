"""Make the embedded base model: a small Chinese LLaMA that any tool can open, from the text in sample/.

    python tools/make_tiny_llama.py --output_path models/tiny-llama-zh

Trains a SentencePiece BPE tokenizer with byte fallback, then a LlamaForCausalLM of about five million parameters,
on sample/text and on the instruction records as plain text (question, then answer, without any template). It
knows the language and the facts of the sample, and nothing of instructions: that is what fine-tuning adds.
The same machine and version give the same files.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path

from vicuna.args import flag, parse
from vicuna.data.records import read_records
from vicuna.errors import UserError, run
from vicuna.files.outputs import atomic_folder
from vicuna.prompt.templates import TEMPLATES, Message
from vicuna.prompt.tokenizer_json import write_tokenizer_json
from vicuna.vocabulary.training import train_sentencepiece

WORDED = ("instruct", "chat", "text")  # prompt types whose words become pieces; the others share most of theirs
ROOT = Path(__file__).resolve().parent.parent
SEED = 42


@dataclass
class MakeFlags:
    """Where to, and how large."""

    output_path: str = flag("models/tiny-llama-zh", "folder to write; an existing one is left alone")
    vocab_size: int = flag(2600, "pieces of the tokenizer")
    hidden_size: int = flag(256, "width of the model, a multiple of 32")
    num_layers: int = flag(4, "decoder blocks")
    steps: int = flag(500, "optimizer steps")
    batch: int = flag(8, "sequences a step")
    context: int = flag(512, "longest sequence in tokens; training takes shorter ones")

    def __post_init__(self) -> None:
        if self.hidden_size < 32 or self.hidden_size % 32:
            raise UserError(
                f"--hidden_size {self.hidden_size} does not divide into heads of 32: take a multiple of 32."
            )


def main(flags: MakeFlags) -> None:
    """Make the tokenizer, the model, and move the finished folder into place."""
    with atomic_folder(flags.output_path, "--output_path") as folder:
        documents = corpus()
        (folder / "tokenizer.model").write_bytes(train_tokenizer(documents, flags.vocab_size))
        train_model(documents, folder, flags)
        write_tokenizer_json(folder, flags.context)
    print(f"made {flags.output_path}")


def corpus() -> list[str]:
    """The documents of sample/text, and every instruction record as plain text."""
    documents = []
    for file in sorted((ROOT / "sample/text").glob("*.txt")):
        documents += [plain(messages) for messages in read_records(file, "text").dialogues]
    records = read_records(ROOT / "sample/instruct/data_sample.jsonl", "instruct")
    return documents + 2 * [plain(messages) for messages in records.dialogues]


def plain(messages: list[Message]) -> str:
    """The words of a dialogue, a line each, without a template."""
    return "\n".join(part for message in messages for part in (message["content"], message.get("input")) if part)


def train_tokenizer(documents: list[str], vocab_size: int) -> bytes:
    """A SentencePiece model with LLaMA's settings; the templates' words are frequent, so each is one piece."""
    parts = [part for name in WORDED for part in vars(TEMPLATES[name]).values() if isinstance(part, str)]
    wording = [line for part in parts for line in part.split("\n")]
    lines = [line for document in documents for line in document.split("\n")]
    least = len(set("".join(lines + wording))) + 256 + 3  # every character, every byte, and the control pieces
    if vocab_size <= least:
        raise UserError(
            f"--vocab_size {vocab_size} is too small: the text alone needs {least}. Take a few hundred more."
        )
    return train_sentencepiece(
        lines + wording * 40,
        vocab_size,
        character_coverage=1.0,
        split_by_whitespace=False,
        max_sentencepiece_length=64,
    )


def train_model(documents: list[str], folder: Path, flags: MakeFlags) -> None:
    """Train on the documents and save config, weights and generation config."""
    import torch
    from tqdm import tqdm
    from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

    from vicuna.model.openable import make_openable
    from vicuna.prompt.templates import encode
    from vicuna.prompt.tokenizer import TextTokenizer
    from vicuna.train.batches import collate
    from vicuna.train.loss import token_losses

    tokenizer = TextTokenizer(folder)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.size,
            hidden_size=flags.hidden_size,
            intermediate_size=flags.hidden_size * 3,
            num_hidden_layers=flags.num_layers,
            num_attention_heads=flags.hidden_size // 32,
            max_position_embeddings=flags.context,
            # 1/sqrt(256): with the default 0.02 so narrow a model learns several times slower (docs/log.md).
            initializer_range=0.06,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=tokenizer.eos_id,
            tie_word_embeddings=False,
        )
    )
    rows = [encode(tokenizer, "text", [{"role": "assistant", "content": text}], flags.context) for text in documents]
    examples = [vars(row) for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, flags.steps)
    draw = random.Random(SEED)
    queue: list[dict] = []
    model.train()
    bar = tqdm(range(flags.steps), desc="Training the base", unit="step", disable=None)
    for _ in bar:
        if len(queue) < flags.batch:
            queue = length_grouped(examples, flags.batch, draw)
        batch = collate(queue[-flags.batch :])
        del queue[-flags.batch :]
        labels = batch.pop("labels")
        loss = token_losses(model(**batch).logits, labels).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    print(
        f"base: {model.num_parameters() / 1e6:.1f} M parameters, loss {loss.item():.3f}, perplexity "
        f"{math.exp(loss.item()):.1f}"
    )
    model.save_pretrained(folder)
    make_openable(folder)


def length_grouped(examples: list[dict], batch: int, draw: random.Random) -> list[dict]:
    """All examples in random batches of like length."""
    order = sorted(draw.sample(examples, len(examples)), key=lambda row: len(row["input_ids"]))
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    draw.shuffle(batches)
    return [row for rows in batches for row in rows]


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MakeFlags)))
