#!/usr/bin/env bash
# Install what GGUF models need: llama.cpp, compiled once for this machine (a few minutes on two cores), and gguf.
#
#   bash scripts/install_cpp.sh
#   CXX=clang++ bash scripts/install_cpp.sh                     # with another compiler
#   CMAKE_ARGS=-DGGML_CUDA=on bash scripts/install_cpp.sh       # for an NVIDIA GPU, with its CUDA toolkit; not measured
#
# The compiled wheel is kept in the user's cache folder, and found there the next time.
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
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/chinese-vicuna/wheels/$kind
wheel() { find "$wheels" -name "llama_cpp_python-${llama#*==}-*.whl" 2>/dev/null | head -n 1; }

if [ -z "$(wheel)" ]; then
    if ! command -v "${CXX:-c++}" >/dev/null; then
        echo "a C++ compiler is needed to compile llama.cpp; install g++ or clang, or name one by CXX" >&2
        exit 1
    fi
    mkdir -p "$wheels"
    aside=$(mktemp -d "$wheels/.compiling-XXXXXX")
    trap 'rm -rf "$aside"' EXIT
    # Half of the package is for llama.cpp's own programs, which Python does not call.
    echo 'set(LLAMA_BUILD_COMMON OFF)' >"$aside/less.cmake"
    echo "compiling $llama …"
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=$aside/less.cmake $settings" \
        "$PYTHON" -m pip --quiet --disable-pip-version-check wheel --no-deps --no-cache-dir --wheel-dir "$aside" "$llama"
    mv "$aside"/*.whl "$wheels/"
fi
# The same version with other settings is another program, which pip would not tell from the one that is there.
installed=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-llama-cpp
if [ "$(cat "$installed" 2>/dev/null)" != "$kind" ]; then
    "$PYTHON" -m pip --quiet --disable-pip-version-check install --force-reinstall --no-deps "$(wheel)"
    echo "$kind" >"$installed"
fi
PIP_FIND_LINKS=$wheels bash scripts/install.sh requirements_cpp.txt
