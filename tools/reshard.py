"""Cut a model in Meta's layout into another number of consolidated.*.pth files.

    python tools/reshard.py 2 llama/7B llama-7B-in-2

Takes the new number of shards, the folder to read and the new folder to write, as the original did. Tensors are
cut as Meta's programs expect: heads stay whole, norms are in every shard, and where the rows of the head do not
divide the last shard has the remainder. Every bit stays as it is; params.json, tokenizer.model and the
template of a merged model are copied. A manifest that lies in the folder is checked first.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from vicuna import log
from vicuna.errors import run


def main(argv: list[str] | None = None) -> None:
    """Check, then write."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("num_shards", type=int, help="number of shards to write")
    parser.add_argument("input_dir", help="folder with consolidated.00.pth and params.json")
    parser.add_argument("output_dir", help="new folder")
    flags = parser.parse_args(argv)
    log.set_up()
    from vicuna.export.manifests import check_input
    from vicuna.export.meta_layout import copy_template, read_meta, write_meta
    from vicuna.export.meta_params import PARAMS_FILE, check_shard_count
    from vicuna.files.outputs import atomic_folder
    from vicuna.model.known_files import copy_known

    with atomic_folder(flags.output_dir, "output_dir") as folder:
        model = read_meta(Path(flags.input_dir).expanduser(), flag="input_dir")
        check_shard_count(flags.num_shards, model.shape, "num_shards")
        check_input(model.folder)
        (folder / PARAMS_FILE).write_text(json.dumps(model.params), encoding="utf-8")
        if model.tokenizer:
            copy_known(model.tokenizer.parent, folder, [model.tokenizer.name])
        copy_template(model.folder, folder)
        write_meta(folder, model.shape, model.tensors(rotated=False), flags.num_shards, rotated=False)
    print(f"cut {len(model.files)} shards into {flags.num_shards}: {flags.output_dir}")


if __name__ == "__main__":
    run(main)
