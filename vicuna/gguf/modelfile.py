"""A prompt type as an Ollama Modelfile, which stands beside a GGUF and names it."""

from dataclasses import replace
from pathlib import Path

from vicuna.gguf_file.reader import MAX_CONTEXT
from vicuna.prompt.wordings import TEMPLATES, Template

MODELFILE = "Modelfile"
_LIMITS = """\
# Written by tools/export_gguf.py: ollama create NAME -f THIS_FILE
# What Ollama does otherwise than this toolkit: it tokenises the prompt itself, so that <s>, </s> and <unk> typed by a
# user become control tokens; it keeps blanks at the ends of messages; and it trims a long history in its own way."""
# The preset "balanced"; a penalty looks at the whole context, as everywhere in this toolkit.
_PARAMETERS = {
    **{"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0, "repeat_penalty": 1.1, "repeat_last_n": -1},
}


def modelfile(gguf: str, prompt_type: str, context: int, suppressed: list[int], adapter: bool = False) -> str:
    """The text of a Modelfile.

    Args:
        gguf: name of the GGUF file beside it.
        prompt_type: what it was trained with, "" if unknown.
        suppressed: ids that are never generated, which Ollama has no setting for.
        adapter: the GGUF is an adapter, and its base is to be named.
    """
    lines = [_LIMITS]
    if prompt_type and TEMPLATES[prompt_type].eos_after_turns:
        lines.append("# And behind each </s> of an earlier turn it puts a space, which training did not.")
    if prompt_type and TEMPLATES[prompt_type].answer_apart:
        lines.append("# And it shows the space that answers begin with, which is their tokens' and no part of them.")
    if suppressed:
        lines.append(f"# Nor does it know suppressed tokens; here those are the ids {', '.join(map(str, suppressed))}.")
    if adapter:
        lines += ["# The GGUF of the base it was trained on:", "FROM ./base.gguf", f"ADAPTER ./{gguf}"]
    else:
        lines.append(f"FROM ./{gguf}")
    if prompt_type:
        template = TEMPLATES[prompt_type]
        lines.append(f'TEMPLATE """{go_template(template)}"""')
        lines += [f'PARAMETER stop "{stop}"' for stop in stop_strings(template)]
    lines.append(f"PARAMETER num_ctx {min(context, MAX_CONTEXT)}")
    lines += [f"PARAMETER {name} {value}" for name, value in _PARAMETERS.items()]
    return "\n".join(lines) + "\n"


def modelfile_path(gguf: Path) -> Path:
    """Where the Modelfile of a GGUF goes: `Modelfile` beside it, or `x.Modelfile` where another file has that name."""
    file = gguf.parent / MODELFILE
    if file.is_file() and f"./{gguf.name}\n" not in file.read_text(encoding="utf-8", errors="replace"):
        return gguf.with_suffix(f".{MODELFILE}")
    return file


def go_template(template: Template) -> str:
    """The prompt as Ollama's template language has it.

    Whole conversations where the last question looks like the earlier ones; where it does not, as in `instruct`, the
    last question alone.
    """
    if template.turn_last == "{content}" and template.turn_end.endswith(template.user.split("{content}")[0]):
        form = template.user + template.answer
        end = template.turn_end.removesuffix(template.user.split("{content}")[0])
        template = replace(template, turn_last=form, turn_end=end, user="", answer="")
    if template.user or not template.turn:
        asked = (template.user or "{content}").replace("{content}", template.turn_only or "{content}")
        asked = asked.replace("{content}", "{{ .Prompt }}")
        return f"{template.system}{asked}{template.answer}{{{{ .Response }}}}"
    question = template.turn_last.replace("{content}", "{{ .Content }}")
    answer = "{{ .Content }}" + ("</s>" if template.eos_after_turns else "") + template.turn_end
    return (
        f"{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ else }}}}{template.system}{{{{ end }}}}"
        '{{ range .Messages }}{{ if eq .Role "user" }}'
        f"{question}"
        '{{ else if eq .Role "assistant" }}'
        f"{answer}"
        "{{ end }}{{ end }}"
    )


def stop_strings(template: Template) -> list[str]:
    """What begins the next turn, were the model not to end its answer."""
    words = ["</s>"]
    if template.turn:
        words += filter(None, [template.turn.split("{content}")[0]])
    if template.user.startswith("###"):
        words.append(template.user.split("\n")[0])
    return words
