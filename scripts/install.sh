#!/usr/bin/env bash
# Install requirements files into the active virtual environment, else into .venv, in the exact versions that
# scripts/constraints/ lists for its Python; nothing is done twice.
#
#   bash scripts/install.sh requirements.txt [more.txt …]
#   bash scripts/install.sh --verify requirements.txt    # compare each file with its listed hash before it is installed
#   bash scripts/install.sh --newest requirements.txt    # what the file itself does not pin, as new as it can be had
#   bash scripts/install.sh --installed requirements.txt    # install nothing: status 1 says that something is missing
#   TORCH_INDEX_URL=https://… bash scripts/install.sh requirements.txt    # where to take torch from
set -euo pipefail
cd "$(dirname "$0")/.."

verify='' newest='' asked='' how=()
while [[ ${1:-} == --* ]]; do
    case $1 in
        --verify) verify=1 ;;
        --newest) newest=1 ;;
        --installed) asked=1 ;;
        --no-deps | --no-build-isolation) how+=("$1") ;;
        *) echo "install.sh: $1 is unknown; expected --verify, --newest, --installed, or requirements files" >&2 && exit 2 ;;
    esac
    shift
done
if [ -n "$verify" ] && [ -n "$newest" ]; then
    echo "install.sh: hashes are known of the listed versions only; leave out --verify or --newest" >&2
    exit 2
fi

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed, $1 is $("$1" -V). Install one, or activate an environment that has it." >&2
        exit 1
    }
}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ ! -x .venv/bin/python ]; then
    if [ -n "$asked" ]; then exit 1; fi
    new_enough python3
    python3 -m venv .venv
fi
. scripts/environment.sh
new_enough "$PYTHON"
pip() { "$PYTHON" -m pip --quiet --disable-pip-version-check "$@"; }

lists=scripts/constraints/python$("$PYTHON" -c 'import sys; print(*sys.version_info[:2], sep=".")')
exact=()
if [ -z "$newest" ] && [ -f "$lists.txt" ]; then
    exact=(--constraint "$lists.txt")
elif [ -n "$verify" ]; then
    echo "install.sh: there is no $lists.sha256 to compare with: make it with scripts/make_constraints.sh" >&2
    exit 1
elif [ -z "$newest$asked" ]; then
    echo "there is no $lists.txt: what requirements files do not pin is taken as new as it can be had" >&2
fi

installed=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-installed
stamp() { pwd | cat - pyproject.toml "$1" ${exact:+"$lists.txt"} | cksum; }
stamped() { grep -qxF "$(stamp "$1")" "$installed" 2>/dev/null; }
if [ -n "$asked" ]; then
    for file in "$@"; do stamped "$file" || exit 1; done
    exit 0
fi

# What pip is told to install; with --verify downloaded, compared, and installed from what was compared alone.
take() {
    if [ -z "$verify" ]; then
        pip install ${exact[@]+"${exact[@]}"} "$@"
        return
    fi
    rm -rf "${aside:?}"/*
    pip download --dest "$aside" ${exact[@]+"${exact[@]}"} "$@"
    "$PYTHON" - "$lists.sha256" "$aside" <<'END'
import hashlib, pathlib, sys
listed, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
known = {name: digest for digest, name in map(str.split, listed.read_text(encoding="utf-8").splitlines())}
for file in sorted(folder.iterdir()):
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if file.name not in known:
        sys.exit(f"{listed} does not list {file.name}: another package, or a file for another system; nothing was installed")
    if found != known[file.name]:
        sys.exit(f"{file.name} has the SHA-256 {found}, and {listed} has {known[file.name]}: nothing of it was installed")
END
    pip install --no-index --no-deps --no-build-isolation "$aside"/*
}
if [ -n "$verify" ]; then
    aside=$(mktemp -d)
    trap 'rm -rf "$aside"' EXIT
fi

has_gpu() { nvidia-smi >/dev/null 2>&1; }
has_torch() { "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; }
torch=$(grep -h '^torch==' requirements.txt)
if ! has_gpu && ! has_torch; then
    # The CPU build is a tenth of the size. Some indexes offer it themselves, PyTorch's own always does; what it needs
    # comes with the rest, in the listed versions.
    echo "installing $torch for the CPU …"
    if [ -z "${TORCH_INDEX_URL:-}" ] && pip install --no-deps --dry-run --report - "$torch" 2>/dev/null | grep -qF '+cpu'; then
        take --no-deps "$torch"
    else
        take --no-deps --index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}" "$torch"
    fi
fi

for file in "$@"; do
    if stamped "$file" && [ -z "$verify" ]; then continue; fi
    echo "installing $file …"
    # The tools that packages without a wheel are built with; without isolation they are not taken anew for each.
    if [[ -n $verify || " ${how[*]:-} " == *--no-build-isolation* ]]; then take 'setuptools>=77' wheel; fi
    if [ -n "$verify" ]; then
        # shellcheck disable=SC2046
        grep -hv '^-' "$file" $(sed -n 's/^-r //p' "$file") >"$aside.txt"
        take ${how[@]+"${how[@]}"} -r "$aside.txt"
        rm "$aside.txt"
        pip install --no-index --no-deps --no-build-isolation -e .
    else
        pip install ${exact[@]+"${exact[@]}"} ${how[@]+"${how[@]}"} -r "$file"
    fi
    stamp "$file" >>"$installed"
done
