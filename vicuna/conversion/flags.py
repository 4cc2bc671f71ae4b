"""Flags of tools/convert_data.py."""

from dataclasses import dataclass, field
from typing import Literal

from vicuna.args import at_least, check_seed, flag
from vicuna.conversion.sets import LANGUAGES, MIXES, SETS
from vicuna.errors import UserError

FORMATS = ("instruct", "chat")


@dataclass
class ConvertFlags:
    """What is converted, into what, and how."""

    source: str = field(
        default="",
        metadata={"help": f"the published set, also as --from: {', '.join(SETS)}", "aliases": ["--from"]},
    )
    to: str = flag("", "instruct: rows of instruction, input and output; chat: rows of two lists, input and output")
    data_path: list[str] = flag([], "its files, or folders of them; with --mix each as SET=PATH")
    output_path: str = flag("", "the .jsonl to write; rows left out are explained in one beside it, .skipped.jsonl")
    mix: str = flag("", f"in place of --from: several sets in one file: {', '.join(MIXES)}")
    prompts: Literal["one", "none", "mixed"] = flag(
        "one",
        "sets of a domain: one instruction for all questions, the bare question as the instruction, or instructions "
        "drawn from several",
    )
    instruction: list[str] = flag(
        [], "instruction in place of the set's own; several are what --prompts mixed draws from"
    )
    asker: str | None = flag(None, "what stands in front of each question, such as 病人：; default: the set's own")
    answers: Literal["numbered", "first", "each"] = flag(
        "numbered", "cmedqa2: all answers of a question as one numbered list, the first, or a row for each"
    )
    split: Literal["all", "train", "dev", "test"] = flag("all", "cmedqa2: questions of which part")
    drop_laws: bool = flag(False, "lawyer-llama: leave the articles out of the question")
    direction: Literal["both", "zh-en", "en-zh"] = flag("both", "translation: which way")
    language: Literal[LANGUAGES] = flag("any", "zh leaves dialogues out that are not mostly Chinese")
    drop_system: bool = flag(
        False, "leave system messages out; --to instruct, which has no place for them, always does"
    )
    category: str = flag("", "a field category with this in every row, by which tools/evaluate.py tells rows apart")
    rows: int = flag(0, "rows to draw of the usable ones, in their order; 0 for all")
    seed: int = flag(42, "fixes what is drawn, and the order of a mix")
    encoding: str | None = flag(None, "text encoding of the files; default: found out among UTF-8, UTF-16 and GB18030")

    def __post_init__(self) -> None:
        at_least("--rows", self.rows, 0)
        check_seed(self.seed)
        if bool(self.source) == bool(self.mix):
            both = "both were given" if self.mix else "neither was given"
            raise UserError(f"--from names one set, --mix several, and {both}; give one of them.")
        if self.mix:
            self._check_mix()
        elif self.source not in SETS:
            raise UserError(f"--from {self.source} is not a set that is known; expected one of {', '.join(SETS)}.")
        elif self.to not in FORMATS:
            said = f"--to {self.to} is not a format" if self.to else "--to is not given"
            raise UserError(f"{said}; expected {' or '.join(FORMATS)}.")
        if not self.data_path:
            raise UserError("--data_path is not given; name the files of the set, or their folder.")
        if not self.output_path.endswith(".jsonl"):
            raise UserError(f"--output_path {self.output_path!r} has to end in .jsonl, which is what is written.")
        if self.source and SETS[self.source].asked is None and (self.instruction or self.asker is not None):
            raise UserError(
                f"--instruction and --asker are for the questions of a domain, and {self.source} is of none; leave "
                "them out."
            )
        if len(self.instruction) > 1 and self.prompts != "mixed":
            raise UserError(f"--instruction has {len(self.instruction)} values; give one, or --prompts mixed.")

    def _check_mix(self) -> None:
        if self.mix not in MIXES:
            raise UserError(f"--mix {self.mix} is not a mix that is known; expected one of {', '.join(MIXES)}.")
        mix = MIXES[self.mix]
        if self.to not in ("", mix.to):
            raise UserError(f"--mix {self.mix} is one of {mix.to}, not of --to {self.to}; leave --to out.")
        self.to = mix.to
        if self.rows:
            raise UserError("--rows draws from one set, and the mix says how many of each; leave it out.")
        given = self.paths_by_set()
        if missing := [name for name in mix.parts if name not in given]:
            raise UserError(
                f"--mix {self.mix} takes {' and '.join(mix.parts)}, and --data_path names no files of {missing[0]}; "
                f"add {missing[0]}=PATH."
            )

    def paths_by_set(self) -> dict[str, list[str]]:
        """Set -> its files and folders, in the order of the mix.

        Raises:
            UserError: one that names no set of the mix.
        """
        if self.source:
            return {self.source: list(self.data_path)}
        given: dict[str, list[str]] = {name: [] for name in MIXES[self.mix].parts}
        for one in self.data_path:
            name, sign, path = one.partition("=")
            if not sign or name not in given:
                raise UserError(
                    f"--data_path {one} names no set of the mix; expected SET=PATH, the set one of {', '.join(given)}."
                )
            given[name].append(path)
        return {name: paths for name, paths in given.items() if paths}
