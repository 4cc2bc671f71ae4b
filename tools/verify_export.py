"""Compare what was exported with base + adapters on fixed texts, and certify that it is the same model.

    python tools/verify_export.py --model_path B --lora_path A1 A2 --export merged merged-pth merged-q8_0.gguf
    python tools/verify_export.py --model_path B --lora_path A --export A.gguf --base_gguf B-q4_0.gguf --bits 8 4

--export takes folders that transformers opens, Meta's .pth folders and GGUF files. Prints a table, writes
certificate.json with the hashes of what was compared, and ends with status 1 when anything is further from
base + adapters than its type may be, no nearer than the base alone, or has another template or other BOS, EOS or stop
ids. Models are run one after the other; docs/en/certificate.md explains every column.
"""

import gc
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, ended_by_signals, run
from vicuna.files.aside import aside_folder, made_folder, write_text
from vicuna.files.folder_lock import held_file
from vicuna.prompt.templates import ALL_PROMPT_TYPES, encode, prompt_ids

if TYPE_CHECKING:
    from vicuna.certificate.artefacts import Artefact, Setup
    from vicuna.certificate.comparison import ArtefactResult
    from vicuna.certificate.divergence import Measurement, Reference
    from vicuna.data.records import Records
    from vicuna.export.updates import AdapterUpdate
    from vicuna.model.base import Base
    from vicuna.prompt.tokenizer import TextTokenizer

TEXTS = "sample/instruct/certificate.jsonl"
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class CertificateFlags:
    """What is compared with what, and on which texts."""

    model_path: str = flag("models/tiny-llama-zh", "base model: a folder in Hugging Face format, or a hub id")
    lora_path: list[str] = flag(["lora-Vicuna"], "adapters, applied one after the other in this order")
    export: list[str] = flag(
        [], "what was made of them: folders in Hugging Face format or with consolidated.*.pth, .gguf files"
    )
    base_gguf: list[str] = flag([], "GGUF files of the base, on each of which an adapter in --export is compared")
    bits: list[int] = flag([], "also compare base + adapters with the base at 8 or 4 bits, as it is trained and asked")
    texts: list[str] = flag([TEXTS], "records to compare on: .json, .jsonl or .txt, as finetune.py takes them")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template that the last adapter was trained with; default: what run_args.json beside it says"
    )
    max_new_tokens: int = flag(32, "length of the greedy answers that are compared")
    out_path: str = flag("certificate.json", "the certificate to write")
    overwrite: bool = flag(False, "replace --out_path where it exists")
    ignore_fingerprint: bool = flag(False, "take an adapter that was trained on other files than those of this base")

    def __post_init__(self) -> None:
        if odd := [one for one in self.bits if one not in (4, 8)]:
            raise UserError(f"--bits {odd[0]} is not compared; expected 8, 4 or both.")
        if self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens {self.max_new_tokens} is too small; expected 1 or more.")


