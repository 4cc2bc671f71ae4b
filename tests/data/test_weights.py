"""How often a file's records may come: never so often that no run would end."""

import pytest

from tests.data.record_files import numbered
from vicuna.data import records as module
from vicuna.data.records import MOST_ROWS, parse_source, read_records
from vicuna.errors import UserError


def test_a_weight_that_gives_more_rows_than_a_run_could_see_is_refused(tmp_path):
    file = numbered(tmp_path / "a.jsonl", 3)
    records = read_records([f"{file}:1e7"], "instruct")
    with pytest.raises(UserError, match=r"a\.jsonl:1e\+07 gives 3e\+07 training rows of the 3 records .* 20,000,000\."):
        records.resample([0, 1, 2])


@pytest.mark.parametrize("weight", ["1e300", "20000001", "inf"])
def test_a_weight_that_no_file_could_have_is_refused_before_it_is_read(tmp_path, weight):
    file = numbered(tmp_path / "a.jsonl", 3)
    with pytest.raises(UserError, match="is not a weight; expected a number above 0 and at most 20,000,000"):
        parse_source(f"{file}:{weight}")
    assert parse_source(f"{file}:{MOST_ROWS}").weight == MOST_ROWS


def test_what_people_do_with_weights_is_bounded_by_no_number_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 250)
    few, many = numbered(tmp_path / "a.jsonl", 2), numbered(tmp_path / "b.jsonl", 5)
    records = read_records([f"{few}:125", f"{many}:100"], "instruct")
    assert len(records.resample(range(7))) == 250 + 500
    records.sources[0].weight = 126
    with pytest.raises(UserError, match="252 training rows of the 2 records"):
        records.resample(range(7))
