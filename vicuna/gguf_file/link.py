"""The link that leads from a folder which stands for a GGUF file to the file: see `vicuna.gguf_file.folder`."""

from pathlib import Path

# Its name in such a folder.
LINK = "weights.of.gguf"


def stands_for(folder: Path) -> Path | None:
    """The GGUF file that a folder stands for; None for any other folder."""
    link = folder / LINK
    return link.resolve() if link.is_symlink() else None
