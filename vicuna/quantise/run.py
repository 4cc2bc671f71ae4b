"""GPTQModel at work: a base in, a folder with quantised weights out, with a bar and each layer's error on the way."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vicuna.errors import Stopped, UserError, first_line
from vicuna.model.base import Base, device
from vicuna.model.config import linear_layers
from vicuna.model.gptq import AWQ, read_gptqmodel, silenced
from vicuna.quantise.calibration import Calibration
from vicuna.quantise.settings import Settings

LAST_WORDS = 600  # characters of what GPTQModel printed that a failure shows


@dataclass(frozen=True)
class LayerError:
    """How far a layer is from what it was, on the calibration text: GPTQModel's own figure, None where it has none."""

    block: int
    layer: str
    error: float | None


@dataclass
class Progress:
    """What GPTQModel calls when a block is done: moves the bar, and shows the largest error among its layers.

    Attributes:
        log_folder: where GPTQModel writes its own log, while it works.
    """

    bar: Any
    log_folder: Path
    done: int = 0
    shown: set[int] = field(default_factory=set)

    def layer_complete(self, layer_idx: int, submodule_finalized: bool) -> None:
        """The name and the arguments are GPTQModel's; it calls when a block is computed, and when it is packed."""
        if not submodule_finalized or layer_idx in self.shown:
            return
        self.shown.add(layer_idx)
        self.done = max(self.done, layer_idx + 1)
        self.bar.update(1)
        found = [one for one in read_errors(self.log_folder) if one.block == layer_idx and one.error is not None]
        if worst := max(found, key=lambda one: one.error or 0, default=None):
            self.bar.set_postfix_str(f"{worst.layer} {worst.error:.2g}")


def read_errors(folder: Path) -> list[LayerError]:
    """The layers in GPTQModel's log so far, which is one JSON object after the other."""
    found, decoder = [], json.JSONDecoder()
    for file in sorted(folder.glob("*.log")):
        text, at = file.read_text(encoding="utf-8"), 0
        while at < len(text):
            try:
                entry, at = decoder.raw_decode(text, at)
            except ValueError:  # it is being written
                break
            found.append(layer_error(entry))
            at += len(text[at:]) - len(text[at:].lstrip())
    return found


def layer_error(entry: dict[str, Any]) -> LayerError:
    """An entry of GPTQModel's log; its loss is text, and no number where a layer was only rounded."""
    try:
        error = float(entry["loss"])
    except ValueError:
        error = None
    return LayerError(int(entry["layer"]), str(entry["module"]), error)


def quantise(
    base: Base, settings: Settings, calibration: Calibration, dtype: torch.dtype, batch_size: int, out: Path
) -> list[LayerError]:
    """Write the quantised weights of a base, and the two configs beside them, to a new folder.

    Args:
        dtype: of what is not quantised.
        batch_size: rows of the calibration that are run together.

    Returns:
        A row for each layer.

    Raises:
        UserError: GPTQModel can not do it.
        RuntimeError: it wrote other settings than it was given.
    """
    library = read_gptqmodel()
    blocks = base.config.num_hidden_layers
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in calibration.rows]
    source = str(base.path.resolve())
    kernel = {"backend": library.BACKEND.AWQ_TORCH} if settings.method == AWQ else {}
    with tempfile.TemporaryDirectory(prefix=".quantising-", dir=out.parent) as name, tqdm_bar(blocks) as bar:
        work = Path(name).resolve()
        (work / "blocks").mkdir()
        progress = Progress(bar, work / "logs")
        target = out.resolve()
        with contextlib.chdir(work), stoppable(progress, blocks), told_by_library() as said, silenced() as printed:
            said.append(printed)
            config = library.QuantizeConfig(**settings.as_library(device().type, work / "blocks"))
            model = library.GPTQModel.load(source, config, dtype=dtype)
            model.layer_callback = progress
            # Rows are as long as they are drawn: a batch is padded on the right, and the padding is masked.
            log = model.quantize(rows, batch_size=batch_size, **kernel)
            model.save(str(target))
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    if differences := settings.differences(written):
        raise RuntimeError(f"GPTQModel wrote other settings than it was given: {'; '.join(differences)}")
    errors = [layer_error(entry) for entries in log.values() for entry in entries]
    order = {name.split(".layers.", 1)[-1]: place for place, name in enumerate(linear_layers(base.config))}
    return sorted(errors, key=lambda one: order.get(f"{one.block}.{one.layer}", len(order)))


def tqdm_bar(blocks: int) -> Any:
    """The bar; on what is no terminal there is none."""
    return tqdm(total=blocks, desc="Quantising", unit="block", disable=None)


@contextlib.contextmanager
def stoppable(progress: Progress, blocks: int) -> Iterator[None]:
    """Say what an interrupted quantisation leaves, which is nothing.

    Raises:
        Stopped: the user interrupted it.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as ending:
        status = ending.status if isinstance(ending, Stopped) else 130
        raise Stopped(
            f"stopped with {progress.done} of {blocks} blocks quantised; nothing was written, and the same command "
            "starts over.", status,
        ) from None  # fmt: skip


@contextlib.contextmanager
def told_by_library() -> Iterator[list[Any]]:
    """Tell in a sentence why GPTQModel failed.

    Raises:
        UserError: see above.
    """
    said: list[Any] = []
    try:
        yield said
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device has no room for a block and the calibration ({first_line(error)}): lower --batch_size, "
            "--seqlen or --nsamples."
        ) from error
    except (ValueError, NotImplementedError, ZeroDivisionError, RuntimeError, TypeError) as error:
        last = said[0].getvalue()[-LAST_WORDS:] if said else ""
        raise UserError(
            f"GPTQModel can not quantise this model ({type(error).__name__}: {first_line(error)}). It said last: {last}"
        ) from error
