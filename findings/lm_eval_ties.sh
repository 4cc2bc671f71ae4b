#!/usr/bin/env bash
# A model to which all options are the same scores the share of the letter A, not that of a guess.
#
# lm-eval 0.4.13 takes the first of the likeliest options. A base whose tokenizer has no pieces for A to D reads each of
# them as the same unknown token, so their log-likelihoods are equal to the bit, and A is its answer everywhere: where
# the right answers are A more or less often than one time in four, its score is off by as much. Nothing is said of it.
#
# Seen with lm_eval 0.4.13, datasets 5.2.0, Python 3.11:
#   right answers: A A A B, all options alike: accuracy 0.75, of a guess 0.25
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet lm_eval==0.4.13 datasets==5.2.0
cat >"$work/try.py" <<'PYTHON'
import sys

from datasets import Dataset
from lm_eval import evaluator
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask

RIGHT = "AAAB"


class Unknown(TemplateLM):
    """Every character is the same token, of which nothing is known."""

    eot_token_id = 0

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return [0] * len(string)

    def _loglikelihood_tokens(self, requests, **kwargs):
        return [(-7.0 * len(option), False) for _, _, option in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


rows = {"test": Dataset.from_list([{"question": f"{n}?", "answer": one} for n, one in enumerate(RIGHT)])}
task = ConfigurableTask(
    config={
        "task": "letters",
        "custom_dataset": lambda **kwargs: rows,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nA. …\nB. …\nC. …\nD. …\nAnswer:",
        "doc_to_choice": list("ABCD"),
        "doc_to_target": "{{'ABCD'.index(answer)}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
)
found = evaluator.evaluate(Unknown(), {"letters": task}, bootstrap_iters=0)["results"]["letters"]["acc,none"]
print(f"right answers: {' '.join(RIGHT)}, all options alike: accuracy {found}, of a guess 0.25")
sys.exit(0 if found == 0.75 else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" 2>/dev/null
