"""scripts/serve_vllm.sh up to the moment when vLLM takes over: its command line, the template, and what is refused."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests import starting
from tests.served import make_adapter
from vicuna.api.vllm_server import VllmFlags, main, vllm_argv
from vicuna.errors import UserError
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import prompt_ids
from vicuna.prompt.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
# Stands in for vLLM: notes its arguments and its environment.
VLLM = """#!/usr/bin/env bash
printf '%s\\037' "$@" >"$NOTED/argv"
printf '%s\\037' "${CUDA_VISIBLE_DEVICES-}" "${VLLM_API_KEY-}" "${VLLM_NO_USAGE_STATS-}" >"$NOTED/env"
"""


@pytest.fixture(scope="module")
def adapters(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: make_adapter(tiny_base, folder / name, prompt_type, seed)
        for seed, (name, prompt_type) in enumerate({"talks": "chat", "speaks": "chat", "obeys": "instruct"}.items())
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("VLLM", "VLLM_API_KEY", "VICUNA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache/chinese-vicuna"


@pytest.fixture
def folder(tiny_base, tmp_path):
    """A copy of the tiny base that may be changed."""
    shutil.copytree(tiny_base, tmp_path / "merged")
    return tmp_path / "merged"


@pytest.fixture
def copied(adapters, tmp_path):
    """copied("talks", **config): a copy of an adapter, its config changed."""

    def copy(name, to="copy", **config):
        shutil.copytree(adapters[name], tmp_path / to)
        file = tmp_path / to / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8")
        return tmp_path / to

    return copy


def value(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def flags(base, *adapters, **more) -> VllmFlags:
    return VllmFlags(model_path=str(base), lora_path=[str(path) for path in adapters], **more)


# --- the launcher -------------------------------------------------------------------------------------------------


@pytest.fixture
def launch(tmp_path, interpreter):
    """launch("--x", BASE_MODEL="a"): exit status, standard error, vLLM's arguments and environment."""
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text(VLLM, encoding="utf-8")
    program.chmod(0o755)

    def run(*argv: str, **variables: str):
        noted = tmp_path / "noted"
        noted.mkdir(exist_ok=True)
        env = {
            "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHON": interpreter, "NOTED": str(noted),
            starting.ADDRESS: starting.address(),
            "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(ROOT / "scripts/serve_vllm.sh"), *argv],
            cwd=tmp_path, env=env | variables, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        read = [
            (noted / name).read_text(encoding="utf-8").split("\x1f")[:-1] if (noted / name).is_file() else None
            for name in ("argv", "env")
        ]
        return done.returncode, done.stderr, *read

    return run


def test_the_launcher_starts_vllm_on_base_and_adapters(launch, tiny_base, adapters, cache):
    status, err, argv, env = launch(
        "--max-model-len", "256", "--served", "a b",
        BASE_MODEL=str(tiny_base), LORA_PATH=f"{adapters['talks']} {adapters['speaks']}", PORT="8123",
        VICUNA_API_KEY="sesame",
    )  # fmt: skip
    assert status == 0, err
    assert argv == [
        *("serve", str(tiny_base), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", "8123"),
        *("--generation-config", "auto", "--chat-template", str(cache / "chat_template-chat.jinja")),
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "8", "--lora-modules"),
        *(f"talks={adapters['talks']}", f"speaks={adapters['speaks']}"),
        *("--max-model-len", "256", "--served", "a b"),
    ]
    assert env == ["", "sesame", "1"]
    assert "sesame" not in err
    assert (cache / "chat_template-chat.jinja").read_text(encoding="utf-8") == chat_template("chat")


def test_the_launcher_says_what_it_can_not_do_in_a_sentence(launch, tmp_path):
    status, err, argv, _ = launch(BASE_MODEL="./not/here")
    assert (status, argv) == (1, None)
    assert re.search(r"--model_path \S*\./not/here does not exist", err)
    assert "Traceback" not in err
    (tmp_path / "bin/vllm").unlink()
    status, err, _, _ = launch()
    assert status == 1
    assert "vllm is not installed: vLLM needs an NVIDIA GPU, and an environment of its own" in err
    assert "Name its program by VLLM=" in err
    assert "Traceback" not in err


def test_the_launchers_variables_reach_their_flags(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$CUDA_VISIBLE_DEVICES" "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    def run(*argv: str, **variables: str) -> list[str]:
        env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts/serve_vllm.sh"), *argv],
            env=env | variables, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout.split("\n")[:-1]

    start = ["-m", "vicuna.api.vllm_server", "--model_path"]
    assert run() == ["", *start, "models/tiny-llama-zh", "--"]
    assert run("--x", BASE_MODEL="a b", LORA_PATH="c d", PROMPT_TYPE="chat", PORT="1", TOT_CUDA="0,2,5") == [
        *("0,2,5", *start, "a b", "--prompt_type", "chat", "--port", "1", "--gpus", "3", "--lora_path", "c", "d"),
        *("--", "--x"),
    ]


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What vLLM would have been started with."""
    calls = []
    (tmp_path / "vllm").write_text("", encoding="utf-8")
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    return calls


@pytest.mark.parametrize(
    "further", [["--host", "0.0.0.0"], ["--host=0.0.0.0"], ["--host", "127.0.0.1", "--host", "::"]]
)
def test_other_machines_need_a_key(started, tiny_base, monkeypatch, further):
    with pytest.raises(UserError, match="lets other machines in, and nothing asks who they are: set VICUNA_API_KEY"):
        main(flags(tiny_base), further)
    assert started == []
    main(flags(tiny_base), [*further, "--api-key", "x"])
    monkeypatch.setenv("VICUNA_API_KEY", "sesame")
    main(flags(tiny_base), further)
    assert [call[2].get("VLLM_API_KEY") for call in started] == [None, "sesame"]
    assert all("sesame" not in word for word in started[1][1])


def test_this_machine_needs_none(started, tiny_base):
    main(flags(tiny_base), ["--host", "localhost"])
    ((_, argv, _),) = started
    assert argv[-2:] == ["--host", "localhost"]


# --- templates ----------------------------------------------------------------------------------------------------


def test_the_template_is_the_adapters(tiny_base, adapters, cache):
    argv = vllm_argv(flags(tiny_base, adapters["obeys"]))
    file = Path(value(argv, "--chat-template"))
    assert file == cache / "chat_template-instruct.jinja"
    other = AutoTokenizer.from_pretrained(tiny_base)
    messages = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": "再说"},
    ]
    text = other.apply_chat_template(messages, chat_template=file.read_text(encoding="utf-8"), tokenize=False)
    ids = other(text, add_special_tokens=False)["input_ids"]
    assert ids == prompt_ids(TextTokenizer(tiny_base), "instruct", messages)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_in_the_merged_folder_is_left_to_vllm(folder, adapters, place):
    assert value(vllm_argv(flags(folder)), "--chat-template").endswith("chat_template-instruct.jinja")
    if place.endswith("jinja"):
        (folder / place).write_text(chat_template("chat"), encoding="utf-8")
    else:
        config = json.loads((folder / place).read_text(encoding="utf-8"))
        (folder / place).write_text(json.dumps({**config, "chat_template": chat_template("chat")}), encoding="utf-8")
    assert "--chat-template" not in vllm_argv(flags(folder))
    assert value(vllm_argv(flags(folder, prompt_type="bot")), "--chat-template").endswith("chat_template-bot.jinja")
    # The base's own is not what the adapter was trained with.
    assert value(vllm_argv(flags(folder, adapters["obeys"])), "--chat-template").endswith(
        "chat_template-instruct.jinja"
    )


def test_a_model_that_was_trained_as_a_whole_brings_its_prompt_type(folder):
    (folder / "run_args.json").write_text('{"prompt_type": "chat_eos"}', encoding="utf-8")
    assert value(vllm_argv(flags(folder)), "--chat-template").endswith("chat_template-chat_eos.jinja")


def test_adapters_of_different_templates_are_served_apart(tiny_base, adapters):
    both = [adapters["talks"], adapters["obeys"]]
    with pytest.raises(UserError, match=r"different prompt types \(talks chat, obeys instruct\)"):
        vllm_argv(flags(tiny_base, *both))
    argv = vllm_argv(flags(tiny_base, *both, prompt_type="chat"))
    assert value(argv, "--chat-template").endswith("chat_template-chat.jinja")


def test_a_prompt_type_of_the_future_is_refused(folder):
    (folder / "run_args.json").write_text('{"prompt_type": "later"}', encoding="utf-8")
    with pytest.raises(UserError, match="prompt type 'later' is not known to this version; name one with PROMPT_TYPE"):
        vllm_argv(flags(folder))


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "allowed"), [(8, "8"), (9, "16"), (64, "64"), (65, "128"), (300, "320")])
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(tiny_base, adapters, monkeypatch, rank, allowed):
    ranks = {"talks": rank, "speaks": 4}
    monkeypatch.setattr("vicuna.api.vllm_adapters.served_rank", lambda base, model, folder: ranks[folder.name])
    argv = vllm_argv(flags(tiny_base, adapters["talks"], adapters["speaks"]))
    assert value(argv, "--max-lora-rank") == allowed


def test_a_rank_beyond_vllms_is_refused(tiny_base, adapters, monkeypatch):
    monkeypatch.setattr("vicuna.api.vllm_adapters.served_rank", lambda *any: 513)
    with pytest.raises(UserError, match="rank 513 is more than the 512 that vLLM takes: merge"):
        vllm_argv(flags(tiny_base, adapters["talks"]))


def test_an_adapter_of_the_first_age_is_to_be_merged(tiny_base, copied):
    old = copied("talks")
    (old / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="is of an age that vLLM does not read"):
        vllm_argv(flags(tiny_base, old))


def test_an_adapter_of_another_base_is_refused(tiny_base, copied):
    from safetensors.torch import load_file, save_file

    wrong = copied("talks")
    tensors = load_file(wrong / "adapter_model.safetensors")
    wide = {name: torch.zeros(4, 64) if "lora_A" in name else torch.zeros(64, 4) for name in tensors}
    save_file(wide, wrong / "adapter_model.safetensors")
    with pytest.raises(UserError, match="use the base it was trained on"):
        vllm_argv(flags(tiny_base, wrong))


def test_adapters_that_clients_could_not_tell_apart_are_refused(tiny_base, adapters, copied):
    again = copied("talks", to="a/talks")
    with pytest.raises(UserError, match="clients could not tell talks from another of that name"):
        vllm_argv(flags(tiny_base, adapters["talks"], again))
    with pytest.raises(UserError, match="clients could not tell tiny from another of that name"):
        vllm_argv(flags(tiny_base, copied("talks", to="tiny")))


def test_a_path_that_would_be_taken_apart_is_given_as_json(tiny_base, copied):
    odd = copied("talks", to="lr=1,r=4")
    assert json.loads(vllm_argv(flags(tiny_base, odd))[-1]) == {"name": "lr=1,r=4", "path": str(odd)}


def test_a_missing_adapter_is_refused(tiny_base):
    with pytest.raises(UserError, match=r"--lora_path \./nowhere does not exist"):
        vllm_argv(flags(tiny_base, "./nowhere"))


# --- the machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "dtype", "expected"),
    [("cuda", torch.float16, ["--dtype", "half"]), ("cuda", torch.bfloat16, []), ("cpu", torch.float16, [])],
)
def test_gpus_that_only_emulate_bfloat16_compute_in_half(tiny_base, monkeypatch, where, dtype, expected):
    monkeypatch.setattr("vicuna.model.base.device", lambda: torch.device(where))
    monkeypatch.setattr("vicuna.model.base.compute_dtype", lambda bits: (dtype, "said so"))
    argv = vllm_argv(flags(tiny_base))
    assert (argv[argv.index("--dtype") :][:2] if "--dtype" in argv else []) == expected


def test_heads_are_shared_evenly(tiny_base):
    assert value(vllm_argv(flags(tiny_base, gpus=4)), "--tensor-parallel-size") == "4"
    assert "--tensor-parallel-size" not in vllm_argv(flags(tiny_base, gpus=1))
    with pytest.raises(UserError, match="3 GPUs can not share the 4 attention heads of the base"):
        vllm_argv(flags(tiny_base, gpus=3))


def test_a_base_without_generation_settings_gets_vllms(folder):
    assert value(vllm_argv(flags(folder)), "--generation-config") == "auto"
    (folder / "generation_config.json").unlink()
    assert value(vllm_argv(flags(folder)), "--generation-config") == "vllm"


def test_a_base_with_an_adapter_beside_it_is_refused_where_vllm_would_read_both(folder, adapters):
    shutil.copy(adapters["talks"] / "adapter_config.json", folder)
    assert vllm_argv(flags(folder))  # the weights of a PyTorch adapter are not looked for beside .safetensors
    shutil.copy(adapters["talks"] / "adapter_model.safetensors", folder)
    with pytest.raises(UserError, match=r"also holds adapter_model\.safetensors, whose tensors vLLM would take for"):
        vllm_argv(flags(folder))
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert vllm_argv(flags(folder))
