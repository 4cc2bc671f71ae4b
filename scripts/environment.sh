# shellcheck shell=bash
# Sourced by every launcher: PYTHON is that of the active virtual environment, else of .venv, else the system's.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        PYTHON=python
    elif [ -x .venv/bin/python ]; then
        PYTHON=.venv/bin/python
    fi
fi
