"""Manifests of model folders: SHA-256 of every file, and of every tensor whatever file it lies in.

A tensor's digest is that of its values as they lie in memory, little-endian, under Hugging Face's name and in its order
of rows: the same for .safetensors, .bin and Meta's .pth, in any number of shards. A head that equals the embeddings is
left out, since some layouts store it and some do not.
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vicuna.errors import UserError
from vicuna.export.meta_layout import EMBEDDING, HEAD, is_meta, read_meta
from vicuna.files.aside import write_text
from vicuna.files.checksums import ChecksumEntry, ChecksumList, match_digest, read_checksum_list
from vicuna.files.tensors import (
    WEIGHT_SOURCES,
    LazyTensor,
    dtype_name,
    read_tensor_files,
    row_blocks,
    weight_paths,
)
from vicuna.foreign.paths import stays_below
from vicuna.log import log
from vicuna.model.found import ADAPTER_FILES, run_args

MANIFEST_FILE = "SHA256.json"
# Found in a folder without being named.
LIST_NAMES = (MANIFEST_FILE, "SHA256SUMS", "SHA256SUMS.txt", "sha256sum.txt", "SHA256.md")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".index.json")
OK, PREFIX, DIFFERS, MISSING, UNKNOWN = "ok", "prefix match only", "DIFFERS", "MISSING", "cannot tell"


@dataclass(frozen=True)
class Finding:
    """What a file or a model's tensors are like, and why."""

    name: str
    verdict: str
    text: str = ""

    @property
    def good(self) -> bool:
        return self.verdict in (OK, PREFIX)

    def __str__(self) -> str:
        return f"{self.verdict:17} {self.name}{f': {self.text}' if self.text else ''}"


def write_manifest(folder: Path, file: Path) -> dict[str, Any]:
    """Hash a folder and write its manifest.

    Raises:
        UserError: it is there already, or the folder has no weights.
    """
    if file.exists():
        raise UserError(f"{file} exists; check against it, or remove it to write a new one.")
    tensors = tensor_digests(folder)
    names = [path.relative_to(folder).as_posix() for path in _files(folder) if path.resolve() != file.resolve()]
    digests = file_digests(folder, names)
    data = {
        "files": {name: {"size": (folder / name).stat().st_size, "sha256": digests[name]} for name in names},
        "tensors": tensors,
        "tensors_sha256": combined_digest(tensors),
    }
    write_text(file, json.dumps(data, indent=1) + "\n")
    return data


