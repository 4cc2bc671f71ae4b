"""Converting into a folder of the test's own."""

import pytest

from tests.conversion.converting import Converter


@pytest.fixture
def convert(tmp_path, capsys) -> Converter:
    """convert("--from", "belle", "--to", "chat", "--data_path", file): what the tool wrote and said."""
    (tmp_path / "converted").mkdir()
    return Converter(tmp_path / "converted", capsys)
