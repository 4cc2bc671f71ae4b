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
# Whether two names are one but for case, underscores, and one letter that is missing, too many, other or swapped.
near() {
    local a=${1//_/} b=${2//_/} i
    shopt -s nocasematch
    for ((i = 0; i <= ${#a} && i <= ${#b}; i++)); do
        if [[ ${a:i} == "${b:i}" || ${a:i+1} == "${b:i}" || ${a:i} == "${b:i+1}" || ${a:i+1} == "${b:i+1}" ||
            ${a:i:1}${a:i+1:1}${a:i+2} == "${b:i+1:1}${b:i:1}${b:i+2}" ]]; then
            shopt -u nocasematch
            return 0
        fi
        if [[ ${a:i:1} != "${b:i:1}" ]]; then break; fi
    done
    shopt -u nocasematch
    return 1
}
# A variable whose name is a mistake away from one that the launcher reads, and which is set in its place: to go on
# would be to train on the sample, say, for DATAPATH.
refuse_misspelt() { # the launcher's file
    local read name wrong
    read=$(grep -oE '\$\{[A-Za-z]+_[A-Za-z_]+[:+-]' "$1" | tr -dc 'A-Za-z_\n' | sort -u) || return 0
    for wrong in $(compgen -e); do
        if [[ $wrong == *[!A-Za-z_]* ]] || grep -qx "$wrong" <<<"$read"; then continue; fi
        for name in $read; do
            if [ -z "${!name:-}" ] && near "$wrong" "$name"; then
                echo "$(basename "$1"): $wrong is set, but the launcher reads $name: set that one, or unset $wrong." >&2
                exit 2
            fi
        done
    done
}
if [ "$0" != "${BASH_SOURCE[0]}" ]; then refuse_misspelt "$(here "$0")"; fi

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
