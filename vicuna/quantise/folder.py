"""What belongs beside quantised weights: config and generation config as the base has them, its tokenizer and template,
and how the weights were made.
"""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vicuna import __version__
from vicuna.files.json_files import read_json
from vicuna.files.tensors import dtype_name, read_tensor_files, weight_paths
from vicuna.model.base import Base, check_base, fingerprint
from vicuna.model.found import RUN_ARGS
from vicuna.model.gptq import RECORD, check_packed
from vicuna.model.known_files import copy_known
from vicuna.model.model_card import export_card, write_card
from vicuna.model.openable import TOKENIZER_FILES, copy_tokenizer, make_openable
from vicuna.quantise.calibration import Calibration
from vicuna.quantise.run import LayerError
from vicuna.quantise.settings import Settings

LIBRARY_CONFIG = "quantize_config.json"  # read by programs that do not look into config.json
GENERATION = "generation_config.json"
_OF_THIS_RUN = ("offload_to_disk_path",)  # settings of GPTQModel that name a folder which is gone
_OWN_LOG = "quant_log.csv"


def complete(
    folder: Path, base: Base, settings: Settings, calibration: Calibration, errors: list[LayerError], **facts: Any
) -> None:
    """Make a folder of GPTQModel's one that any program opens, and check that it is.

    Args:
        facts: more that `quantisation.json` says.

    Raises:
        UserError: from the checks, which would be a fault of what was written.
    """
    for name in (*TOKENIZER_FILES, GENERATION, _OWN_LOG):
        (folder / name).unlink(missing_ok=True)
    copy_tokenizer(base.path, folder)
    copy_known(base.path, folder, [GENERATION, RUN_ARGS])
    _write_configs(folder, base, facts["dtype"])
    make_openable(folder)
    record = {
        "base": base.path.name, "base_fingerprint": fingerprint(base.path), "settings": asdict(settings),
        "calibration": calibration.as_json(),
        "errors": [asdict(one) for one in errors],
        "versions": {"chinese-vicuna": __version__, **{name: version(name) for name in ("gptqmodel", "torch")}},
        **{name: dtype_name(value) if isinstance(value, torch.dtype) else value for name, value in facts.items()},
    }  # fmt: skip
    _write(folder / RECORD, record)
    made_of = {
        "base": base.path.name, "quantised": settings.describe(),
        "calibrated on": f"{calibration.tokens:,} tokens of {Path(calibration.source).name}",
    }  # fmt: skip
    write_card(folder, export_card(facts["name"], "a model with quantised weights", base.path, made_of))
    written = check_base(str(folder))
    check_packed(folder, written.config, read_tensor_files(weight_paths(folder)))


def _write_configs(folder: Path, base: Base, dtype: torch.dtype) -> None:
    """The base's own config with what GPTQModel says of the weights, without folders that are gone."""
    quantisation = read_json(folder / "config.json")["quantization_config"]
    own = read_json(folder / LIBRARY_CONFIG)
    for settings in (quantisation, own):
        for name in _OF_THIS_RUN:
            (settings.get("meta") or {}).pop(name, None)
    # transformers would take it for on, and warn that it can not be, with act-order.
    quantisation["act_group_aware"] = bool((quantisation.get("meta") or {}).get("act_group_aware"))
    config = read_json(base.path / "config.json")
    config.pop("torch_dtype", None)
    config |= {"dtype": dtype_name(dtype), "quantization_config": quantisation}
    _write(folder / "config.json", config)
    _write(folder / LIBRARY_CONFIG, own)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
