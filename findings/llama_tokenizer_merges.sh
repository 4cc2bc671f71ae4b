#!/usr/bin/env bash
# transformers 5.23.0 opens a SentencePiece model with its merges in the order of the pieces' ids, not of their scores.
#
# SentencePiece merges the pair whose piece has the highest score. LlamaTokenizer.from_pretrained makes a tokenizer.json of
# tokenizer.model whose merges are ranked by the id of what they make. The two agree as long as scores fall with the
# ids, as they do in a trained model, and part where pieces were put behind others with higher scores, as in merged
# vocabularies. Nothing is said of it. A tokenizer.json with its merges sorted by score agrees in both cases.
#
# Seen with transformers 5.23.0, tokenizers 0.23.3, sentencepiece 0.2.3, Python 3.11, on 300 lines:
#   scores fall with the ids     LlamaTokenizer differs on 0 lines, merges by score on 0
#   the same pieces, moved       LlamaTokenizer differs on 300 lines, merges by score on 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2 numpy==2.4.6
cat >"$work/try.py" <<'PYTHON'
import io
import sys
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers
from transformers import LlamaTokenizer

WORDS = ["river", "stone", "garden", "window", "letter", "morning", "forest", "silver", "market", "bridge", "winter"]
LINES = [" ".join(WORDS[(n * k + k * k) % len(WORDS)] for k in range(1, 8)) for n in range(300)]


def trained():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, model_type="bpe", vocab_size=350, byte_fallback=True, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )
    return sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())


def by_score(proto):
    normal = {piece.piece for piece in proto.pieces if piece.type == piece.NORMAL}
    ranked = sorted((piece for piece in proto.pieces if piece.type == piece.NORMAL), key=lambda piece: -piece.score)
    merges = [
        (one.piece[:i], one.piece[i:])
        for one in ranked
        for i in range(1, len(one.piece))
        if one.piece[:i] in normal and one.piece[i:] in normal
    ]
    tokenizer = Tokenizer(models.BPE({one.piece: i for i, one in enumerate(proto.pieces)}, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def differing(proto, folder):
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    theirs, scored = LlamaTokenizer.from_pretrained(folder), by_score(proto)
    return (
        sum(theirs(line, add_special_tokens=False)["input_ids"] != own.encode(line) for line in LINES),
        sum(scored.encode(line, add_special_tokens=False).ids != own.encode(line) for line in LINES),
    )


straight = trained()
moved = type(straight)()
moved.CopyFrom(straight)
normal = [piece for piece in straight.pieces if piece.type == piece.NORMAL]
first = len(straight.pieces) - len(normal)
for place, piece in enumerate(reversed(normal), first):
    moved.pieces[place].CopyFrom(piece)
results = [differing(proto, Path(sys.argv[1]) / name) for name, proto in (("straight", straight), ("moved", moved))]
for name, (theirs, scored) in zip(("scores fall with the ids", "the same pieces, moved"), results):
    print(f"{name:<28} LlamaTokenizer differs on {theirs} lines, merges by score on {scored}")
sys.exit(0 if results[0] == (0, 0) and results[1][0] > 0 and results[1][1] == 0 else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" "$work"
