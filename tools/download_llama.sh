#!/usr/bin/env bash
# Download a model that you name and have the right to use, with the hub's own program; then check its hashes.
#
#   bash tools/download_llama.sh owner/name                                      # to models/name
#   OUT_PATH=/data/llama-7b REVISION=v1 MANIFEST=SHA256.md bash tools/download_llama.sh owner/name
#   HF_ENDPOINT=https://hf-mirror.com bash tools/download_llama.sh owner/name    # from a mirror
#
# Weights in one format only: .safetensors where there are any. Called again after a failure, it goes on. Whatever
# follows goes to hf download, such as names of further files. For a model with a licence to accept, log in first:
# hf auth login
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

refuse() { echo "download_llama.sh: $1" >&2 && exit 1; }
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then MODEL_ID=$1 && shift; fi
model=${MODEL_ID:-}
if [ -z "$model" ]; then refuse "name a model: bash tools/download_llama.sh owner/name"; fi
out=$(here "${OUT_PATH:-}")
if [ -z "$out" ]; then out=models/${model##*/}; fi
MANIFEST=$(here "${MANIFEST:-}")
out=${out%/}
if [ -e "$out" ]; then refuse "$out exists; nothing is ever written over: name a new folder by OUT_PATH."; fi
if [ -n "${MANIFEST:-}" ] && [ ! -f "$MANIFEST" ]; then refuse "MANIFEST $MANIFEST is no file."; fi

export HF_HUB_DISABLE_UPDATE_CHECK=1 HF_HUB_DISABLE_TELEMETRY=1
aside=$(dirname "$out")/.downloading/$(basename "$out")
list=$("$PYTHON" -m vicuna.files.hub "$model" "$aside" "${REVISION:-main}")
commit=${list%%$'\n'*}
files=()
while read -r file; do files+=("$file"); done <<<"${list#*$'\n'}"

hf=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/hf
"$hf" download "$model" "${files[@]}" --revision "$commit" --local-dir "$aside" "$@" >/dev/null ||
    refuse "the download did not end; what came is kept in $aside, and the same command goes on with it."

again="$model is not what it should be. Remove what differs from $aside, and call again; name missing files behind $model."
verify=("$PYTHON" tools/verify_sha256.py --model_path "$aside")
if [ -n "${MANIFEST:-}" ]; then
    "${verify[@]}" --manifest "$MANIFEST" || refuse "$again"
elif compgen -G "$aside/SHA256*" >/dev/null || [ -f "$aside/sha256sum.txt" ]; then
    "${verify[@]}" || refuse "$again"
else
    echo "no list of hashes is there, and none is named by MANIFEST: checking against the hub's own" >&2
    "$hf" cache verify "$model" --revision "$commit" --local-dir "$aside" || refuse "$again"
fi
rm -rf "$aside/.cache" # the hub's notes for going on
find "$aside" -type d -empty -delete
mv "$aside" "$out"
rmdir "$(dirname "$aside")" 2>/dev/null || true
echo "downloaded $model at $commit: $out"
