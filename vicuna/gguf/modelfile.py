"""A GGUF model for Ollama: a Modelfile, which stands beside the file and names it."""

from collections.abc import Sequence
from pathlib import Path

from vicuna.gguf_file.reader import MAX_CONTEXT
from vicuna.prompt.wordings import TEMPLATES, Template

MODELFILE = "Modelfile"
_LIMITS = """\
# Written by tools/export_gguf.py: ollama create NAME -f THIS_FILE
# Ollama fills in the chat template that the GGUF holds, since June 2026; an older one does not read it: update it.
# What Ollama does otherwise than this toolkit: it tokenises the prompt itself, so that names of control tokens typed by
# a user become these tokens; it keeps blanks at the ends of messages; and it trims a long history in its own way."""
# The preset "balanced"; a penalty looks at the whole context, as everywhere in this toolkit.
_PARAMETERS = {
    **{"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0, "repeat_penalty": 1.1, "repeat_last_n": -1},
}


def modelfile(gguf: str, prompt_type: str, context: int, suppressed: Sequence[int], ends: Sequence[str] = ()) -> str:
    """The text of a Modelfile. It has no TEMPLATE, which would take the place of the GGUF's own.

    Args:
        gguf: name of the GGUF file beside it.
        prompt_type: what it was trained with, "" if unknown.
        suppressed: ids that are never generated, which Ollama has no setting for.
        ends: texts of ids that end an answer, and that llama.cpp does not know as such.
    """
    lines, template = [_LIMITS], TEMPLATES.get(prompt_type)
    if template and template.eos_after_turns:
        lines.append("# And behind each </s> of an earlier turn it puts a space, which training did not.")
    if template and template.answer_apart:
        lines.append("# And it shows the space that answers begin with, which is their tokens' and no part of them.")
    if suppressed:
        lines.append(f"# Nor does it know suppressed tokens; here those are the ids {', '.join(map(str, suppressed))}.")
    lines.append(f"FROM ./{gguf}")
    stops = [*(stop_strings(template) if template else ()), *ends]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines.append(f"PARAMETER num_ctx {min(context, MAX_CONTEXT)}")
    lines += [f"PARAMETER {name} {value}" for name, value in _PARAMETERS.items()]
    return "\n".join(lines) + "\n"


def adapter_command(base: str, adapter: str) -> str:
    """How llama.cpp's server is started on a base with an adapter, which Ollama takes no longer (since 0.34.1)."""
    return f"llama-server --model {base} --lora {adapter}"


def modelfile_path(gguf: Path) -> Path:
    """Where the Modelfile of a GGUF goes: `Modelfile` beside it, or `x.Modelfile` where another file has that name."""
    file = gguf.parent / MODELFILE
    if file.is_file() and f"./{gguf.name}\n" not in file.read_text(encoding="utf-8", errors="replace"):
        return gguf.with_suffix(f".{MODELFILE}")
    return file


def stop_strings(template: Template) -> list[str]:
    """What begins the next turn, were the model not to end its answer."""
    words = ["</s>"]
    if template.turn:
        words += filter(None, [template.turn.split("{content}")[0]])
    if template.user.startswith("###"):
        words.append(template.user.split("\n")[0])
    return words
