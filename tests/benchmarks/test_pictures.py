"""benchmarks/pictures.py: the pictures are taken, of a page that has answered."""

import struct

import pytest
from pictures import PICTURES

from tests.served import make_adapter


@pytest.mark.browser
@pytest.mark.usefixtures("browser")  # skipped where there is none
def test_the_page_is_photographed_and_the_curve_taken_along(program, tiny_base, tmp_path):
    adapter, chat = (
        make_adapter(tiny_base, tmp_path / name, prompt_type, seed)
        for seed, (name, prompt_type) in enumerate({"one": "instruct", "chat": "chat_eos"}.items())
    )
    (adapter / "loss.png").write_bytes(b"a curve")
    done = program(
        *("benchmarks/pictures.py", "--model_path", tiny_base, "--bits", 32, "--lora_path", adapter),
        *("--chat_path", chat, "--out_path", tmp_path / "out"),
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/loss.png").read_bytes() == b"a curve"
    assert {file.stem for file in (tmp_path / "out").iterdir()} == {*PICTURES, "loss"}
    for name, (_, *size) in PICTURES.items():
        picture = (tmp_path / f"out/{name}.png").read_bytes()
        assert list(struct.unpack(">II", picture[16:24])) == size
        assert len(picture) > 8_000  # a blank one has a few thousand
