"""A prompt type as the Jinja chat_template that other programs read: vLLM, llama.cpp's server, transformers.

Written from the same `vicuna.prompt.templates.Template` as our own prompts, in expressions and tags only, without a
character between them, so that the whitespace settings of the program that renders it change nothing. What it renders
begins with the BOS token: it is to be tokenised without adding another.
"""

import json

from vicuna.prompt.wordings import TEMPLATES, Template

_NOT_ALTERNATING = "the messages must be user, assistant, ..., user, behind at most one of system"


def chat_template(prompt_type: str) -> str:
    """The Jinja text that renders messages as `vicuna.prompt.templates.render` does, behind BOS.

    A dialogue that ends with an answer is rendered with this answer and EOS, the text that is trained. Answers that are
    tokenised apart have other ids there than in training, which hardly any text has. Messages that `render` refuses
    raise the template's own error.
    """
    template = TEMPLATES[prompt_type]
    preamble, opening, closing = _around_the_user(template)
    block = [*_history(template), *_last_user(template)]
    return "".join([
        "{%- set starts = 1 if messages and messages[0]['role'] == 'system' else 0 -%}",
        "{%- set others = messages[starts:] -%}",
        "{%- set asked = others | length - (1 - others | length % 2) -%}",  # messages up to the last question
        *_checks(template),
        "{%- set last = others[asked - 1] -%}",
        "{%- set extra = last['input'] if last['input'] is defined and last['input'] | trim else '' -%}",
        "{{- bos_token -}}",
        preamble,
        opening,
        *block,
        closing,
        _text(template.answer),
        "{%- if others | length > asked -%}",
        "{{- others[asked]['content'] + eos_token -}}",
        "{%- endif -%}",
    ])  # fmt: skip


def _text(text: str) -> str:
    """A constant; nothing for an empty one."""
    return f"{{{{- {json.dumps(text)} -}}}}" if text else ""


def _checks(template: Template) -> list[str]:
    """Refuse what `vicuna.prompt.templates.segments` refuses."""

    def refuse(condition: str, why: str) -> str:
        return f"{{%- if {condition} -%}}{{{{- raise_exception({json.dumps(why)}) -}}}}{{%- endif -%}}"

    checks = [refuse("not others", _NOT_ALTERNATING)]
    if not template.takes_system:
        checks.append(refuse("starts", "this model was trained without system messages"))
    if not template.turn:
        checks.append(refuse("asked > 1", "this model was trained on single texts: no earlier turns"))
    alternates = "message['role'] != ('assistant' if loop.index0 % 2 else 'user')"
    return [*checks, "{%- for message in others -%}", refuse(alternates, _NOT_ALTERNATING), "{%- endfor -%}"]


def _around_the_user(template: Template) -> tuple[str, str, str]:
    """What comes before everything; what opens and what closes the part that a question stands in."""
    preamble = _text(template.system)
    if template.takes_system:
        preamble = (
            "{%- if starts and messages[0]['content'] | trim -%}{{- messages[0]['content'] | trim + \"\\n\\n\" -}}"
            f"{{%- else -%}}{preamble}{{%- endif -%}}"
        )
    if not template.user:
        return preamble, "", ""
    opening, closing = map(_text, template.user.split("{content}"))
    if template.turn_only or not template.user_with_input:
        return preamble, opening, closing
    # The second field of a record, which only a single question without turns shows as a field.
    if template.system_with_input:
        with_input = _text(template.system_with_input)
        preamble = f"{{%- if extra and asked == 1 -%}}{with_input}{{%- else -%}}{preamble}{{%- endif -%}}"
    before, rest = template.user_with_input.split("{content}")
    between, after = rest.split("{input}")
    with_input = f"{_text(between)}{{{{- extra -}}}}{_text(after)}"
    closing = f"{{%- if extra and asked == 1 -%}}{with_input}{{%- else -%}}{closing}{{%- endif -%}}"
    return preamble, _text(before), closing


def _history(template: Template) -> list[str]:
    """The earlier turns, each behind the other."""
    if not template.turn:
        return []
    before, rest = template.turn.split("{content}")
    between, after = rest.split("{answer}")
    end = "{{- eos_token -}}" if template.eos_after_turns else ""
    return [
        "{%- for message in others[:asked - 1] -%}",
        "{%- if loop.index0 % 2 -%}",
        f"{{{{- message['content'] | trim -}}}}{_text(after)}{end}{_text(template.turn_end)}",
        "{%- else -%}",
        f"{_text(before)}{{{{- message['content'] | trim -}}}}{_text(between)}",
        "{%- endif -%}",
        "{%- endfor -%}",
    ]


def _last_user(template: Template) -> list[str]:
    """The last question, in the form it has behind turns or alone."""

    def stripped(form: str) -> str:
        before, after = form.split("{content}")
        content = "(last['content'] + ('\\n' + extra if extra else '')) | trim"
        return f"{_text(before)}{{{{- {content} -}}}}{_text(after)}"

    alone = template.turn_only if template.user else template.turn_last
    parts = stripped(alone) if alone else "{{- last['content'] -}}"
    if not template.turn or alone == template.turn_last:
        return [parts]
    return ["{%- if asked > 1 -%}", stripped(template.turn_last), "{%- else -%}", parts, "{%- endif -%}"]
