#!/usr/bin/env bash
# Install what GGUF models need: llama.cpp, compiled once for this machine (a few minutes on two cores), and gguf.
# Beside it llama.cpp's own converters, and the engine with which its server renders chat templates (20 seconds).
#
#   bash scripts/install_cpp.sh
#   CXX=clang++ bash scripts/install_cpp.sh                     # with another compiler
#   CMAKE_ARGS=-DGGML_CUDA=on bash scripts/install_cpp.sh       # for an NVIDIA GPU, with its CUDA toolkit; not measured
#
# The compiled wheel and what is taken of llama.cpp's sources (80 MB, half of it vocabularies that only the tests read)
# are kept in the user's cache folder, and found there the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh requirements.txt
. scripts/environment.sh

llama=$(grep '^llama-cpp-python==' requirements_cpp.txt)
# llama.cpp is compiled for the very CPU it stands on, so a cache that several machines share holds one for each.
processor=$({ grep -m 1 '^flags' /proc/cpuinfo || uname -a; } 2>/dev/null)
# Without Intel's AMX: the kernels of this version for quantised models end the process on machines that have it.
if [[ $processor == *amx_int8* ]]; then no_amx="-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8"; fi
settings="${no_amx:-} ${CMAKE_ARGS:-}"
kind=$(printf '%s %s %s' "$processor" "$(uname -sm)" "$settings" | cksum | cut -d ' ' -f 1)
version=${llama#*==}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/chinese-vicuna
wheels=$cache/wheels/$kind
wheel() { find "$wheels" -name "llama_cpp_python-$version-*.whl" 2>/dev/null | head -n 1; }
pip() { "$PYTHON" -m pip --quiet --disable-pip-version-check "$@"; }
has_compiler() { command -v "${CXX:-c++}" >/dev/null; }

# What of llama.cpp is used as it is, by vicuna/gguf/llama_cpp_source.py.
source=$cache/llama.cpp/$version
parts=(LICENSE convert_hf_to_gguf.py convert_lora_to_gguf.py conversion gguf-py/LICENSE gguf-py/gguf models
    common/jinja common/json.h common/json.cpp common/unicode.h common/unicode.cpp vendor/nlohmann ggml/include)
unpacked() { [ "$(cat "$source/.parts" 2>/dev/null)" = "${parts[*]}" ]; }

if [ -z "$(wheel)" ] && ! has_compiler; then
    echo "a C++ compiler is needed to compile llama.cpp; install g++ or clang, or name one by CXX" >&2
    exit 1
fi
if [ -z "$(wheel)" ] || ! unpacked; then
    mkdir -p "$wheels" "$(dirname "$source")"
    aside=$(mktemp -d "$cache/.installing-XXXXXX")
    trap 'rm -rf "$aside"; kill "${telling:-}" 2>/dev/null || true' EXIT
    echo "taking the sources of $llama …"
    pip download --no-deps --no-cache-dir --no-binary "${llama%==*}" --dest "$aside" "$llama"
    archive=$(find "$aside" -name "llama_cpp_python-$version.tar.gz")
    if ! unpacked; then
        mkdir "$aside/source"
        tar -xzf "$archive" -C "$aside/source" --strip-components 3 \
            "${parts[@]/#/llama_cpp_python-$version/vendor/llama.cpp/}"
        echo "${parts[*]}" >"$aside/source/.parts"
        rm -rf "$source"
        mv "$aside/source" "$source"
    fi
    if [ -z "$(wheel)" ]; then
        # Half of the package is for llama.cpp's own programs, which Python does not call.
        echo 'set(LLAMA_BUILD_COMMON OFF)' >"$aside/less.cmake"
        echo "compiling $llama …"
        begun=$SECONDS
        while sleep 30 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
            echo "  still compiling, $((SECONDS - begun)) s so far; on two cores it takes about 9 minutes"
        done &
        telling=$!
        CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=$aside/less.cmake $settings" \
            pip wheel --no-deps --no-cache-dir --wheel-dir "$aside" "$archive"
        kill "$telling"
        mv "$aside"/*.whl "$wheels/"
    fi
fi
program=$source/render_template-$(uname -s)-$(uname -m)
compiled=$(cksum <vicuna/gguf/render_template.cpp)
if [ ! -x "$program" ] || [ "$(cat "$program.of" 2>/dev/null)" != "$compiled" ]; then
    if has_compiler; then
        echo "compiling llama.cpp's engine for chat templates …"
        "${CXX:-c++}" -std=c++17 -O1 -I "$source/common" -I "$source/vendor" -I "$source/ggml/include" \
            "$source"/common/*.cpp "$source"/common/jinja/*.cpp vicuna/gguf/render_template.cpp -o "$program.$$"
        mv "$program.$$" "$program"
        echo "$compiled" >"$program.of"
    else
        echo "without a C++ compiler (g++ or clang) certificates do not say how llama.cpp renders a chat template" >&2
    fi
fi
# The same version with other settings is another program, which pip would not tell from the one that is there.
installed=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-llama-cpp
if [ "$(cat "$installed" 2>/dev/null)" != "$kind" ]; then
    pip install --force-reinstall --no-deps "$(wheel)"
    echo "$kind" >"$installed"
fi
PIP_FIND_LINKS=$wheels bash scripts/install.sh requirements_cpp.txt
