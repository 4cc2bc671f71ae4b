"""JSON from elsewhere becomes a typed value or a sentence; every registered kind is tried with every odd value."""

import json
import os
import re
from typing import get_args

import pytest
from pydantic import Field

from tests.foreign.odd_values import ODD, odd_texts, readers
from vicuna.errors import UserError
from vicuna.foreign.paths import inside, read_bounded, regular
from vicuna.foreign.typed import (
    MOST_DEPTH,
    Foreign,
    Ids,
    Name,
    Positive,
    Size,
    nesting,
    parse,
    read_object,
    read_typed,
    typed,
)


class Inner(Foreign):
    factor: Positive = 1.0


class Sample(Foreign):
    hidden_size: Size
    ends: Ids = Field(default_factory=list)
    inner: Inner | None = None
    names: dict[Name, Inner] = Field(default_factory=dict)


GOOD = {"hidden_size": 64, "ends": 2, "inner": {"factor": 8}, "names": {"a b": {"factor": 2.5}}, "beside": [None]}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "sample.json"


def test_a_good_file_is_read_and_what_it_has_beside_is_left(file):
    file.write_text(json.dumps(GOOD), encoding="utf-8")
    found = read_typed(file, Sample)

    assert (found.hidden_size, found.ends, found.inner.factor, found.names["a b"].factor) == (64, [2], 8.0, 2.5)
    assert not hasattr(found, "beside")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"hidden_size": "64"}', "hidden_size is '64'; expected a whole number."),
        ('{"hidden_size": true}', "hidden_size is True; expected a whole number."),
        ('{"hidden_size": -4}', "hidden_size is -4; expected at least 1."),
        ('{"hidden_size": 99999999999999999999999}', "hidden_size is 99999999999999999999999; expected at most 1"),
        ('{"ends": 1}', "hidden_size is missing; expected a value."),
        ('{"hidden_size": 4, "ends": [2, null]}', "ends.1 is None; expected a whole number."),
        ('{"hidden_size": 4, "inner": {"factor": NaN}}', "inner.factor is nan; expected a finite number."),
        ('{"hidden_size": 4, "inner": [1]}', "inner is [1]; expected an object with names and values."),
        ('{"hidden_size": 4, "names": {"x.y": {"factor": "%s"}}}' % ("9" * 99), "names.x.y.factor is '99999"),
        ("[1]", "is JSON, but no object with names and values."),
        ('{"hidden_size": 4', "is not JSON (Expecting ',' delimiter: line 1 column 18 (char 17))"),
        ('{"hidden_size": %s}' % ("1" * 5000), "is not JSON (a number of thousands of digits)"),
        ("", "is empty."),
    ],
)  # fmt: skip
def test_a_refusal_names_file_field_value_and_what_was_expected(file, text, said):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        read_typed(file, Sample)

    assert str(file) in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(file))


def test_bytes_that_are_no_text_are_refused(file):
    file.write_bytes(b'{"hidden_size": 4, "a": "\xff\xfe"}')
    with pytest.raises(UserError, match=r"is not JSON \(byte 25 is no UTF-8\)"):
        read_typed(file, Sample)


def test_depth_is_bounded_before_json_sees_it(file):
    for text, depth in ((b'"[[[" ', 0), (b'{"a\\"[": [[1], {"\\\\": []}]}', 4), (b"[" * 9, 9), (b"[],[],[]", 1)):
        assert nesting(text)[0] == depth, text
    assert nesting(b'{"a": [[], [], "[]"]}') == (3, 4)
    assert parse(b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, "it")
    with pytest.raises(UserError, match=r"it has 65 lists and objects, nested 65 deep; expected at most"):
        parse(b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), "it")


def test_nothing_is_read_further_than_its_limit(file):
    file.write_text(json.dumps(GOOD), encoding="utf-8")
    size = file.stat().st_size
    assert len(read_bounded(file, size)) == size
    with pytest.raises(UserError, match=f"sample.json has {size} bytes; expected at most {size - 1}"):
        read_object(file, size - 1)


def test_a_missing_file_is_what_the_caller_says(file):
    assert read_typed(file, Sample, missing=Sample(hidden_size=1)).hidden_size == 1
    with pytest.raises(UserError, match=r"sample\.json does not exist"):
        read_typed(file, Sample)
    file.symlink_to(file.with_name("nowhere"))
    with pytest.raises(UserError, match=r"is a link to .*nowhere, which is not here"):
        read_typed(file, Sample, missing=Sample(hidden_size=1))


def test_pipes_devices_and_folders_are_no_files_and_links_to_files_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"a")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "to pipe").symlink_to("pipe")
    (tmp_path / "device").symlink_to("/dev/zero")

    assert regular(tmp_path / "link") == tmp_path / "link"
    for name, kind in (("pipe", "a pipe"), ("to pipe", "a pipe"), ("folder", "a folder"), ("device", "a device")):
        with pytest.raises(UserError, match=f"{name} is {kind}; expected a file"):
            regular(tmp_path / name)


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", "", ".", "..", "/etc/passwd", "C:a", "a\nb", 3, None, ["a"]])
def test_a_named_file_has_no_folder_part(tmp_path, name):
    with pytest.raises(UserError, match=r"index\.json names .* as a file; expected the name of a file in"):
        inside(tmp_path, name, tmp_path / "index.json")


def test_a_plain_name_is_a_file_of_the_folder(tmp_path):
    assert inside(tmp_path, "模型 1.safetensors", tmp_path / "index.json") == tmp_path / "模型 1.safetensors"


def foreign_parts(kind: type[Foreign]) -> set[type[Foreign]]:
    """A kind and those that its fields hold."""
    found, open_ones = set(), [kind]
    while open_ones:
        one = open_ones.pop()
        if isinstance(one, type) and issubclass(one, Foreign):
            if one in found:
                continue
            found.add(one)
            open_ones += [field.annotation for field in one.model_fields.values()]
        else:
            open_ones += get_args(one)
    return found


@pytest.mark.parametrize("kind", readers(), ids=lambda kind: kind.__name__)
def test_an_example_has_every_field_so_that_each_is_tried(kind):
    names = {name for one in foreign_parts(kind) for name in one.model_fields}
    text = json.dumps(readers()[kind])

    assert [name for name in sorted(names) if f'"{name}":' not in text] == []


@pytest.mark.parametrize("kind", [Sample, *readers()], ids=lambda kind: kind.__name__)
def test_every_odd_value_in_every_field_is_a_sentence_or_a_typed_value(kind, file):
    tried, refusals = 0, []
    for what, text in odd_texts(readers().get(kind, GOOD)):
        tried += 1
        try:
            assert isinstance(typed(parse(text.encode("utf-8", "surrogatepass"), file), kind, file), kind), what
        except UserError as refused:
            refusals.append(f"{what}: {refused}")
    assert tried >= len(ODD)
    assert [one for one in refusals if "expected" not in one and "is not JSON" not in one] == []
    assert any("hidden_size" in one or kind is not Sample for one in refusals)
