"""Make a model folder in Hugging Face format of a GGUF file.

    python tools/convert_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf smollm2
    python tools/convert_gguf.py model-q4_k_m.gguf model-hf --dtype float16

Takes the file and the new folder. The folder gets the weights, dequantised one tensor at a time, config.json,
generation_config.json with every id that ends an answer, the tokenizer with the ids of the file, and the file's chat
template as chat_template.jinja. What quantising took from the weights is not given back. Training, merging and
questions open a GGUF without this; programs that read folders, such as vLLM and quantisers, need it.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from vicuna import log
from vicuna.errors import run

DTYPES = ("file", "float32", "float16", "bfloat16")


def main(argv: list[str] | None = None) -> None:
    """Check, then write, the weights last."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("input_file", help="GGUF file of a model")
    parser.add_argument("output_dir", help="new folder")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="file",
        help="precision of the weights; file (the default): float32 of quantised ones, others as they are in the file",
    )
    flags = parser.parse_args(argv)
    log.set_up()
    from vicuna.files.outputs import atomic_folder, check_new_folder
    from vicuna.gguf_file.reader import read_gguf_model

    check_new_folder(flags.output_dir, "output_dir")
    file = read_gguf_model(flags.input_file, "input_file")  # a path that is mistyped is told before torch is imported
    import torch

    from vicuna.export.merge import merge
    from vicuna.files.tensors import dtype_name, main_dtype, write_model
    from vicuna.gguf_file.folder import write_small_files
    from vicuna.gguf_file.weights import describe_types
    from vicuna.model.base import check_base
    from vicuna.model.base_tensors import read_base_tensors
    from vicuna.model.found import RUN_ARGS, model_run_args
    from vicuna.model.model_card import export_card, write_card
    from vicuna.model.openable import make_openable
    from vicuna.prompt.tokenizer_json import match_training_ids

    with atomic_folder(flags.output_dir, "output_dir") as folder:
        base = check_base(flags.input_file)
        tensors = read_base_tensors(base.path, base.config)
        if base.config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        written = merge(tensors, [], None if flags.dtype == "file" else getattr(torch, flags.dtype))
        write_small_files(file, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = dtype_name(main_dtype(written))
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        make_openable(folder)
        if said := model_run_args(base.path):
            (folder / RUN_ARGS).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        if notice := match_training_ids(folder, base.context):
            log.log.warning("%s.", notice)
        made_of = {"file": file.path.name, "types": describe_types(file), "dtype": config["dtype"]}
        write_card(folder, export_card(Path(flags.output_dir).name, "a GGUF file as a folder", base.path, made_of))
        write_model(folder, written)
    print(f"wrote {len(written)} tensors of {file.path.name} in {config['dtype']}: {flags.output_dir}")


if __name__ == "__main__":
    run(main)
