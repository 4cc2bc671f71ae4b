"""The command line of a training program: its flags, or those of the run that it goes on with."""

from typing import Any

from vicuna.args import parse
from vicuna.data.flags import DataFlags
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags, TrainFlags

GROUPS = (ModelFlags, DataFlags, LoraFlags, RunFlags)


def parse_training(description: str, argv: list[str] | None = None, **defaults: Any) -> TrainFlags:
    """The flags as they are given; with --as_before the others are those of the run that is resumed.

    Args:
        defaults: of the program, where they are not the groups' own.

    Raises:
        UserError: what is to be resumed is not there, or torn.
    """
    flags = TrainFlags(*parse(description, *GROUPS, argv=argv, **defaults))
    if not flags.run.as_before:
        return flags
    from vicuna.train.resume import flags_as_before

    return TrainFlags(*parse(description, *GROUPS, argv=argv, **defaults | flags_as_before(flags.run)))