def main(flags: CertificateFlags) -> None:
    """Check what can be checked without weights, compare, report."""
    log.set_up()
    if not flags.export and not flags.bits:
        raise UserError("--export is empty: name what was exported, or pass --bits 8 4.")
    if not flags.lora_path:
        raise UserError("--lora_path is empty; name one or more adapters.")
    out = Path(flags.out_path)
    if out.exists() and not flags.overwrite:
        raise UserError(f"--out_path {out} exists; name another file, or pass --overwrite.")
    # Imported here so that --help and a mistyped flag answer at once.
    from vicuna.model.found import look_at_paths

    look_at_paths(flags.model_path, flags.lora_path)
    with made_folder(out.parent, "--out_path"):
        pass
    from vicuna.certificate.comparison import compare_artefacts, print_table
    from vicuna.export.manifests import check_input
    from vicuna.export.updates import read_updates
    from vicuna.model.adapter_files import as_trained
    from vicuna.model.base import check_base
    from vicuna.model.base_tensors import refuse_not_finite

    base = check_base(flags.model_path)
    updates = read_updates(flags.lora_path, base, flags.ignore_fingerprint)
    artefacts = collect_artefacts(flags, len(updates))
    refuse_other_bits(flags, base)
    prompt_type = flags.prompt_type or updates[-1].prompt_type
    records = read_texts(flags.texts, prompt_type)
    for path in (base.path, *(one.folder for one in updates)):
        check_input(path)
    with ended_by_signals(), held_file(out, "--out_path"), aside_folder(out.parent) as aside:
        plain = base_as_plain(base, aside / "plain")
        refuse_not_finite(plain.path, plain.config)
        alone = base_alone(plain, updates, aside / "base")
        tokenizer = as_trained(alone.tokenizer, updates[-1].folder)
        texts, prompts = encode_texts(tokenizer, alone.context, prompt_type or "text", records, flags.max_new_tokens)
        context = max(map(len, [*texts, *prompts])) + flags.max_new_tokens
        from vicuna.certificate.artefacts import Setup
        from vicuna.certificate.identity import expected_identity

        setup = Setup(base, plain, alone, updates, context, aside)
        wanted = expected_identity(alone, updates, prompt_type)
        reference, before = measure_references(setup, texts, prompts, flags.max_new_tokens, wanted.stops)
        said = [message["content"] for dialogue in records.dialogues for message in dialogue]
        results = compare_artefacts(artefacts, setup, reference, wanted, said)
        print_table(results, reference, before)
        write_certificate(out, flags, base, updates, records, reference, before, results)
    passed = sum(one.verdict == "passed" for one in results)
    print(f"{passed} of {len(results)} passed; {out} has the figures and the hashes of what was compared.")
    if passed < len(results):
        sys.exit(1)


def collect_artefacts(flags: CertificateFlags, adapters: int) -> list["Artefact"]:
    """What is to be compared, and everything that opening it needs."""
    from vicuna.certificate.artefacts import GGUFAdapter, GGUFModel, QuantisedBase, detect_artefacts

    found = [one for name in flags.export for one in detect_artefacts(name, flags.base_gguf)]
    if adapters > 1 and (one := next((one for one in found if isinstance(one, GGUFAdapter)), None)):
        raise UserError(
            f"--export {one.lora.path} holds one adapter, --lora_path names {adapters}: compare it with its own."
        )
    if any(isinstance(one, GGUFModel) for one in found):
        from vicuna.gguf.library import load_llama_cpp

        load_llama_cpp()
    return found + [QuantisedBase(bits) for bits in dict.fromkeys(flags.bits)]


def read_texts(paths: list[str], prompt_type: str) -> "Records":
    """The fixed texts as dialogues; our own wherever the program is started from."""
    from vicuna.data.records import read_records

    named = [str(ROOT / one) if one == TEXTS and not Path(one).exists() else one for one in paths]
    try:
        return read_records(named, prompt_type or "text")
    except UserError as error:
        raise UserError(str(error).replace("--data_path", "--texts")) from error


def refuse_other_bits(flags: CertificateFlags, base: "Base") -> None:
    """Refuse to compare the base at bits that it is not opened in.

    Raises:
        UserError: it is stored at others.
    """
    from vicuna.model.stored import stored_bits, stored_precision

    stored = stored_bits(base.config)
    if stored and (odd := [one for one in flags.bits if one != stored]):
        raise UserError(
            f"--bits {odd[0]}: the weights in {base.path} are {stored_precision(base.path, base.config)}, and are used "
            f"as they are; expected --bits {stored}, or none."
        )


def base_as_plain(base: "Base", folder: Path) -> "Base":
    """The base with what its weights stand for, which is made where bitsandbytes quantised them."""
    from vicuna.certificate.adapted_base import write_dequantised_base
    from vicuna.model.stored import BITSANDBYTES, stored_method

    return write_dequantised_base(base, folder) if stored_method(base.config) == BITSANDBYTES else base


