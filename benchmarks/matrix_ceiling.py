"""What matrix products alone reach on this machine, and how many operations a run of ours takes for a token."""

import json
import time
from pathlib import Path


def ceilings(threads: int) -> dict[str, float]:
    """Operations per second of matrix products alone, at the shapes of the base's layers."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        tokens, weight = torch.randn(1024, 512).to(dtype), torch.randn(1408, 512).to(dtype)
        best = 0.0
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(10):
                torch.nn.functional.linear(tokens, weight)
            best = max(best, 10 * 2 * 1024 * 512 * 1408 / (time.perf_counter() - start))
        found[name] = best
    return found


def executed(output: Path) -> float:
    """Operations of ours for a real token of a run: of the tokens computed, and of the head where it is computed. The
    last block has less to do for tokens that predict nothing."""
    from vicuna.train.last_block import FEW

    known = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    plan, token = known["plan"], known["exact"]["operations"]["token"]
    computed = plan["sharing"]["computed"] / plan["sharing"]["tokens"]
    predicting = plan["tokens_supervised"] / plan["tokens_train"]
    config = json.loads((Path(known["flags"]["model_path"]) / "config.json").read_text(encoding="utf-8"))
    hidden = config["hidden_size"]
    left_out = token / config["num_hidden_layers"] - 4 * 2 * hidden * hidden  # keys and values are computed
    silent = computed - predicting if predicting < FEW * computed else 0
    return computed * token - silent * left_out + predicting * 4 * hidden * config["vocab_size"]