def combined_digest(tensors: dict[str, Any]) -> str:
    """One digest for all tensors: two models have it in common only if all tensors are."""
    lines = [f"{name} {one['dtype']} {one['shape']} {one['sha256']}\n" for name, one in sorted(tensors.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(file for file in files if file.name != MANIFEST_FILE and file.name[0] != ".")


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files, with a progress bar in bytes."""
    found, names = {}, list(names)
    size = sum((folder / name).stat().st_size for name in names)
    with tqdm(total=size, desc="Hashing files", unit="B", unit_scale=True, disable=None) as bar:
        for name in names:
            digest = hashlib.sha256()
            with (folder / name).open("rb") as opened:
                while read := opened.read(1 << 22):
                    digest.update(read)
                    bar.update(len(read))
            found[name] = digest.hexdigest()
    return found


def tensor_digests(folder: Path, kind: str = "") -> dict[str, Any]:
    """Name -> dtype, shape and SHA-256 of every tensor, with a progress bar.

    Args:
        kind: model or adapter, of a folder that may hold one of each; "" for all that it holds.
    """
    found = {}
    for name, tensor in tqdm(_tensors(folder, kind).items(), desc="Hashing tensors", unit="tensor", disable=None):
        digest = hashlib.sha256()
        for start, stop in row_blocks(tensor.shape):
            digest.update(tensor[start:stop].contiguous().view(-1).view(torch.uint8).numpy())
        found[name] = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "sha256": digest.hexdigest()}
    if HEAD in found and found[HEAD] == found.get(EMBEDDING):
        del found[HEAD]
    return found


def _tensors(folder: Path, kind: str) -> dict[str, LazyTensor]:
    """The tensors of a model in either layout, or of an adapter."""
    if is_meta(folder):
        return dict(read_meta(folder, flag="--model_path").tensors())
    adapter = [folder / name for name in ADAPTER_FILES[:2] if (folder / name).is_file()][:1]
    both = bool(adapter) and any((folder / name).is_file() for name in WEIGHT_SOURCES)
    files = adapter if kind != "model" else []
    if not adapter or kind == "model" or (both and not kind):
        files = [*files, *weight_paths(folder)]
    tensors = read_tensor_files(files)
    return {
        name: tensor if tensor.shape else tensor.reshape(1)
        for name, tensor in tensors.items()
        if not name.endswith("rotary_emb.inv_freq")  # in folders of 2023, and computed from the config
    }


def model_hashes(path: Path, kind: str = "model") -> dict[str, Any]:
    """What tells a model or an adapter from every other: hashes of its files, and one of all its tensors.

    Args:
        kind: which of the two is meant.
    """
    if path.is_file():
        return {"files": file_digests(path.parent, [path.name])}
    names = [one.relative_to(path).as_posix() for one in _files(path)]
    return {"files": file_digests(path, names), "tensors": combined_digest(tensor_digests(path, kind))}


def find_checksum_list(folder: Path) -> Path | None:
    """The list of hashes that lies in a folder, None where there is none."""
    return next((folder / name for name in LIST_NAMES if (folder / name).is_file()), None)


def check_input(folder: Path) -> None:
    """Check a model that is about to be read against the list in its folder, if there is one.

    Raises:
        UserError: it is not what the list says.
    """
    file = find_checksum_list(folder)
    if file is None:
        return
    findings = check_files(folder, read_checksum_list(file))
    if bad := [finding for finding in findings if not finding.good]:
        raise UserError(
            f"{folder} is not what {file.name} in it says, {len(bad)} files or tensors differ, such as {bad[0].name} "
            f"({bad[0].verdict}). Copy or download it again; or remove {file.name} if it is of another model."
        )
    if findings:
        log.info("%s is what %s in it says", folder, file.name)


def check_files(folder: Path, hashes: ChecksumList) -> list[Finding]:
    """Compare a folder's files with a list, and where files of weights differ, the tensors in them.

    Returns:
        A finding for each file that the list says something about.
    """
    found, changed = [], []
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    for group in _groups(folder, hashes.entries):
        for finding in _check_group(folder, group, names):
            container = finding.name.endswith(WEIGHT_SUFFIXES) and finding.verdict in (DIFFERS, MISSING)
            (changed if container else found).append(finding)
    return found + (_explain(folder, hashes, changed) if changed else [])


def _explain(folder: Path, hashes: ChecksumList, changed: list[Finding]) -> list[Finding]:
    """Files of weights that differ: the same tensors may lie in them."""
    if not hashes.tensors:
        merged = "merged" in run_args(folder)
        return [_without_tensors(hashes, finding, merged) for finding in changed]
    tensors = check_tensors(folder, hashes)
    if not all(one.good for one in tensors):
        return [*changed, *tensors]
    why = "another file around the same tensors, as other versions of PyTorch and other numbers of shards write it"
    return [*(Finding(one.name, OK, why) for one in changed), *tensors]


def _without_tensors(hashes: ChecksumList, finding: Finding, merged: bool) -> Finding:
    if finding.verdict == MISSING or not finding.name.endswith(".pth"):
        return finding
    return Finding(
        finding.name,
        UNKNOWN if merged else DIFFERS,
        f"{finding.text}. Of a merged .pth this is expected, for every version of PyTorch writes other bytes around "
        f"the same tensors, but {hashes.source.name} has no tensor hashes to compare: check the base and the adapters "
        "it was merged from",
    )


def check_tensors(folder: Path, hashes: ChecksumList) -> list[Finding]:
    """Compare the tensors alone, whatever files they lie in.

    Raises:
        UserError: the list has no tensors.
    """
    if not hashes.tensors:
        raise UserError(
            f"{hashes.source} has hashes of files only: tensors are compared with a manifest that this program wrote."
        )
    found = tensor_digests(folder)
    said = hashes.tensors
    both = [name for name in said if name in found and said[name] != found[name]]
    differing = [Finding(name, DIFFERS, _describe_difference(said[name], found[name])) for name in both]
    differing += [Finding(name, MISSING) for name in sorted(said.keys() - found.keys())]
    differing += [Finding(name, DIFFERS, "is not in the manifest") for name in sorted(found.keys() - said.keys())]
    return differing or [Finding(f"{len(said)} tensors", OK, f"all are equal, {combined_digest(found)[:16]}…")]


def _describe_difference(said: dict[str, Any], found: dict[str, Any]) -> str:
    for what in ("dtype", "shape"):
        if said.get(what) != found[what]:
            return f"{what} {found[what]}, expected {said.get(what)}"
    return "other values"


def _groups(folder: Path, entries: list[ChecksumEntry]) -> list[list[ChecksumEntry]]:
    """Entries that are for the same files: one each, but where a list has a row for every model."""
    groups: dict[str, list[ChecksumEntry]] = {}
    own = {entry.pattern for entry in map(_without_folder, entries) if entry.label == folder.name}
    for entry in entries:
        placed = entry if _is_inside(folder, entry) else _without_folder(entry)
        # Of names with a folder in front, as of several sizes in one list, those of this folder alone count.
        if placed is entry or placed.label == folder.name or placed.pattern not in own:
            groups.setdefault(placed.pattern, []).append(placed)
    return list(groups.values())


def _is_inside(folder: Path, entry: ChecksumEntry) -> bool:
    """Whether a name is meant as it stands: it has no folder in front, or one that is in this folder."""
    parent, slash, _ = entry.pattern.rpartition("/")
    return stays_below(entry.pattern) and (not slash or (folder / parent).exists())


def _without_folder(entry: ChecksumEntry) -> ChecksumEntry:
    """7B/consolidated.00.pth as the consolidated.00.pth of 7B; a name without a folder as it is."""
    parent, slash, name = entry.pattern.replace("\\", "/").rpartition("/")
    return replace(entry, pattern=name, label=parent.rpartition("/")[2]) if slash else replace(entry, label="")


def _check_group(folder: Path, group: list[ChecksumEntry], there: list[str]) -> list[Finding]:
    pattern, label = group[0].pattern, group[0].label
    names = _matching(folder, pattern, there)
    if not names:
        elsewhere = "*" in pattern or label not in ("", folder.name)
        return [] if elsewhere else [Finding(pattern, MISSING)]
    if len(group) == 1 and group[0].size not in (None, (folder / names[0]).stat().st_size):
        size = (folder / names[0]).stat().st_size
        return [Finding(names[0], DIFFERS, f"{size} bytes, expected {group[0].size}")]
    digests = file_digests(folder, names)
    for entry in group:
        likeness = [match_digest(*pair) for pair in zip(entry.digests, digests.values(), strict=False)]
        if len(entry.digests) == len(names) and all(likeness):
            text = f"is {entry.label}" if entry.label and entry.label != folder.name else ""
            return [_matched(*pair, text) for pair in zip(names, likeness, strict=True)]
    if len(group) > 1:
        known = ", ".join(entry.label for entry in group)
        return [Finding(name, DIFFERS, f"is of none of {known}") for name in names]
    return _compared(names, group[0].digests, digests)


def _compared(names: list[str], said: tuple[str, ...], digests: dict[str, str]) -> list[Finding]:
    """File by file, against the digests of one model."""
    found = []
    for i, name in enumerate(names):
        likeness = match_digest(said[i], digests[name]) if i < len(said) else ""
        expected = f"expected {said[i][:16]}…" if i < len(said) else "is not in the list"
        found.append(_matched(name, likeness, "") if likeness else Finding(name, DIFFERS, expected))
    return found + [Finding(f"part {i}", MISSING) for i in range(len(names), len(said))]


def _matched(name: str, likeness: str, text: str) -> Finding:
    return Finding(name, OK if likeness == "equal" else PREFIX, text)


def _matching(folder: Path, pattern: str, names: list[str]) -> list[str]:
    """Files that a pattern is for, by their numbers; capital letters make no difference where there is a *."""
    if "*" not in pattern and (folder / pattern).is_file():
        return [pattern]
    fitting = [name for name in names if fnmatch.fnmatch(name.lower(), pattern.lower())]
    return sorted(
        fitting, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
