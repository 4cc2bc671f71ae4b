"""Give a base rows for a larger vocabulary: tokenizer, embeddings, head and configs in one go.

    python tools/expand_vocabulary.py --model_path /data/llama-7b --tokenizer_path merged-tokenizer \
--output_path llama-7b-zh
    python tools/expand_vocabulary.py --model_path /data/qwen --add_tokens words.txt --output_path qwen-words

Old rows stay bit by bit, and a head that is the embeddings stays so. --output_path gets a whole base, and
new_rows.json, which says which rows are new: finetune.py --train new_rows and lora+new_rows train these alone.
Weights are copied one tensor at a time from files that are mapped.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vicuna import log
from vicuna.args import check_seed, flag, parse
from vicuna.errors import UserError, run

if TYPE_CHECKING:
    from vicuna.model.base import Base
    from vicuna.vocabulary.expansion import NewPieces


@dataclass
class ExpandFlags:
    """Which base, by what, and what new rows begin as."""

    model_path: str = flag(
        "models/tiny-llama-zh", "base model: a folder in Hugging Face format, or a hub id owner/name; not changed"
    )
    tokenizer_path: str = flag(
        "", "larger tokenizer, as tools/merge_tokenizers.py makes it: a folder, or a tokenizer.model"
    )
    add_tokens: str = flag("", "for a base with a tokenizer.json only: a text file of words to add, one a line")
    output_path: str = flag("", "new folder for the enlarged base")
    init: Literal["subpieces", "mean", "normal"] = flag(
        "subpieces",
        "what a new row begins as: the mean of the rows that its text was made of before; the mean of all old rows; or "
        "drawn at random, as in a new model",
    )
    seed: int = flag(42, "fixes what --init normal draws")

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if bool(self.tokenizer_path) == bool(self.add_tokens):
            raise UserError("expected one of --tokenizer_path, a larger tokenizer, and --add_tokens, a file of words.")


def main(flags: ExpandFlags) -> None:
    """Check everything, then write."""
    log.set_up()
    from vicuna.files.outputs import atomic_folder, check_new_folder
    from vicuna.model.found import look_at_paths

    check_new_folder(flags.output_path, "--output_path")
    look_at_paths(flags.model_path)
    look_at_pieces(flags)
    from vicuna.files.tensors import write_model
    from vicuna.model.base import check_base, fingerprint
    from vicuna.model.base_tensors import read_base_tensors
    from vicuna.model.new_rows import write_new_rows
    from vicuna.model.openable import make_openable
    from vicuna.vocabulary.expansion import grow_tensors, grown_config

    with atomic_folder(flags.output_path, "--output_path") as folder:
        base = check_base(flags.model_path)
        new, padding = write_tokenizer(folder, base, flags)
        grown = grown_config(base.config, new)
        tensors = read_base_tensors(base.path, base.config)
        tensors = grow_tensors(tensors, base.config, grown, new, flags.init, flags.seed)
        write_configs(folder, base, grown.vocab_size, padding)
        make_openable(folder)
        made_of = {"base": base.path.name, "base_fingerprint": fingerprint(base.path)}
        write_new_rows(folder, new.rows, init=flags.init, **made_of)
        write_model(folder, tensors)
    count = len(new.parts)
    print(
        f"{count:,} new pieces, ids {new.rows[0]:,} to {new.rows[-1]:,}, begun by {flags.init}; vocabulary "
        f"{base.config.vocab_size:,} before, {grown.vocab_size:,} after: {flags.output_path}"
    )


def look_at_pieces(flags: ExpandFlags) -> None:
    """See that what the new pieces are read from is there.

    Raises:
        UserError: it is not.
    """
    from vicuna.vocabulary.texts import read_words
    from vicuna.vocabulary.writing import model_file

    if flags.tokenizer_path:
        model_file(flags.tokenizer_path, "--tokenizer_path")
    else:
        read_words(Path(flags.add_tokens).expanduser())


def write_tokenizer(folder: Path, base: "Base", flags: ExpandFlags) -> tuple["NewPieces", str]:
    """The enlarged tokenizer; its new pieces, and the name of its padding piece, "" for none."""
    from vicuna.model.openable import copy_tokenizer
    from vicuna.vocabulary.enlarged_tokenizer import (
        check_words,
        new_pieces,
        new_words,
        write_larger,
        write_words,
    )
    from vicuna.vocabulary.texts import read_words
    from vicuna.vocabulary.writing import model_file

    if flags.tokenizer_path:
        file = model_file(flags.tokenizer_path, "--tokenizer_path")
        new = new_pieces(base, file)
        return new, write_larger(folder, base, file)
    words = read_words(Path(flags.add_tokens).expanduser())
    added, new = new_words(base, words)
    copy_tokenizer(base.path, folder)
    write_words(folder, base, added, new)
    check_words(folder, added, new)
    if len(added) < len(words):
        log.log.info("%d of the %d words are tokens already", len(words) - len(added), len(words))
    return new, ""


def write_configs(folder: Path, base: "Base", vocab: int, padding: str) -> None:
    """config.json as the base has it but for the size of its vocabulary and a new padding; the other configs."""
    from vicuna.files.json_files import read_json
    from vicuna.model.found import RUN_ARGS, model_run_args
    from vicuna.model.known_files import copy_known
    from vicuna.prompt.tokenizer import read_sentencepiece

    config: dict[str, Any] = read_json(base.path / "config.json")
    if "vocab_size" not in config:
        raise UserError(
            f"{base.path / 'config.json'} does not say vocab_size at its top: such a base can not be enlarged."
        )
    config["vocab_size"] = vocab
    if padding:
        config["pad_token_id"] = read_sentencepiece(folder / "tokenizer.model")[1].piece_to_id(padding)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    copy_known(base.path, folder, ["generation_config.json", *[RUN_ARGS] * bool(model_run_args(base.path))])


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ExpandFlags)))
