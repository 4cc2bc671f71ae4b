"""The launchers of the pages: what each variable becomes on the command line."""

import pytest

from tests.scripts.launchers import flags
from vicuna.answer.flags import AskFlags, ChatFlags, DecodingFlags, PredictFlags, ServeFlags
from vicuna.model.flags import ModelFlags

SERVE = (ModelFlags, AskFlags, PredictFlags, ServeFlags, DecodingFlags)


@pytest.mark.parametrize(
    ("variable", "value", "name", "meant"),
    [
        ("BASE_MODEL", "/data/my llama", "model_path", "/data/my llama"),
        ("LORA_PATH", "owner/name", "lora_path", "owner/name"),
        ("LORA_PATH", "", "lora_path", ""),
        ("USE_LOCAL", "1", "use_local", True),
        ("USE_LOCAL", "0", "use_local", False),
        ("TYPE_WRITER", "0", "use_typewriter", False),
        ("TYPE_WRITER", "1", "use_typewriter", True),
    ],
)
@pytest.mark.parametrize("name_of_script", ["generate.sh", "generate_4bit.sh"])
def test_a_variable_of_generate_reaches_its_flag(launch, name_of_script, variable, value, name, meant):
    program, *argv = launch(name_of_script, **{variable: value}).only.argv

    assert program == "generate.py"
    assert flags(SERVE, argv)[name] == meant


def test_without_variables_generate_opens_what_the_quickstart_made(launch):
    argv = launch("generate.sh").only.argv

    assert argv == ["generate.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "lora-Vicuna"]


def test_generate_runs_on_the_cards_that_are_named(launch):
    assert launch("generate.sh", TOT_CUDA="2").only.visible == "2"


def test_what_follows_goes_to_generate(launch):
    assert launch("generate.sh", "--text", "你 好").only.argv[-2:] == ["--text", "你 好"]


@pytest.mark.parametrize(("name", "bits"), [("generate.sh", 8), ("generate_4bit.sh", 4)])
def test_each_launcher_of_generate_has_its_precision(launch, name, bits):
    assert flags(SERVE, launch(name).only.argv[1:])["bits"] == bits


CHAT = (ModelFlags, ChatFlags, ServeFlags, DecodingFlags)


@pytest.mark.parametrize(
    ("variable", "value", "name", "meant"),
    [
        ("BASE_MODEL", "/data/my llama", "model_path", "/data/my llama"),
        ("LORA_PATH", "owner/name", "lora_path", ["owner/name"]),
        ("LORA_PATH", "lora-A lora-B", "lora_path", ["lora-A", "lora-B"]),
        ("LORA_PATH", "", "lora_path", []),
        ("INT8", "1", "bits", 8),
        ("INT8", "0", "bits", 16),
        ("SHOW_BEAM", "1", "show_beam", True),
        ("SHOW_BEAM", "0", "show_beam", False),
        ("PROMPT_TYPE", "interaction", "prompt_type", "interaction"),
        ("USE_LOCAL", "1", "use_local", True),
        ("TYPE_WRITER", "0", "use_typewriter", False),
    ],
)
@pytest.mark.parametrize("name_of_script", ["chat_7B.sh", "interaction.sh"])
def test_a_variable_of_chat_reaches_its_flag(launch, name_of_script, variable, value, name, meant):
    program, *argv = launch(name_of_script, **{variable: value}).only.argv

    assert program == "chat.py"
    assert flags(CHAT, argv)[name] == meant


def test_without_variables_chat_opens_what_the_quickstart_made(launch):
    argv = launch("chat_7B.sh").only.argv

    assert argv == ["chat.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "lora-Vicuna-chat"]


def test_an_adapter_that_follows_takes_the_place_of_the_quickstarts(launch):
    argv = launch("chat_7B.sh", "--lora_path", "mine").only.argv

    assert argv == ["chat.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "mine"]


def test_adapters_that_follow_take_the_place_of_those_of_the_variable(launch):
    _, *argv = launch("chat_7B.sh", "--lora-path=mine", "--lora_path", "other", LORA_PATH="a b").only.argv

    assert flags(CHAT, argv)["lora_path"] == ["mine", "other"]


def test_what_follows_goes_to_chat_on_the_cards_that_are_named(launch):
    call = launch("chat_7B.sh", "--port", "80", TOT_CUDA="2").only

    assert (call.argv[-2:], call.visible) == (["--port", "80"], "2")
