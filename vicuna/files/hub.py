"""Which files of a model on a hub a download needs: the list that tools/download_llama.sh hands to `hf download`.

    python -m vicuna.files.hub owner/name models/name [revision]

Prints the commit, then a file a line. Weights are taken in one format only: .safetensors, else .bin, else Meta's .pth.
"""

import fnmatch
import os
import re
import sys
from pathlib import Path, PurePosixPath

from vicuna.errors import UserError, first_line, printable, run
from vicuna.files.proxies import check_proxies

# In the order in which they are preferred; what a training run leaves beside them, such as training_args.bin, is none.
WEIGHTS = (("*.safetensors",), ("pytorch_model*.bin", "adapter_model*.bin"), ("consolidated.*.pth",))
BESIDE = ("*.json", "*.jinja", "*.model", "*.md", "*.txt", "*.chk", "LICENSE*", "NOTICE*", "SHA256SUMS*")
OF_OTHER_WEIGHTS = {"*.safetensors": "*.bin.index.json", "pytorch_model*.bin": "*.safetensors.index.json"}
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_hub_id(name: str) -> None:
    """Refuse what is no hub id.

    Raises:
        UserError: with the form that is expected.
    """
    if not _ID.fullmatch(name):
        raise UserError(
            f"{name or 'nothing'} is no hub id; expected owner/name, of a model that you have the right to use."
        )


def select_files(files: list[str], name: str) -> list[str]:
    """The weights in one format, and what lies beside them.

    Args:
        files: paths of all files of the model on the hub.
        name: of the model, for the message.

    Raises:
        UserError: there are no weights that this toolkit reads.
    """
    # Folders below hold copies in other formats, or checkpoints; unless the model itself is in them, as "7B" of LLaMA.
    for places in ([file for file in files if "/" not in file], files):
        for patterns in WEIGHTS:
            if weights := _fitting(places, patterns):
                others = [file for file in weights if not fnmatch.fnmatch(_bare(file), "consolidated*.safetensors")]
                weights = others or weights
                folders = {str(PurePosixPath(file).parent) for file in weights} | {"."}
                beside = [file for file in files if str(PurePosixPath(file).parent) in folders]
                odd = OF_OTHER_WEIGHTS.get(patterns[0], "*.index.json")
                return sorted({*weights, *_fitting(beside, BESIDE)} - set(_fitting(beside, (odd,))))
    found = ", ".join(sorted(files)[:12]) or "nothing"
    raise UserError(
        f"{name} has no weights that are read here: expected .safetensors, pytorch_model*.bin or consolidated.*.pth, "
        f"found {found}."
    )


def _fitting(files: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [file for file in files if any(fnmatch.fnmatch(_bare(file), pattern) for pattern in patterns)]


def _bare(file: str) -> str:
    return PurePosixPath(file).name


def list_files(name: str, folder: Path, revision: str) -> list:
    """What the hub has of a model, and whether it is in the folder already; nothing is downloaded.

    Raises:
        UserError: why the hub does not say.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    check_proxies()
    disable_progress_bars()
    try:
        return snapshot_download(name, revision=revision, local_dir=folder, dry_run=True)
    except (DryRunError, HfHubHTTPError, OSError) as error:
        reason = error if isinstance(error, HfHubHTTPError) else error.__cause__ or error
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        if isinstance(reason, OfflineModeIsEnabled):
            raise UserError("HF_HUB_OFFLINE is set, so nothing can be downloaded: unset it.") from error
        if isinstance(reason, GatedRepoError):
            raise UserError(
                f"{name} is given only to those who accepted its licence: do so on its page at {hub}, then log in with "
                "hf auth login."
            ) from error
        if isinstance(reason, HfHubHTTPError) and reason.response.status_code in (401, 404):
            raise UserError(
                f"{hub} has no {name} at revision {revision}, or not for you: check the spelling, and log in with hf "
                "auth login if it is private."
            ) from error
        raise UserError(
            f"{hub} can not be reached, or does not answer ({first_line(reason)[:160]}). Check the network; "
            "HF_ENDPOINT names a mirror, such as https://hf-mirror.com."
        ) from error


def main(name: str = "", folder: str = "", revision: str = "main") -> None:
    """Check, ask the hub, print."""
    from vicuna.files.outputs import check_disk_space

    check_hub_id(name)
    found = {one.filename: one for one in list_files(name, Path(folder), revision)}
    files = select_files(list(found), name)
    missing = [found[file] for file in files if found[file].will_download]
    there = next(parent for parent in [Path(folder), *Path(folder).absolute().parents] if parent.is_dir())
    check_disk_space(there, size := sum(one.file_size or 0 for one in missing))
    print(next(iter(found.values())).commit_hash)
    print("\n".join(files))
    kept = f", {len(files) - len(missing)} are there already" if len(missing) < len(files) else ""
    print(
        printable(f"{name}: {len(files)} of {len(found)} files{kept}; {size / 1e9:.2f} GB to download"), file=sys.stderr
    )
    if any(file.endswith((".bin", ".pth")) for file in files):
        print("the weights are pickles; this toolkit reads them without executing any", file=sys.stderr)


if __name__ == "__main__":
    run(lambda: main(*sys.argv[1:]))
