"""Evaluate models side by side, each kind of evaluation by a word of its own.

    python tools/evaluate.py KIND [flags]
    python tools/evaluate.py KIND --help

Every kind but verdict writes results.json, results.md and rows.jsonl, a line for each thing that is done, to
--output_path. The same command goes on where it stopped. docs/en/tools.md and docs/en/evaluate.md say what each kind
measures.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from vicuna import log
from vicuna.args import parse
from vicuna.data.flags import ReadFlags
from vicuna.errors import run
from vicuna.evaluation.flags import AnswersFlags, DecodingTableFlags, LossFlags, ModelsFlags, OutputFlags
from vicuna.evaluation.score_flags import ForgettingFlags, GenerationFlags, IdentityFlags, JudgeFlags, VerdictFlags
from vicuna.exams.flags import ChoiceFlags


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation.

    Attributes:
        summary: what it does, in a line.
        groups: dataclasses with its flags.
        runs: module:function, called with an instance of each of `groups`; None or the exit status.
        more: examples and remarks for --help.
    """

    summary: str
    groups: tuple[type, ...]
    runs: str
    more: str = ""


KINDS = {
    "answers": Kind(
        "questions answered by each model under each of the settings, side by side",
        (ModelsFlags, ReadFlags, AnswersFlags, DecodingTableFlags, OutputFlags),
        "vicuna.evaluation.answers:evaluate_answers",
        "    python tools/evaluate.py answers --data_path sample/questions/zh.jsonl --model_path base --lora_path - "
        "lora-Vicuna --output_path answers\n"
        "    python tools/evaluate.py answers --data_path my.jsonl --lora_path 'lora-Vicuna/checkpoint-*' "
        "--repetition_penalty 1.0 1.3 2.0 --output_path answers\n\n"
        "A model may also be an address of OpenAI's form with the model's name behind a #: http://127.0.0.1:7860/v1#name",
    ),
    "choice": Kind(
        "multiple choice of C-Eval, CMMLU or AGIEval, by the likelihood of the options",
        (ModelsFlags, ChoiceFlags, OutputFlags),
        "vicuna.exams.choice:evaluate_choice",
        "    python tools/evaluate.py choice --data_path cmmlu --num_fewshot 5 --model_path base --lora_path - "
        "lora-Vicuna --output_path cmmlu-5",
    ),
    "loss": Kind(
        "answer loss and perplexity on held-out records, by category",
        (ModelsFlags, ReadFlags, LossFlags, OutputFlags),
        "vicuna.evaluation.held_out_loss:evaluate_loss",
        "    python tools/evaluate.py loss --data_path held_out.jsonl --model_path base --lora_path - lora-Vicuna "
        "--output_path loss",
    ),
    "generation": Kind(
        "answers held against references: BLEU, chrF, ROUGE, exact match",
        (GenerationFlags, OutputFlags),
        "vicuna.evaluation.generation:evaluate_generation",
        "    python generate.py --data_path held_out.jsonl --output_path answers.jsonl\n"
        "    python tools/evaluate.py generation --answers answers.jsonl --output_path scores",
    ),
    "judge": Kind(
        "which of two models answers better, by another model's word, asked in both orders",
        (JudgeFlags, OutputFlags),
        "vicuna.evaluation.pairwise_judge:judge_answers",
        "    OPENAI_API_KEY=… python tools/evaluate.py judge --answers before.jsonl after.jsonl "
        "--base_url https://api.example.com/v1 --model NAME --output_path judged",
    ),
    "identity": Kind(
        "who are you, asked in twelve ways: how often the right name is said, and another's",
        (ModelsFlags, IdentityFlags, OutputFlags),
        "vicuna.evaluation.identity:evaluate_identity",
        "    python tools/evaluate.py identity --model_path base --lora_path - lora-Vicuna "
        "--fill name=小羊驼 author=春水团队 --output_path identity",
    ),
    "forgetting": Kind(
        "what an adapter has gained in its domain and lost elsewhere, at several shares of it",
        (ModelsFlags, ForgettingFlags, OutputFlags),
        "vicuna.evaluation.forgetting:trace_forgetting",
        "    python tools/evaluate.py forgetting --model_path base --lora_path lora-Vicuna --domain medical.jsonl "
        "--general general.jsonl --most_loss 0.05 --output_path forgetting",
    ),
    "verdict": Kind(
        "better than before or not, from two results on the same questions",
        (VerdictFlags,),
        "vicuna.evaluation.verdict:give_verdict",
        "    python tools/evaluate.py verdict --before loss_before --after loss_after\n\n"
        "Exit status 0: better; 1: worse; 3: can not be told; 2: can not be compared.",
    ),
}


def main(argv: list[str]) -> None:
    """Run a kind, or say which there are."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nkinds:")
        print("\n".join(f"  {name:<12}{kind.summary}" for name, kind in KINDS.items()))
        sys.exit(0 if argv else 2)
    name, *rest = argv
    if name not in KINDS:
        print(f"evaluate.py: error: {name!r} is no kind of evaluation; expected one of {', '.join(KINDS)}, then its "
              "flags.", file=sys.stderr)  # fmt: skip
        sys.exit(2)
    kind = KINDS[name]
    description = f"{kind.summary[0].upper()}{kind.summary[1:]}.\n\n{kind.more}"
    flags = parse(description, *kind.groups, argv=rest, program=f"evaluate.py {name}")
    log.set_up()
    module, _, function = kind.runs.partition(":")
    # Before torch is imported, so that a path that is mistyped is told at once.
    from vicuna.evaluation.first_look import look_at_models, look_at_outputs, look_at_texts
    from vicuna.exams.layouts import check_folder

    for one in flags:
        if isinstance(one, ModelsFlags):
            look_at_models(one)
        elif isinstance(one, ReadFlags):
            look_at_texts(one.data_path, "--data_path")
        elif isinstance(one, ChoiceFlags):
            check_folder(Path(one.data_path).expanduser())
        elif isinstance(one, OutputFlags):
            look_at_outputs([("--output_path", Path(one.output_path))])
    # Imported here so that --help and a mistyped flag answer at once.
    sys.exit(getattr(importlib.import_module(module), function)(*flags))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
