"""How far clean exports are from base + adapters, by type; the bounds of vicuna/certificate/verdict.py come from it.

    python benchmarks/certificate_bounds.py --folder bounds
    python benchmarks/certificate_bounds.py --folder bounds --pair models/tiny-llama-zh lora-Vicuna

Makes small models, exports each to every type with the tools, and prints the largest distances as a table. An export
counts for a type as long as the type costs at most a quarter of what the adapter changes. About two minutes a model.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import ModuleType

import torch
from peft import LoraConfig, get_peft_model
from sentencepiece import sentencepiece_model_pb2
from transformers import LlamaConfig, LlamaForCausalLM

from vicuna.foreign.odd_files import NEVER_RUN

ROOT = Path(__file__).resolve().parent.parent
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = ("float32", "float16", "bfloat16")
VOCAB = 1800
NEW_PIECES = ("地轴", "果肉", "香味", "备份")  # in the fixed texts, and not in the tokenizer
DISTANCES = ("kl", "other_top", "perplexity", "gap", "effect", "part")
SHARE = 0.25  # of what the adapter changes that a type may cost and still count


def tool(name: str) -> ModuleType:
    """A tool as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def confident_llama(folder: Path, tokenizer: Path, seed: int = 0, **sizes: object) -> Path:
    """A LLaMA of random weights that is as sure of its next token as a trained one, and as robust to quantisation.

    Its head is its embeddings in another order: what a token leads to is decided there, and the blocks between add a
    little. Grouped heads, hidden 256 and FFN 768 (which k-quants divide) and an untied head unless `sizes` differ.
    """
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.03,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **sizes}))
    embeddings = model.get_input_embeddings().weight.data.normal_()
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.data = embeddings[torch.randperm(len(embeddings))] / 12
    model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def strong_adapter(
    base: Path, folder: Path, std: float = 0.35, seed: int = 1, grown: int = 0, **config: object
) -> Path:
    """An adapter of random values that changes a good deal; with rows for `grown` tokens in all where that is given."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, **NEVER_RUN)
    if grown:
        model.resize_token_embeddings(grown, mean_resizing=False)
        scale = 1 / 12
        for module, std_of_rows in ((model.get_input_embeddings(), 1.0), (model.lm_head, scale)):
            module.weight.data[VOCAB:].normal_(std=std_of_rows)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": SEVEN, **config}
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, value in model.named_parameters():
        if value.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(value, std=std)
        elif value.requires_grad and "modules_to_save" in name:
            value.data += value.data.std() / 4 * torch.randn_like(value)
    model.save_pretrained(folder)
    (folder / "run_args.json").write_text(json.dumps({"prompt_type": "instruct"}), encoding="utf-8")
    return folder


def add_pieces(folder: Path, tokenizer: Path, pieces: tuple[str, ...] = NEW_PIECES) -> Path:
    """Put the tokenizer with more pieces beside an adapter, as adapters that enlarge the vocabulary are published."""
    proto = sentencepiece_model_pb2.ModelProto.FromString((tokenizer / "tokenizer.model").read_bytes())
    for piece in pieces:
        proto.pieces.add(piece=piece, score=0)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return folder


def write_tokenizer(folder: Path) -> Path:
    """The embedded base's tokenizer, made anew."""
    maker = tool("make_tiny_llama")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(maker.train_tokenizer(maker.corpus(), VOCAB))
    maker.write_tokenizer_json(folder, 512)
    return folder


def merge(base: Path, adapter: Path, out: Path, **flags: object) -> Path:
    """tools/merge_lora.py."""
    made = tool("merge_lora")
    made.main(made.MergeFlags(model_path=str(base), lora_path=[str(adapter)], out_path=str(out), **flags))
    return out


def to_gguf(model: Path, out: Path, kind: str, **flags: object) -> Path:
    """tools/export_gguf.py."""
    made = tool("export_gguf")
    made.main(made.ExportFlags(model_path=str(model), out_path=str(out), type=kind, **flags))
    return out


