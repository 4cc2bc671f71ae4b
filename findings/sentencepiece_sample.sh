#!/usr/bin/env bash
# sentencepiece 0.2.3 trains another model in every process once it draws a sample, whatever seed is set.
#
# With input_sentence_size the trainer draws some of the lines. set_random_generator_seed is there to fix what is drawn at
# random, and it does so for sampled encoding; the trainer's own generator does not look at it. The same lines, options
# and number of threads give the same bytes in every process as long as no sample is drawn.
#
# Seen with sentencepiece 0.2.3, Python 3.11, three processes each with the seed 7:
#   whole text     1 different model
#   sampled text   3 different models
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet sentencepiece==0.2.3
cat >"$work/try.py" <<'PYTHON'
import hashlib
import io
import sys

import sentencepiece

sentencepiece.set_random_generator_seed(7)
WORDS = ["river", "stone", "garden", "window", "letter", "morning", "forest", "silver", "market", "bridge", "winter"]
LINES = [" ".join(WORDS[(n * k + k * k) % len(WORDS)] + str(n % (7 + k)) for k in range(1, 6)) for n in range(5000)]
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(LINES), model_writer=model, model_type="bpe", vocab_size=120, num_threads=1, minloglevel=2,
    input_sentence_size=int(sys.argv[1]), shuffle_input_sentence=True,
)
print(hashlib.sha256(model.getvalue()).hexdigest())
PYTHON
count() {
    for _ in 1 2 3; do "$work/env/bin/python" "$work/try.py" "$1"; done | sort -u | wc -l
}
whole=$(count 0)
sampled=$(count 300)
echo "whole text     $whole different model"
echo "sampled text   $sampled different models"
[ "$whole" = 1 ] && [ "$sampled" -gt 1 ]
