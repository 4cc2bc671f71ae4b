#!/usr/bin/env bash
# One chat template makes another prompt in llama.cpp than in transformers: `trim` leaves full-width spaces there.
#
# Published templates (Llama 3, Gemma, GLM) trim what a user says. Jinja2, which transformers renders with, takes away all
# that Unicode calls a space; llama.cpp's own engine, which its server renders with, only ASCII's. A Chinese paragraph
# that begins with two full-width spaces is so asked with other tokens than the model was trained on. By the same engine a
# number 1.0 in the arguments of a call is 1.
#
# Seen with the llama.cpp in the source package of llama-cpp-python 0.3.36 (common/jinja, compiled alone), Jinja2 3.1.6:
#   Jinja2:    '[春天来了。] {"days": 1.0}'
#   llama.cpp: '[　　春天来了。　] {"days": 1}'
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet Jinja2==3.1.6
"$work/env/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" llama-cpp-python==0.3.36
tar -xzf "$work"/llama_cpp_python-0.3.36.tar.gz -C "$work"
source=$work/llama_cpp_python-0.3.36/vendor/llama.cpp
cat >"$work/render.cpp" <<'CPP'
#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "jinja/value.h"
#include "json.h"
#include <cstdlib>
#include <iostream>

extern "C" void ggml_abort(const char *, int, const char *, ...) { std::abort(); }

int main(int, char ** words) {
    jinja::lexer lexer;
    auto tokens = lexer.tokenize(words[1]);
    auto program = jinja::parse_from_tokens(tokens);
    jinja::context context(tokens.source);
    jinja::global_from_json(context, common_json::parse(words[2]), false);
    jinja::runtime runtime(context);
    std::cout << jinja::runtime::gather_string_parts(runtime.execute(program))->as_string().str();
}
CPP
c++ -std=c++17 -O1 -I "$source/common" -I "$source/vendor" -I "$source/ggml/include" "$source/common/json.cpp" \
    "$source/common/unicode.cpp" "$source"/common/jinja/*.cpp "$work/render.cpp" -o "$work/render"
cat >"$work/try.py" <<'PYTHON'
import json
import subprocess
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE = "[{{ content | trim }}] {{ arguments | tojson }}"
given = {"content": "\u3000\u3000春天来了。\u3000", "arguments": {"days": 1.0}}
environment = ImmutableSandboxedEnvironment()
environment.filters["tojson"] = json.dumps  # as transformers has it
python = environment.from_string(TEMPLATE).render(**given)
ran = subprocess.run([sys.argv[1], TEMPLATE, json.dumps(given)], stdout=subprocess.PIPE, check=True)
cpp = ran.stdout.decode()
print(f"Jinja2:    {python!r}\nllama.cpp: {cpp!r}".replace("\\u3000", "\u3000"))
as_seen = python == '[春天来了。] {"days": 1.0}' and cpp == '[\u3000\u3000春天来了。\u3000] {"days": 1}'
sys.exit(0 if as_seen else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" "$work/render"