def save_at_bits(model: Path, out: Path, bits: int) -> Path:
    """A folder in which bitsandbytes keeps the model at fewer bits."""
    from vicuna.model.base import check_base, load_base

    load_base(check_base(str(model)), bits).save_pretrained(out)
    for file in model.iterdir():
        if not (out / file.name).exists() and file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
    return out


def quantise(model: Path, out: Path, **flags: object) -> Path:
    """tools/quant_llama.py, on the texts of sample/."""
    made = tool("quant_llama")
    settings = {"dataset": str(ROOT / "sample/text/knowledge.txt"), "nsamples": 16, "seqlen": 256, **flags}
    made.main(made.QuantiseFlags(model_path=str(model), save=str(out), **settings))
    return out


def export_packed(merged: Path, folder: Path) -> list[Path]:
    """A merged model by GPTQ at every number of bits and by AWQ, in the smallest and the largest groups."""
    ways = {f"gptq-{bits}-{group}": {"wbits": bits, "groupsize": group} for bits in (8, 4, 3, 2) for group in (32, 128)}
    ways |= {f"awq-4-{group}": {"awq": True, "groupsize": group, "nsamples": 4} for group in (32, 128)}
    return [quantise(merged, folder / name, **flags) for name, flags in ways.items()]


def export_all(base: Path, adapter: Path, folder: Path, kinds: tuple[str, ...], **flags: object) -> list[Path]:
    """The merged model in every format and type."""
    if not kinds:  # GPTQ and AWQ alone
        return export_packed(merge(base, adapter, folder / "hf-float32", dtype="float32", **flags), folder)
    made = [merge(base, adapter, folder / f"hf-{dtype}", dtype=dtype, **flags) for dtype in DTYPES]
    made.append(merge(base, adapter, folder / "pth", format="pth", num_shards=2, **flags))
    made += [to_gguf(made[0], folder / kind / "model.gguf", kind) for kind in kinds]
    return made + [save_at_bits(made[0], folder / f"hf-{bits}-bit", bits) for bits in sound_bits(base)]


