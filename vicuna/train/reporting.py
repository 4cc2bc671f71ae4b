"""Where a run is reported to beside its own files: through transformers' integrations, which are made ready here.

A package that is not installed, or does not work with this transformers, is refused before time is spent.
"""

import importlib.util
import os
from collections.abc import MutableMapping
from importlib.metadata import version
from pathlib import Path

from vicuna.errors import UserError, first_line
from vicuna.train.flags import RunFlags

PROJECT = "chinese-vicuna"
# What transformers looks for; one of them is enough.
PACKAGES = {
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "swanlab": ("swanlab",),
}


def check_reporter(run: RunFlags) -> None:
    """Refuse a service that can not be reported to.

    Raises:
        UserError: its package is missing, or does not start.
    """
    if run.report_to == "none":
        return
    packages = PACKAGES[run.report_to]
    if not any(importlib.util.find_spec(package) for package in packages):
        raise UserError(
            f"--report_to {run.report_to} needs a package that is not installed: pip install {packages[0]}, or leave "
            "the flag out."
        )
    if run.report_to == "swanlab":
        _check_swanlab()


def _check_swanlab() -> None:
    """transformers asks for the current run before it begins one; some versions raise instead of saying that there is
    none."""
    try:
        import swanlab

        swanlab.get_run()
    except Exception as error:  # whatever the installed version raises
        raise UserError(
            f"--report_to swanlab: the installed swanlab {version('swanlab')} does not work with transformers "
            f"{version('transformers')} ({first_line(error)}). Install another version of it, or report to tensorboard."
        ) from error


def where_reported(run: RunFlags, environ: MutableMapping[str, str]) -> str:
    """Where the figures go, for the plan."""
    output = Path(run.output_path)
    if run.report_to == "tensorboard":
        return f"tensorboard --logdir {environ.get('TENSORBOARD_LOGGING_DIR') or output / 'runs'}"
    if run.report_to == "trackio":
        if space := environ.get("TRACKIO_SPACE_ID"):
            return f"trackio, in the Space {space}"
        cache = Path(environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
        return f"trackio, in {environ.get('TRACKIO_DIR') or cache / 'trackio'} (not in --output_path): trackio show"
    mode = environ.get(f"{run.report_to.upper()}_MODE", "online")
    place = output / "wandb" if run.report_to == "wandb" else environ.get("SWANLAB_LOG_DIR") or "swanlog"
    return f"{run.report_to} ({mode}), its files in {place}"


def start_reporter(run: RunFlags, run_id: str, environ: MutableMapping[str, str]) -> None:
    """Begin before any time is spent what can fail, and tell the integrations where to write.

    Raises:
        UserError: no login, or no way to reach the service.
    """
    output = Path(run.output_path)
    if run.report_to == "tensorboard":
        # A resumed run goes on in the curves of its beginning.
        environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output / "runs" / run_id[:8]))
    if run.report_to == "wandb":
        _start_wandb(output)


def _start_wandb(output: Path) -> None:
    import wandb

    try:
        wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), name=output.name, dir=output)
    except wandb.Error as error:
        raise UserError(
            f"--report_to wandb: {first_line(error)}. Log in with `wandb login`, or record without network: "
            "WANDB_MODE=offline."
        ) from error
