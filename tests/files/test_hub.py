"""tools/download_llama.sh against a hub on this machine: what is downloaded, going on, hashes, refusals."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.files.local_hub import NAME, Hub, hub_of
from vicuna.errors import UserError
from vicuna.files.hub import check_hub_id, select_files

ROOT = Path(__file__).resolve().parent.parent.parent
LARGE = "model-00002-of-00002.safetensors"
SMALL = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model"]
ELSE = ["pytorch_model.bin", "training_args.bin", "onnx/model.onnx", "original/params.json", "original/tokenizer.model"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[Hub]:
    """A model of two shards, of which one is longer than the pieces in which huggingface_hub reads; and much beside."""
    folder = tmp_path_factory.mktemp("hub")
    for name in [*SMALL, *ELSE]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"content of {name}", encoding="utf-8")
    (folder / LARGE).write_bytes(bytes(range(256)) * (24 << 12))
    with hub_of(folder) as found:
        yield found


@pytest.fixture
def download(hub, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Run the script; OUT_PATH is tmp_path / "out/tiny"."""

    def run(*argv: str, **variables: str) -> subprocess.CompletedProcess:
        hub.asked.clear()
        env = {
            **os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url,
            "HF_HUB_ETAG_TIMEOUT": "100", "HF_HUB_DOWNLOAD_TIMEOUT": "100",  # a stall is no reason to ask again
            "HF_HOME": str(tmp_path / "home"), "OUT_PATH": str(tmp_path / "out/tiny"), **variables,
        }  # fmt: skip
        command = ["bash", str(ROOT / "tools/download_llama.sh"), *argv]
        return subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", timeout=120)

    return run


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_download_that_breaks_goes_on_at_the_byte_and_a_second_call_at_the_file(hub, download, tmp_path):
    hub.refuses = LARGE
    done = download(NAME)

    assert done.returncode == 1
    assert "the same command goes on with it" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out/tiny").exists()

    hub.refuses, hub.breaks = "", LARGE
    done = download(NAME)

    assert done.returncode == 0, done.stderr
    assert "4 are there already" in done.stderr
    assert "checking against the hub's own" in done.stderr
    assert [name for name, _ in hub.asked] == [LARGE, LARGE]
    assert hub.asked[0][1] == 0 < hub.asked[1][1]
    assert files(tmp_path / "out") == ["tiny", *(f"tiny/{name}" for name in sorted([*SMALL, LARGE]))]
    assert (tmp_path / "out/tiny" / LARGE).read_bytes() == (hub.folder / LARGE).read_bytes()

    done = download(NAME)

    assert (done.returncode, hub.asked) == (1, [])
    assert "exists; nothing is ever written over" in done.stderr


def test_a_folder_that_is_not_what_its_list_says_does_not_get_its_name(hub, download, tmp_path):
    digests = {name: hashlib.sha256((hub.folder / name).read_bytes()).hexdigest() for name in SMALL}
    lines = [f"{digest}  {name}\n" for name, digest in {**digests, LARGE: "0" * 64}.items()]
    (hub.folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    done = download(NAME)
    (hub.folder / "SHA256SUMS").unlink()

    assert done.returncode == 1
    assert f"DIFFERS           {LARGE}" in done.stdout
    assert all(f"ok                {name}" in done.stdout for name in SMALL)
    assert f"{NAME} is not what it should be. Remove what differs from" in done.stderr
    assert not (tmp_path / "out/tiny").exists()


@pytest.mark.parametrize(
    ("argv", "variables", "said"),
    [
        ([], {}, "name a model: bash tools/download_llama.sh owner/name"),
        (["./models/tiny"], {}, "./models/tiny is no hub id; expected owner/name"),
        (["llama"], {}, "llama is no hub id; expected owner/name"),
        (["someone/other"], {}, "has no someone/other at revision main, or not for you"),
        ([NAME], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 can not be reached"),
        ([NAME], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ([NAME], {"MANIFEST": "not/here"}, "MANIFEST not/here is no file"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence_and_nothing_is_left(hub, download, tmp_path, argv, variables, said):
    done = download(*argv, **variables)

    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (done.stdout, hub.asked) == ("", [])
    assert not (tmp_path / "out").exists()


def test_a_licence_that_was_not_accepted_is_named(hub, download):
    hub.gated = True
    done = download(NAME)
    hub.gated = False

    assert (done.returncode, hub.asked) == (1, [])
    assert f"{NAME} is given only to those who accepted its licence: do so on its page at {hub.url}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_disk_without_room_is_refused_before_anything_is_downloaded(hub, download):
    hub.claims = 1 << 60
    done = download(NAME)
    hub.claims = 0

    assert (done.returncode, hub.asked) == (1, [])
    assert "GiB are to be written, but the disk has" in done.stderr


@pytest.mark.parametrize("name", ["", "llama", "/data/llama-7b", "../llama", "~/llama", "a/b/c", "a b/c", "-x/y"])
def test_what_is_no_hub_id_is_refused(name):
    with pytest.raises(UserError, match="is no hub id; expected owner/name"):
        check_hub_id(name)


@pytest.mark.parametrize(
    ("there", "left_out"),
    [
        (["config.json", "model.safetensors"], ["pytorch_model.bin", "pytorch_model.bin.index.json", "optimizer.pt"]),
        (["config.json", "model.safetensors"], ["consolidated.safetensors", "consolidated.00.pth", "tf_model.h5"]),
        (["config.json", "pytorch_model.bin", "LICENSE"], ["training_args.bin", "consolidated.00.pth", "x.msgpack"]),
        (["params.json", "consolidated.00.pth", "tokenizer.model", "checklist.chk"], ["run.py"]),
        (["7B/consolidated.00.pth", "7B/params.json", "tokenizer.model"], ["7B/ggml-model-q4_0.bin"]),
        (["adapter_model.safetensors", "adapter_config.json"], ["checkpoint-9/adapter_model.safetensors"]),
        (["adapter_model.bin", "adapter_config.json", "SHA256SUMS"], ["checkpoint-9/optimizer.pt", "a.gguf"]),
    ],
)
def test_weights_are_taken_in_one_format_with_what_lies_beside_them(there, left_out):
    assert select_files([*left_out, *there], NAME) == sorted(there)


def test_a_model_without_weights_that_are_read_here_is_refused():
    with pytest.raises(
        UserError, match=r"someone/tiny has no weights that are read here: .* found a.gguf, config.json"
    ):
        select_files(["config.json", "a.gguf"], NAME)