def sound_bits(base: Path) -> list[int]:
    """8 and 4; only 8 where rows do not divide into blocks of 64, which bitsandbytes 0.50 gets wrong on a CPU."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return [8] if config["hidden_size"] % 64 or config["intermediate_size"] % 64 else [8, 4]


def certify(base: Path, adapter: Path, exports: list[Path], out: Path, **flags: object) -> dict:
    """tools/verify_export.py; its certificate, whatever it says."""
    made = tool("verify_export")
    settings = made.CertificateFlags(
        model_path=str(base), lora_path=[str(adapter)], export=[str(one) for one in exports], out_path=str(out),
        overwrite=True, **flags,
    )  # fmt: skip
    with contextlib.suppress(SystemExit):
        made.main(settings)
    return json.loads(out.read_text(encoding="utf-8"))


def few_texts(file: Path) -> Path:
    """Every third of the fixed texts, which is what the tests compare on."""
    rows = (ROOT / "sample/instruct/certificate.jsonl").read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(rows[::3]), encoding="utf-8")
    return file


def certify_exports(
    base: Path, adapter: Path, folder: Path, prompt_type: str | None, texts: list[str], packed: bool = False
) -> list[dict]:
    """Certificates of every clean export of one pair, on `texts` or on all and some of our own.

    Adapter GGUFs are among them, on three types of their base.

    Args:
        packed: those by GPTQ and AWQ, and no other.
    """
    kinds = () if packed else tool("export_gguf").TYPES
    said = {"prompt_type": prompt_type} if prompt_type else {}
    exports = export_all(base, adapter, folder, kinds, **said)
    base_ggufs = []
    if not packed and not (adapter / "tokenizer.model").is_file():
        exports.append(to_gguf(base, folder / "adapter.gguf", "f32", lora_path=str(adapter), **said))
        base_ggufs = [str(to_gguf(base, folder / f"base-{kind}.gguf", kind)) for kind in ("f32", "q8_0", "q4_0")]
    more = {"base_gguf": base_ggufs, "bits": [] if packed else sound_bits(base), **said}
    sets = [texts] if texts else [["sample/instruct/certificate.jsonl"], [str(few_texts(folder / "few.jsonl"))]]
    files = [folder / f"certificate-{number}.json" for number in range(len(sets))]
    return [certify(base, adapter, exports, file, texts=one, **more) for file, one in zip(files, sets, strict=True)]


def bound(largest: float, name: str) -> float:
    """At most twice the largest distance, to two digits; nothing where that is rounding.

    Of a share, at most halfway from what clean exports lack to all of it: a part that is missing is to be seen.
    """
    from vicuna.certificate.verdict import ignore_rounding

    twice = 2 * ignore_rounding(largest, name.upper())
    if name in ("other_top", "effect", "part"):
        twice = min(twice, (1 + largest) / 2)
    if not twice:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(twice)) - 1)
    return float(f"{math.floor(twice / unit) * unit:.2g}")


def largest_divergences(certificate: dict) -> dict[str, dict[str, float]]:
    """Type -> the largest of each distance, of exports that count."""
    found: dict[str, dict[str, float]] = {}
    for one in certificate["artefacts"]:
        distance, control = one["distance"], one["control"]
        if distance is None or not distance["kl"] <= SHARE * control["kl"]:
            print(f"{one['type']}: left out, {one['name']}", *one["reasons"][:1])
            continue
        shown = {
            **{name: distance[name] for name in ("kl", "other_top", "gap")},
            "perplexity": abs(math.log(distance["perplexity"] / certificate["perplexity"]["base + adapters"])),
            "effect": abs(1 - distance["effect"]["all"]),
            "part": max(abs(1 - share) for share in distance["effect"].values()),
        }
        before = found.setdefault(one["type"], shown)
        found[one["type"]] = {name: max(value, before[name]) for name, value in shown.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new folder for models and exports")
    parser.add_argument("--pair", nargs="+", action="append", default=[], help="base, adapter[, prompt type[, texts]]")
    parser.add_argument("--packed", action="store_true", help="only what GPTQ and AWQ make (scripts/install_gptq.sh)")
    args = parser.parse_args()
    tokenizer = write_tokenizer(args.folder / "tokenizer")
    plain = confident_llama(args.folder / "base", tokenizer)
    seven = strong_adapter(plain, args.folder / "seven", rank_pattern={"layers.1.self_attn.q_proj": 2, "down_proj": 6})
    whole = {"modules_to_save": ["embed_tokens", "lm_head"], "grown": VOCAB + len(NEW_PIECES)}
    grown = add_pieces(strong_adapter(plain, args.folder / "grown", **whole), tokenizer)
    pairs = [(plain, seven, None, []), (plain, grown, None, [])]
    for base, adapter, *more in args.pair:
        if adapter == "random":
            adapter = strong_adapter(Path(base), args.folder / f"random-{Path(base).name}", std=0.04)
        pairs.append((Path(base), Path(adapter), more[0] if more else None, more[1:]))
    largest: dict[str, dict[str, float]] = {}
    for number, (base, adapter, prompt_type, texts) in enumerate(pairs):
        for certificate in certify_exports(base, adapter, args.folder / str(number), prompt_type, texts, args.packed):
            for kind, found in largest_divergences(certificate).items():
                before = largest.setdefault(kind, found)
                largest[kind] = {name: max(value, before[name]) for name, value in found.items()}
    (args.folder / "distances.json").write_text(json.dumps(largest, indent=1), encoding="utf-8")
    for kind, one in largest.items():
        limits = ", ".join(f"{bound(one[name], name):g}" for name in DISTANCES)
        print(f'    "{kind}": Bound({limits}),')
    for kind, one in largest.items():
        print(f"| `{kind}` | {' | '.join(f'{bound(one[name], name):g} ({one[name]:.1e})' for name in DISTANCES)} |")


if __name__ == "__main__":
    main()
