"""Archives of PyTorch: nothing in one is larger than the file, and nothing of it is called to make room."""

import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch

from vicuna.errors import UserError
from vicuna.files.tensors import read_tensor_file
from vicuna.foreign.archives import check_archive


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


def save(file: Path, tensors, legacy: bool = False) -> None:
    torch.save(tensors, file, _use_new_zipfile_serialization=not legacy)


def rewritten(file: Path, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> None:
    """The archive with other contents of some parts."""
    with zipfile.ZipFile(file) as archive:
        contents = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, parts.get(Path(name).stem, content))


@pytest.mark.parametrize("legacy", [False, True])
def test_good_archives_of_both_ages_are_read(file, legacy):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))}
    tensors["c"] = tensors["a"].T  # a view
    save(file, tensors, legacy)

    assert all(torch.equal(one, tensors[name]) for name, one in read_tensor_file(file).items())


def test_an_archive_with_packed_parts_is_refused(file):
    save(file, {"a": torch.zeros(1000)})
    rewritten(file, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"says that its part .* has \d+ bytes, in [\d,]+ bytes of the file; expected"):
        check_archive(file)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_view_that_repeats_what_the_file_has_is_refused(file, legacy):
    save(file, {"a": torch.zeros(1).expand(70_000)}, legacy)
    with pytest.raises(
        UserError, match=r"a size of 70,000 in the list of its tensors; expected one that the file holds"
    ):
        read_tensor_file(file)
    save(file, {"a": torch.zeros(1).expand(100)}, legacy)
    with pytest.raises(UserError, match=r"a says \(100,\), of which the file does not hold all values"):
        read_tensor_file(file)


@pytest.mark.parametrize("called", ["builtins\nbytearray", "torch\nTensor"])
def test_nothing_is_called_to_make_room(file, called):
    save(file, {"a": torch.zeros(2)})
    rewritten(file, data=f"c{called}\n(K\x08tR.".encode())
    with pytest.raises(UserError, match=re.escape(f"would have {called.replace(chr(10), '.')} make room")):
        read_tensor_file(file)


def test_a_pickle_of_program_objects_is_still_no_table_of_tensors(file):
    file.write_bytes(pickle.dumps(io.StringIO))
    with pytest.raises(UserError, match="can not be read as plain tensors"):
        read_tensor_file(file)
