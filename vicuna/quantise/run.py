"""GPTQModel at work: a base in, a folder with quantised weights out, with a bar and each layer's error on the way."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vicuna.errors import ENDING_SIGNALS, Stopped, UserError, first_line
from vicuna.model.base import Base, device
from vicuna.model.config import linear_layers
from vicuna.model.gptq import AWQ, read_gptqmodel
from vicuna.model.known_files import shown
from vicuna.quantise.calibration import Calibration
from vicuna.quantise.settings import Settings

LAST_WORDS = 600  # characters of what GPTQModel printed that a failure shows


@dataclass(frozen=True)
class LayerError:
    """How far a layer is from what it was, on the calibration text: GPTQModel's own figure, None where it has none."""

    block: int
    layer: str
    error: float | None


@dataclass(frozen=True)
class Job:
    """What the process that quantises is told.

    Attributes:
        source: folder of the base, as it is shown to others.
        rows: ids of the calibration.
        dtype: of what is not quantised.
        work: folder for what GPTQModel writes on the way, and for what it says.
        out: folder for the weights and the configs.
    """

    source: str
    settings: Settings
    rows: list[list[int]]
    dtype: torch.dtype
    batch_size: int
    work: Path
    out: str

    @property
    def said(self) -> Path:
        """The file with what the process prints."""
        return self.work / "said.txt"


@dataclass
class Progress:
    """How many blocks are done, and the bar, which counts nothing where no terminal shows it."""

    bar: Any
    done: int = 0

    def block(self, worst: str) -> None:
        """A block is done; `worst` is its layer with the largest error."""
        self.done += 1
        self.bar.update(1)
        self.bar.set_postfix_str(worst)


@dataclass
class Callback:
    """What GPTQModel calls when a block is done: tells of it, and of the largest error among its layers."""

    told: Connection
    shown: set[int] = field(default_factory=set)

    def layer_complete(self, layer_idx: int, submodule_finalized: bool) -> None:
        """The name and the arguments are GPTQModel's; it calls when a block is computed, and when it is packed."""
        if not submodule_finalized or layer_idx in self.shown:
            return
        self.shown.add(layer_idx)
        found = [one for one in read_errors(Path("logs")) if one.block == layer_idx and one.error is not None]
        worst = max(found, key=lambda one: one.error or 0, default=None)
        self.told.send(("block", f"{worst.layer} {worst.error:.2g}" if worst else ""))


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

    GPTQModel works in a process of its own: its threads outlive an interruption, an error in one of them ends the
    process they are in at once, and so may their end. It runs the code that a folder's config names, also where
    it is told not to trust it, so it is shown a folder without.

    Args:
        dtype: of what is not quantised.
        batch_size: rows of the calibration that are run together.

    Returns:
        A row for each layer.

    Raises:
        UserError: GPTQModel can not do it.
        Stopped: the user interrupted it.
        RuntimeError: it wrote other settings than it was given.
    """
    blocks = base.config.num_hidden_layers
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    context.set_forkserver_preload(["torch", "peft", "datasets"])
    aside = tempfile.TemporaryDirectory(prefix=".quantising-", dir=out.parent)
    with aside as name, shown(base.path) as source, tqdm_bar(blocks) as bar:
        work = Path(name).resolve()
        job = Job(str(source), settings, calibration.rows, dtype, batch_size, work, str(out.resolve()))
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=work_apart, args=(job, its), daemon=True)
        progress = Progress(bar)
        with stoppable(progress, blocks):
            try:
                process.start()
                its.close()
                errors = follow(mine, process, progress, job)
            finally:
                if process.pid:
                    process.kill()
                    process.join()
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    if differences := settings.differences(written):
        raise RuntimeError(f"GPTQModel wrote other settings than it was given: {'; '.join(differences)}")
    order = {name.split(".layers.", 1)[-1]: place for place, name in enumerate(linear_layers(base.config))}
    return sorted(errors, key=lambda one: order.get(f"{one.block}.{one.layer}", len(order)))


def follow(told: Connection, process: BaseProcess, progress: Progress, job: Job) -> list[LayerError]:
    """Count what the process tells, until it is done.

    Raises:
        UserError: it failed, or was ended.
    """
    try:
        while (message := told.recv())[0] == "block":
            progress.block(message[1])
    except EOFError:
        process.join()
        message = ("failed", f"GPTQModel ended in the middle, with status {process.exitcode}.")
    if message[0] == "done":
        return message[1]
    said = job.said.read_text(encoding="utf-8", errors="replace") if job.said.is_file() else ""
    raise UserError(f"{message[1]} It said last: {said[-LAST_WORDS:].strip()}" if said else message[1])


def work_apart(job: Job, told: Connection) -> None:
    """Quantise in this process, which is for nothing else, and end it."""
    for number in (signal.SIGINT, *ENDING_SIGNALS):
        signal.signal(number, signal.SIG_IGN)  # the process that began this one decides
    if hasattr(os, "fork"):  # a semaphore is then removed once it is made, and none is left when this process is killed
        multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(job.work)
    with open(job.said, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        told.send(("done", run_library(job, Callback(told))))
    except UserError as error:
        told.send(("failed", str(error)))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # GPTQModel's threads can abort an orderly end


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def run_library(job: Job, callback: Callback) -> list[LayerError]:
    """What GPTQModel does, in its own words.

    Raises:
        UserError: it can not do it.
    """
    library = read_gptqmodel()
    Path("blocks").mkdir()
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job.rows]
    kernel = {"backend": library.BACKEND.AWQ_TORCH} if job.settings.method == AWQ else {}
    with told_by_library():
        config = library.QuantizeConfig(**job.settings.as_library(device().type, job.work / "blocks"))
        model = library.GPTQModel.load(job.source, config, dtype=job.dtype)
        model.layer_callback = callback
        # Rows are as long as they are drawn: a batch is padded on the right, and the padding is masked.
        log = model.quantize(rows, batch_size=job.batch_size, **kernel)
        model.save(job.out)
    return [layer_error(entry) for entries in log.values() for entry in entries]


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
def told_by_library() -> Iterator[None]:
    """Tell in a sentence why GPTQModel failed.

    Raises:
        UserError: see above.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device has no room for a block and the calibration ({first_line(error)}): lower --batch_size, "
            "--seqlen or --nsamples."
        ) from error
    except (ValueError, NotImplementedError, ZeroDivisionError, RuntimeError, TypeError) as error:
        raise UserError(
            f"GPTQModel can not quantise this model ({type(error).__name__}: {first_line(error)})."
        ) from error
