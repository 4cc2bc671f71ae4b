#!/usr/bin/env bash
# What the tools write, opened in an environment with an older transformers, and by llama.cpp's converter.
#
#   bash benchmarks/opens_elsewhere.sh
#   TRANSFORMERS=4.56.2 LLAMA_CPP=llama.cpp bash benchmarks/opens_elsewhere.sh
#
# Eight architectures with random weights: adapters, merged and whole models, an enlarged, a converted, a quantised and the
# embedded one. About 12 minutes on two cores, and 1.3 GB for the environment, which is left in WORK where that is given.
# LLAMA_CPP is a folder with convert_hf_to_gguf.py; without it that part is left out. Ends with status 1 on a difference.
set -euo pipefail
cd "$(dirname "$0")/.."

TRANSFORMERS=${TRANSFORMERS:-4.57.6}
LLAMA_CPP=${LLAMA_CPP:-}
if [[ -z ${WORK:-} ]]; then
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

if [[ ! -x $WORK/env/bin/python ]]; then
    python -m venv "$WORK/env"
    "$WORK/env/bin/pip" install --quiet "transformers==$TRANSFORMERS" peft==0.17.1 torch==2.13.0 sentencepiece==0.2.3 protobuf==7.36.2
fi
[[ -d $WORK/made ]] || python benchmarks/opens_elsewhere.py --output_path "$WORK/made"
"$WORK/env/bin/python" benchmarks/open_folder.py "$WORK/made"
[[ -n $LLAMA_CPP ]] || exit 0
# Of small vocabularies it knows those of tokenizer.model alone: it tells the others by a hash of real ones.
for name in merged-llama merged-mistral merged-mixtral converted-llama embedded; do
    PYTHONPATH=$LLAMA_CPP/gguf-py python "$LLAMA_CPP/convert_hf_to_gguf.py" "$WORK/made/$name" --outfile "$WORK/$name.gguf" \
        >"$WORK/$name.log" 2>&1 || { tail -3 "$WORK/$name.log"; exit 1; }
    grep -h "rope theta" "$WORK/$name.log" | sed "s/^.*rope/$name: converted, rope/"
done
