"""Put the pieces of a Chinese SentencePiece model behind LLaMA's own.

    python tools/merge_tokenizers.py --llama_tokenizer_dir /data/llama-7b --chinese_sp_model_file chinese-sp \
--output_dir merged-tokenizer
    python tools/merge_tokenizers.py --llama_tokenizer_dir /data/llama-7b --chinese_sp_model_file chinese_sp.model \
--output_dir chinese-alpaca --mode compat --pad

The ids of LLaMA's pieces stay. --output_dir gets tokenizer.model, tokenizer.json with the same ids for programs that
read only this, tokenizer_config.json, and vocabulary.json, which says what was merged and what it does to the lines of
--data_path. tools/expand_vocabulary.py then gives a base the rows for it.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from vicuna import log
from vicuna.args import flag, parse, switch
from vicuna.errors import UserError, run
from vicuna.vocabulary.flags import TextFlags

if TYPE_CHECKING:
    from vicuna.vocabulary.merging import Merge
    from vicuna.vocabulary.report import Effect

SHOWN = 10  # unreachable pieces


@dataclass
class MergeFlags:
    """What is merged, how, and where to."""

    llama_tokenizer_dir: str = flag(
        "models/tiny-llama-zh", "folder with the tokenizer.model of LLaMA, or of another base that merges pairs"
    )
    chinese_sp_model_file: str = flag("./chinese_sp.model", "the Chinese SentencePiece model, or the folder it is in")
    output_dir: str = flag("", "new folder for the merged tokenizer")
    mode: Literal["ranked", "compat"] = flag(
        "ranked",
        "ranked: new pieces go on with LLaMA's order of merges, so English stays as it is and every program finds the "
        "same pieces; compat: Chinese-LLaMA-Alpaca's published files byte by byte",
    )
    pad: str | None = switch("also add this padding piece behind all others; bare: [PAD]", "[PAD]")
    keep_ascii: bool = flag(False, "keep new pieces of ASCII alone, which cut English otherwise; compat always does")

    def __post_init__(self) -> None:
        if self.pad == "":
            raise UserError("--pad is empty; expected a piece such as [PAD].")


def main(flags: MergeFlags, texts: TextFlags) -> None:
    """Merge, write, and report."""
    log.set_up()
    from vicuna.files.outputs import atomic_folder
    from vicuna.prompt.tokenizer import read_sentencepiece
    from vicuna.prompt.tokenizer_json import write_tokenizer_json
    from vicuna.vocabulary.merging import merge_models
    from vicuna.vocabulary.report import measure, unreachable
    from vicuna.vocabulary.texts import Texts
    from vicuna.vocabulary.writing import TOKENIZER_MODEL, model_file, sha256, write_facts

    source = Texts(texts)
    source.check()
    base_file = model_file(flags.llama_tokenizer_dir, "--llama_tokenizer_dir")
    other_file = model_file(flags.chinese_sp_model_file, "--chinese_sp_model_file")
    base, other = (read_sentencepiece(file)[0] for file in (base_file, other_file))
    with atomic_folder(flags.output_dir, "--output_dir") as folder:
        merge = merge_models(base, other, flags.mode, flags.keep_ascii, flags.pad or "")
        (folder / TOKENIZER_MODEL).write_bytes(merge.proto.SerializeToString())
        write_tokenizer_json(folder, padding=flags.pad)
        lines = list(dict.fromkeys(source))
        effect, lost = measure(base_file, folder, lines), unreachable(merge)
        digests = {name: sha256(file) for name, file in (("base", base_file), ("other", other_file))}
        digests["merged"] = sha256(folder / TOKENIZER_MODEL)
        facts = {"flags": {**asdict(flags), **asdict(texts)}, "sha256": digests, **counts(merge), "unreachable": lost}
        write_facts(folder, {**facts, "effect": asdict(effect), "files": [asdict(file) for file in source.files]})
    print_report(merge, lost, effect)
    print(f"{flags.output_dir}\nsha256 of {TOKENIZER_MODEL}: {digests['merged']}")
    if effect.json_differs:
        log.log.warning(
            "%d of %d lines have other tokens in programs that read tokenizer.json, as transformers and vLLM do: equal "
            "scores leave the order of merges to the program. This toolkit and llama.cpp go by tokenizer.model. --mode "
            "ranked has no equal scores.", effect.json_differs, effect.lines,
        )  # fmt: skip


def counts(merge: "Merge") -> dict[str, Any]:
    """What became of the pieces, in numbers."""
    return {
        "pieces": len(merge.proto.pieces),
        "base_pieces": merge.base_size,
        "other_pieces": merge.other_size,
        "new_pieces": len(merge.new_pieces),
        "duplicates": dict(merge.duplicates),
        "left_out": dict(merge.left_out),
    }


def print_report(merge: "Merge", lost: list[str], effect: "Effect") -> None:
    """The same, and what it does to the texts, in words."""
    padding = f" + {merge.pad}" if merge.pad else ""
    print(f"{len(merge.proto.pieces):,} pieces = {merge.base_size:,} + {len(merge.new_pieces):,} new{padding}")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in merge.duplicates.most_common())
    print(f"of the other model's {merge.other_size:,} there were already {merge.duplicates.total():,}: {kinds}")
    for reason, count in merge.left_out.most_common():
        print(f"left out: {count:,} ({reason})")
    shown = f": {' '.join(lost[:SHOWN])}{' …' if len(lost) > SHOWN else ''}" if lost else ""
    print(f"new pieces that no text is cut into: {len(lost):,}{shown}")
    for told in effect.told():
        print(told)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MergeFlags, TextFlags)))
