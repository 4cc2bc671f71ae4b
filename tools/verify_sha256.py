"""Write or check SHA-256 hashes of a model: of its files, and of its tensors whatever files they lie in.

    python tools/verify_sha256.py --model_path merged --write_manifest
    python tools/verify_sha256.py --model_path merged
    python tools/verify_sha256.py --model_path llama/7B --manifest SHA256.md
    python tools/verify_sha256.py --model_path merged-pth --manifest merged/SHA256.json --tensors

--write_manifest writes SHA256.json; without it, the folder is compared with --manifest, or with the list that lies in
it: our JSON, lines of sha256sum, or a table in Markdown. The hash of a tensor is the same in .safetensors, .bin and
Meta's .pth, in any number of shards. merge_lora.py and convert_llama.py check their input where such a list lies in it.
Exit status 1 if anything differs, is missing, or can not be told.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run


@dataclass
class VerifyFlags:
    """What is hashed, and compared with what."""

    model_path: str = flag("", "folder of a model in Hugging Face format or in Meta's layout, or of an adapter")
    manifest: str = flag(
        "", "list to check against, or file to write; default: SHA256.json in the folder, or another list there"
    )
    write_manifest: bool = flag(False, "write the list instead of checking")
    tensors: bool = flag(False, "compare the tensors alone, such as those of a .pth with those of a .safetensors")

    def __post_init__(self) -> None:
        if self.write_manifest and self.tensors:
            raise UserError("--tensors is for checking; a manifest is always written with the tensors.")


def main(flags: VerifyFlags) -> None:
    """Write, or check and print what was found."""
    log.set_up()
    folder = Path(flags.model_path).expanduser()
    if not flags.model_path or not folder.is_dir():
        raise UserError(f"--model_path {flags.model_path} is no folder; name that of the model.")
    from vicuna.export import manifests
    from vicuna.files.checksums import read_checksum_list

    if flags.write_manifest:
        file = Path(flags.manifest) if flags.manifest else folder / manifests.MANIFEST_FILE
        data = manifests.write_manifest(folder, file)
        print(f"{file}: {len(data['files'])} files, {len(data['tensors'])} tensors, together {data['tensors_sha256']}")
        return
    file = Path(flags.manifest) if flags.manifest else manifests.find_checksum_list(folder)
    if file is None:
        raise UserError(
            f"{folder} has no list of hashes ({', '.join(manifests.LIST_NAMES)}): name one with --manifest, or write "
            "one with --write_manifest."
        )
    check = manifests.check_tensors if flags.tensors else manifests.check_files
    findings = check(folder, read_checksum_list(file))
    if not findings:
        raise UserError(f"{file} says nothing about the files in {folder}: is it the list of another model?")
    for finding in findings:
        print(finding)
    bad = [finding for finding in findings if not finding.good]
    cut = sum(finding.verdict == manifests.PREFIX for finding in findings)
    if cut:
        print(f"{cut} hashes in {file} are cut short: that their beginnings agree proves little.")
    if bad:
        print(f"{len(bad)} of {len(findings)} are not what {file} says.")
        sys.exit(1)


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, VerifyFlags)))
