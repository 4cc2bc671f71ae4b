"""The adapters of --lora_path as what they change of a base, each checked against the base and those before it."""

import copy
from collections.abc import Sequence

from vicuna.export.merge import Update, read_update
from vicuna.log import log
from vicuna.model.adapter import adapter_folder
from vicuna.model.base import Base
from vicuna.train.checkpoint import check_source


def read_updates(lora_path: Sequence[str], base: Base, ignore_fingerprint: bool) -> list[Update]:
    """Read adapters, in order.

    Args:
        ignore_fingerprint: take one that was trained on other files than the base's.

    Raises:
        UserError: see `vicuna.train.checkpoint.check_source` and `vicuna.export.merge.read_update`.
    """
    config, updates = copy.deepcopy(base.config), []
    for name in lora_path:
        folder = adapter_folder(name)
        check_source(folder, base, ignore_fingerprint)
        update = read_update(folder, config, str(base.path))
        if update.warning:
            log.warning("%s", update.warning)
        config.vocab_size = update.vocab
        updates.append(update)
    return updates
