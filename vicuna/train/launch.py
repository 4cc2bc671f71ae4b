"""torchrun, with its failures told in a line: python -m vicuna.train.launch --nproc_per_node=2 finetune.py [flags]

What went wrong is said by the process it went wrong in, with its rank; torchrun's own report of it is a traceback.
This program takes torchrun's flags, lets the process speak, and ends with its exit status.
"""

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> int:
    """Run the program on every process; its exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, which it otherwise warns of
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    args = parse_args(None)
    # What is ignored stays so (nohup): torchrun would put a handler of its own there.
    names = [name for name in args.signals_to_handle.split(",") if not _ignored(name.strip())]
    args.signals_to_handle = ",".join(names)
    try:
        run(args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could not say so itself
            print(f"rank {rank} was killed by signal {-failure.exitcode}, and the run ends", file=sys.stderr)
            return 128 - failure.exitcode
        return failure.exitcode
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


def _ignored(name: str) -> bool:
    number = getattr(signal, name, None)
    return number is not None and signal.getsignal(number) is signal.SIG_IGN


if __name__ == "__main__":
    sys.exit(main())
