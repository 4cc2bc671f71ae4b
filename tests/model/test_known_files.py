"""What goes on of a model's folder: files of known names with their own content, and settings that name no code."""

import json
import shutil
from pathlib import Path

import pytest

from tests.own_code import NAMED, add_to, plant
from vicuna.export.meta_layout import copy_template
from vicuna.model.base import check_base, fingerprint, load_base
from vicuna.model.known_files import copy_known, shown, without_code
from vicuna.model.openable import CHAT_TEMPLATES, copy_tokenizer, make_openable


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def planted(tiny_base, tmp_path) -> Path:
    folder = plant(Path(shutil.copytree(tiny_base, tmp_path / "base")), tmp_path / "mark")
    (folder / CHAT_TEMPLATES).mkdir()
    (folder / CHAT_TEMPLATES / "short.jinja").write_text("{{ messages }}", encoding="utf-8")
    for name in ("tokenizer.py", "tokenizer_notes.txt", "tokenization_own.py"):
        (folder / name).write_text("", encoding="utf-8")
    return folder


def test_a_tokenizer_is_known_files_and_names_no_code(planted, tmp_path):
    (tmp_path / "out").mkdir()
    copy_tokenizer(planted, tmp_path / "out")

    assert names(tmp_path / "out") == {
        *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", f"{CHAT_TEMPLATES}/short.jinja")
    }
    assert "auto_map" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text("utf-8"))


def test_what_others_see_has_the_weights_and_no_code(planted):
    with shown(planted) as place:
        assert names(place) == {
            *("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "tokenizer.model"),
            "model.safetensors",
        }
        assert (place / "model.safetensors").samefile(planted / "model.safetensors")
        assert not any(
            name in file.read_text("utf-8") for file in place.glob("*.json") for name in ("auto_map", "own.")
        )
    assert not place.exists()


def test_a_folder_that_is_written_names_no_code(planted):
    make_openable(planted)
    settings = {name: json.loads((planted / name).read_text("utf-8")) for name in list(NAMED)[:3]}

    assert not {"auto_map", "custom_pipelines", "custom_generate"} & {key for one in settings.values() for key in one}
    assert not [key for key in settings["config.json"] if key.endswith("_implementation")]
    assert settings["generation_config.json"]["cache_implementation"] == "static"  # names no code


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"text_config": {"auto_map": {"AutoConfig": "own.X"}, "hidden_size": 8}}, {"text_config": {"hidden_size": 8}}),
        ({"parts": [{"auto_map": {}, "size": 1}]}, {"parts": [{"size": 1}]}),
        ({"attn_implementation": "eager"}, {"attn_implementation": "eager"}),
        ({"_attn_implementation_internal": None}, {"_attn_implementation_internal": None}),
        ({"attn_implementation": {"": "sdpa", "text_config": "flex_attention"}}, {}),
        ({"experts_implementation": "deepgemm", "attn_implementation": 3, "x": 1}, {"x": 1}),
    ],
)
def test_settings_name_no_code_at_any_depth(settings, expected):
    assert without_code(settings) == expected


@pytest.mark.parametrize("way", ["flash_attention_2", "flex_attention", "paged|sdpa", "nonsense"])
def test_attention_is_computed_by_transformers_itself(tiny_base, tmp_path, way):
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    add_to(folder / "config.json", {"_attn_implementation": way, "_experts_implementation": "sonicmoe"})
    model = load_base(check_base(str(folder)), 32)

    assert (model.config._attn_implementation, model.config.name_or_path) == ("sdpa", str(folder))


def test_a_link_to_a_file_of_another_name_is_not_followed(tmp_path):
    source, secret = tmp_path / "model", tmp_path / "credentials.json"
    source.mkdir()
    secret.write_text('{"password": "x"}', encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (source / name).symlink_to(secret)
    (tmp_path / "out").mkdir()
    copy_tokenizer(source, tmp_path / "out")
    copy_template(source, tmp_path / "out")
    copy_known(source, tmp_path / "out", ["generation_config.json"])

    assert names(tmp_path / "out") == set()


@pytest.mark.parametrize(
    "there", ["disk/tokenizer.json", "hub/blobs/ab12", "annex/.git/annex/objects/a1/b2/SHA256E-s2"]
)
def test_links_of_a_second_disk_and_of_stores_are_followed(tmp_path, there):
    file = tmp_path / there
    file.parent.mkdir(parents=True)
    file.write_text("{}", encoding="utf-8")
    source = tmp_path / {"disk": "model", "hub": "hub/snapshots/1", "annex": "annex/model"}[there.split("/")[0]]
    source.mkdir(parents=True)
    (source / "tokenizer.json").symlink_to(file)
    (tmp_path / "out").mkdir()
    copy_known(source, tmp_path / "out", ["tokenizer.json"])

    assert (tmp_path / "out/tokenizer.json").read_text("utf-8") == "{}"


def test_a_folder_whose_name_begins_like_a_tokenizer_is_no_part_of_the_base(tiny_base, tmp_path):
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    before = fingerprint(folder)
    (folder / "tokenizer").mkdir()

    assert fingerprint(folder) == before
