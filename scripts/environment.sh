# shellcheck shell=bash
# Sourced by every launcher behind its cd to the checkout: how paths in variables are meant, and PYTHON, which is that of
# the active virtual environment, else of .venv, else the system's.

# A path in a variable counts from where the launcher was called; what the launcher itself names, from the checkout.
here() {
    case $1 in
        "" | /* | "~"*) printf '%s' "$1" ;;
        *) if [ "$OLDPWD" = "$PWD" ]; then printf '%s' "$1"; else printf '%s' "$OLDPWD/$1"; fi ;;
    esac
}
# The same of what may be a hub id: owner/name, where there is no folder owner.
here_or_id() {
    if [[ $1 =~ ^[^./~][^/]*/[^/]+$ ]] && [ ! -d "$OLDPWD/${1%%/*}" ]; then printf '%s' "$1"; else here "$1"; fi
}
# Whether a flag, the first word, is among the others: a list that is given twice has the values of both, and what is
# typed behind a launcher is to take the place of what its variables say.
given() {
    local flag=${1//-/_} word
    shift
    for word; do
        word=${word%%=*}
        if [ "${word//-/_}" = "$flag" ]; then return 0; fi
    done
    return 1
}
# The same of several, which `adapters` then holds.
here_all() {
    local name
    read -r -a adapters <<<"$1"
    for name in "${!adapters[@]}"; do adapters[name]=$(here_or_id "${adapters[name]}"); done
}

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        PYTHON=python
    elif [ -x .venv/bin/python ]; then
        PYTHON=.venv/bin/python
    fi
elif [[ $PYTHON == */* ]]; then
    PYTHON=$(here "$PYTHON")
fi
