"""Runs of finetune.py that the tests share: short, in float32, without dropout."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = ["--log_steps", 1, "--lora_dropout", 0, "--bits", 32, "--learning_rate", 1e-2, "--warmup_steps", 2]
TWO_EPOCHS = ["--total_batch", 11, "--micro_batch", 2, "--num_epoch", 2, "--test_size", 5, "--eval_steps", 3]


def losses(folder: Path, key: str = "loss") -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry[key] for entry in history if key in entry]


def train(program, base: Path, data: Path, output: Path, *more: object, processes: int = 1, warm: bool = True) -> Path:
    """Run finetune.py to its end; its output folder.

    Args:
        warm: many processes are forked, too; False shows as well that no thread outlives their interpreters.
    """
    launcher = [
        "-m",
        "vicuna.train.launch",
        "--standalone",
        f"--nproc_per_node={processes}",
        "tests/train/threads_left.py",
    ]
    launcher = launcher if processes > 1 else []
    argv = ["--model_path", base, "--data_path", data, "--output_path", output, *STEPS, *more]
    done = program(*launcher, "finetune.py", *argv, warm=warm or processes == 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "threads left" not in done.stderr
    return output
