"""The small core opens without torch."""

import pytest


@pytest.mark.parametrize("name", ["templates", "chat_template", "tokenizer", "tokenizer_json"])
def test_a_module_of_prompts_does_not_import_torch(program, name):
    done = program("-c", f"import sys, vicuna.prompt.{name}; print('torch' in sys.modules)")

    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
