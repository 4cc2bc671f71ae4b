"""Flags of the data: what is learnt, and how it becomes tokens."""

from dataclasses import dataclass, replace
from typing import Literal

from vicuna.args import Fallback, at_least, flag
from vicuna.data.fields import parse_fields
from vicuna.data.fills import parse_fills
from vicuna.errors import UserError
from vicuna.prompt.own_template import THINKING
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE, TRAIN_TURNS

CHAT_CUTOFF_LEN = 2048  # of finetune_chat.py


@dataclass
class ReadFlags:
    """Files of records, and how they are read."""

    data_path: list[str] = flag([], "records: files of any format that is known")
    fields: list[str] = flag(
        [],
        "where a file with names of its own has the fields of a known format: instruction=query output=response, or "
        "with paths, instruction=turns[].q output=turns[].a",
    )
    skip_bad_rows: bool = flag(False, "leave malformed records out, and count them, instead of stopping")
    encoding: str | None = flag(
        None, "text encoding of the data file; default: found out among UTF-8, UTF-16 and GB18030"
    )

    def __post_init__(self) -> None:
        parse_fields(self.fields)


@dataclass
class DataFlags(ReadFlags):
    """What is learnt, and how it becomes tokens."""

    data_path: list[str] = flag(
        ["sample/instruct/data_sample.jsonl"],
        "records: .json, .jsonl, .csv, .tsv or .parquet of instructions or dialogues in any known format, or of a "
        "field text; or a .txt of documents separated by blank lines; all but .parquet also as .gz or .zst. Several "
        "files are mixed; my.jsonl:2 takes each training record of that "
        "file twice an epoch, :0.5 half of them",
    )
    # Programs that know the base pass a `Fallback`, which `named` resolves.
    prompt_type: Literal[ALL_PROMPT_TYPES] = flag(
        "instruct",
        "template around a record; text adds nothing, base is the base's own chat template, which is taken where it "
        "declares one and nothing is named here",
    )
    thinking: Literal[THINKING] | None = flag(
        None,
        "of --prompt_type base: keep learns the thinking before an answer (reasoning_content, or <think>…</think>), "
        "drop leaves it out, empty also puts a block without a thought into the prompt; default: keep, and empty for "
        "answers without one",
    )
    cutoff_len: int = flag(
        256, "longest example in tokens; a longer dialogue loses its oldest turns, a longer answer its end"
    )
    pack: bool = flag(
        False,
        "with --prompt_type text: documents behind each other in rows of --cutoff_len tokens, without losing one; "
        "attention stays within a document",
    )
    train_turns: Literal[TRAIN_TURNS] = flag(
        "last",
        "answers of a dialogue to learn; all takes --prompt_type base or chat, and puts EOS behind each (chat_eos)",
    )
    train_on_inputs: bool = flag(False, "learn the prompt too, as the original in effect did")
    test_size: int | None = flag(
        None,
        "records held out for evaluation, the same ones for every seed; 0 for none; default 5 %% of the records, at "
        "most 200",
    )
    fill: list[str] = flag(
        [],
        "what stands in the place of {{name}} and the like in the records, such as name=小羊驼 author=春水团队 for "
        "sample/identity",
    )
    cache_path: str = flag(
        "",
        "folder for tokenised records, which later runs use again; default: chinese-vicuna in the user's cache folder",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_fills(self.fill)
        at_least("--cutoff_len", self.cutoff_len, 8)
        if self.pack and self.prompt_type != "text":
            raise UserError(
                f"--pack puts documents behind each other, which records of --prompt_type {self.prompt_type} are not; "
                "use --prompt_type text, or leave it out."
            )
        is_open = isinstance(self.prompt_type, Fallback)
        if self.thinking and self.prompt_type != BASE and not is_open:
            raise UserError(
                f"--thinking {self.thinking} is of the base's own chat template, and --prompt_type {self.prompt_type} "
                "knows no thinking; leave it out, or use --prompt_type base."
            )
        if self.train_turns == "all" and self.prompt_type != BASE and not is_open:
            if self.prompt_type not in ("chat", "chat_eos"):
                raise UserError(
                    f"--train_turns all puts EOS behind every answer, which --prompt_type {self.prompt_type} does not "
                    "know; use --prompt_type chat, or --train_turns last."
                )
            self.prompt_type = "chat_eos"
        if self.test_size is not None:
            at_least("--test_size", self.test_size, 0)

    def named(self, has_template: bool) -> "DataFlags":
        """These flags with the prompt type that they leave open.

        Args:
            has_template: the base declares a chat template.

        Raises:
            UserError: it does not go with the other flags.
        """
        if not isinstance(self.prompt_type, Fallback):
            return self
        return replace(self, prompt_type=BASE if has_template else self.prompt_type.value)
