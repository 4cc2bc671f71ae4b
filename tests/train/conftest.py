"""Records and a run that several files compare theirs with."""

from pathlib import Path

import pytest

from tests.train.runs import ROOT, TWO_EPOCHS, train


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> Path:
    """41 records, a number that neither the batches nor the process counts of the tests divide."""
    file = tmp_path_factory.mktemp("data") / "records.jsonl"
    lines = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()[:41]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def straight(program, tiny_base, records, tmp_path_factory) -> Path:
    """One run of two epochs, 8 steps, with evaluation and a checkpoint in each epoch."""
    output = tmp_path_factory.mktemp("straight") / "out"
    return train(program, tiny_base, records, output, *TWO_EPOCHS, "--save_steps", 3)
