"""finetune.py with another data file and cache on each process: python tests/train/as_hosts.py FILE0 FILE1 [flags]."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import finetune
from vicuna.errors import run
from vicuna.train.command_line import parse_training

rank = int(os.environ["RANK"])
os.environ["LOCAL_RANK"] = "0"  # the first process of its host
files, argv = sys.argv[1:3], sys.argv[3:]
argv[argv.index("--cache_path") + 1] += str(rank)
argv += ["--data_path", files[rank]]
run(lambda: finetune.main(parse_training("", argv=argv)))
