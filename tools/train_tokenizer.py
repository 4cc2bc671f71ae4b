"""Train a SentencePiece vocabulary on text, such as the Chinese one that tools/merge_tokenizers.py puts behind LLaMA's.

    python tools/train_tokenizer.py --vocab_size 2000 --output_path chinese-sp
    python tools/train_tokenizer.py --data_path corpus.txt more.jsonl.gz --vocab_size 20000 --sample_lines 2000000 \
--output_path chinese-sp

LLaMA's settings: pairs are merged (BPE), what has no piece falls back to bytes, digits stand alone, and the text is
taken as it is. --output_path gets tokenizer.model, tokenizer.json and vocabulary.json, which says how it was made. The
same text and flags give the same tokenizer.model, on every machine and on any number of cores.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from vicuna import log
from vicuna.args import at_least, check_seed, flag, parse
from vicuna.errors import UserError, run
from vicuna.vocabulary.flags import TextFlags

PIECES_OF_BYTES = 256


@dataclass
class TrainFlags:
    """How large, of which kind, from how much of the text."""

    output_path: str = flag("", "new folder for the tokenizer")
    vocab_size: int = flag(20000, "pieces, those of single bytes and <unk>, <s> and </s> included")
    model_type: Literal["bpe", "unigram"] = flag(
        "bpe", "bpe merges pairs, as LLaMA's does; unigram is what Chinese-LLaMA-Alpaca published"
    )
    character_coverage: float = flag(0.9995, "share of the text's characters that get a piece of their own; 1 for all")
    byte_fallback: bool = flag(True, "write characters without a piece as bytes; False makes them unknown")
    sample_lines: int = flag(0, "lines to draw from the text and train on, for one that memory can not hold; 0 for all")
    seed: int = flag(42, "fixes which lines are drawn")

    def __post_init__(self) -> None:
        at_least("--vocab_size", self.vocab_size, 4 + PIECES_OF_BYTES * self.byte_fallback)
        at_least("--sample_lines", self.sample_lines, 0)
        check_seed(self.seed)
        if not 0.9 <= self.character_coverage <= 1:
            raise UserError(
                f"--character_coverage {self.character_coverage} is out of range: expected 0.9 to 1, such as 0.9995."
            )


def main(flags: TrainFlags, texts: TextFlags) -> None:
    """Read, draw, train and write."""
    log.set_up()
    from vicuna.files.outputs import atomic_folder
    from vicuna.prompt.tokenizer_json import write_tokenizer_json
    from vicuna.vocabulary.texts import Texts
    from vicuna.vocabulary.training import cut_line, draw_lines, train_sentencepiece
    from vicuna.vocabulary.writing import TOKENIZER_MODEL, write_facts

    source = Texts(texts)
    source.check()
    with atomic_folder(flags.output_path, "--output_path") as folder:
        lines, count = draw_lines(progress(source), flags.sample_lines, flags.seed)
        parts = [part for line in lines for part in cut_line(line)]
        model = train_sentencepiece(
            parts,
            flags.vocab_size,
            loud=sys.stderr.isatty(),
            model_type=flags.model_type,
            character_coverage=flags.character_coverage,
            byte_fallback=flags.byte_fallback,
        )
        (folder / TOKENIZER_MODEL).write_bytes(model)
        if notice := write_tokenizer_json(folder):
            log.log.warning("%s.", notice)
        digest = hashlib.sha256(model).hexdigest()
        cut = len(parts) - len(lines)
        facts = {"flags": {**asdict(flags), **asdict(texts)}, "files": [asdict(file) for file in source.files]}
        write_facts(folder, {**facts, "lines": count, "lines_used": len(lines), "cuts": cut, "sha256": digest})
    drawn = f"{len(lines):,} of {count:,} lines" if len(lines) < count else f"{count:,} lines"
    print(f"{flags.vocab_size:,} pieces ({flags.model_type}) of {drawn}, too long ones cut in {cut:,} places: ", end="")
    print(f"{flags.output_path}\nsha256 of {TOKENIZER_MODEL}: {digest}")


def progress(lines: Iterable[str]) -> Iterator[str]:
    """The lines, counted on the terminal, where there is one."""
    from tqdm import tqdm

    return iter(tqdm(lines, desc="Reading", unit="line", unit_scale=True, disable=None))


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, TrainFlags, TextFlags)))