def base_alone(base: "Base", updates: list["AdapterUpdate"], folder: Path) -> "Base":
    """The base with as many embeddings as the adapters bring, which are made where they bring any."""
    from vicuna.certificate.adapted_base import write_resized_base

    grown = [update for update in updates if update.grows]
    return write_resized_base(base, grown[-1], folder) if grown else base


def encode_texts(
    tokenizer: "TextTokenizer", context: int, prompt_type: str, records: "Records", room: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of the texts, cut at the base's context; and of the prompts that leave room for an answer."""
    encoded = [encode(tokenizer, prompt_type, one, context) for one in records.dialogues]
    texts = [one.input_ids for one in encoded if one]
    asked = [prompt_ids(tokenizer, prompt_type, one[:-1]) for one in records.dialogues if len(one) > 1]
    prompts = [ids for ids in asked if len(ids) + room <= context]
    if not texts or not prompts:
        raise UserError(
            f"of {len(records.dialogues)} --texts none leaves room for an answer in the base's context of "
            f"{context} tokens: name shorter ones, with a prompt each, or lower --max_new_tokens."
        )
    return texts, prompts


def measure_references(
    setup: "Setup", texts: list[list[int]], prompts: list[list[int]], count: int, ends: frozenset[int]
) -> tuple["Reference", "Measurement"]:
    """Run base + adapters, then the base alone, both in float32."""
    from vicuna.certificate.adapted_base import load_with_adapters
    from vicuna.certificate.divergence import build_reference, measure
    from vicuna.certificate.runners import PeftRunner
    from vicuna.evaluation.runners import HFRunner
    from vicuna.model.base import load_base

    reference = build_reference(
        PeftRunner(load_with_adapters(setup.base, setup.updates, 32)), texts, prompts, count, ends
    )
    gc.collect()  # models refer to themselves, and would stay beside the next one
    return reference, measure(HFRunner(load_base(setup.alone, 32)), reference, "base alone", is_base=True)


def write_certificate(
    out: Path, flags: CertificateFlags, base: "Base", updates: list["AdapterUpdate"], records: "Records",
    reference: "Reference", before: "Measurement", results: list["ArtefactResult"],
) -> None:  # fmt: skip
    """Everything that was found, with the hashes of what was compared, whole or not at all."""
    from vicuna.certificate.verdict import BOUNDS
    from vicuna.export.manifests import model_hashes
    from vicuna.model.stored import stored_precision
    from vicuna.train.plan import library_versions

    artefacts = [
        {
            "name": one.artefact.name, "layout": one.artefact.layout, "type": one.artefact.type,
            "verdict": one.verdict, "reasons": one.reasons, "differs": sorted(one.odd),
            "distance": asdict(one.divergence) if one.divergence else None,
            "control": {"name": one.artefact.control_name, **asdict(one.control)} if one.control else None,
            "bound": asdict(BOUNDS[one.artefact.type]) if one.artefact.type in BOUNDS else None,
            "engines": {**asdict(one.engines), "verdict": one.engines.verdict} if one.engines else None,
            "sha256": {str(path): model_hashes(path) for path in one.artefact.files},
        }
        for one in results
    ]  # fmt: skip
    data = {
        "passed": all(one.verdict == "passed" for one in results),
        "base": {
            "name": flags.model_path,
            "stored": stored_precision(base.path, base.config),
            "sha256": model_hashes(base.path),
        },
        "adapters": [
            {"name": name, "sha256": model_hashes(one.folder, "adapter")}
            for name, one in zip(flags.lora_path, updates, strict=True)
        ],
        "prompt_type": flags.prompt_type or updates[-1].prompt_type,
        "texts": {"files": flags.texts, "sha256": records.sha256, "ids": reference.texts, "answers": reference.answers},
        "perplexity": {"base + adapters": reference.perplexity, "base": before.perplexity},
        "artefacts": artefacts,
        "versions": library_versions(),
    }
    write_text(out, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, CertificateFlags)))
