"""Every program with its flags, as the dataclasses that it parses."""

import ast
import importlib.util
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from vicuna.answer import flags as answer
from vicuna.conversion.flags import ConvertFlags
from vicuna.data.flags import DataFlags
from vicuna.model.flags import LoraFlags, ModelFlags
from vicuna.train.flags import RunFlags
from vicuna.vocabulary.flags import TextFlags

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str, *names: str) -> Any:
    """A tool's module, or what it calls something, such as the dataclass of its flags."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, *names) if names else module


EVALUATIONS = tool("evaluate").KINDS
PROGRAMS = (
    *("finetune.py", "generate.py", "chat.py"),
    *("tools/check_data.py", "tools/compare_answers.py", "tools/convert_data.py", "tools/convert_llama.py"),
    *("tools/crawl_prompt.py", "tools/eval_ppl.py", "tools/expand_vocabulary.py", "tools/export_gguf.py"),
    *("tools/make_tiny_llama.py", "tools/merge_lora.py", "tools/merge_tokenizers.py", "tools/publish_adapter.py"),
    *("tools/quant_generate.py", "tools/quant_llama.py", "tools/train_tokenizer.py"),
    *("tools/verify_export.py", "tools/verify_sha256.py"),
    *(f"tools/evaluate.py {kind}" for kind in EVALUATIONS),
)


def program_fields(name: str) -> list[Field]:
    of_kinds = {f"tools/evaluate.py {kind}": one.groups for kind, one in EVALUATIONS.items()}
    groups = (
        of_kinds.get(name)
        or {
            "finetune.py": (ModelFlags, DataFlags, LoraFlags, RunFlags),
            "generate.py": (ModelFlags, answer.AskFlags, answer.PredictFlags, answer.ServeFlags, answer.DecodingFlags),
            "chat.py": (ModelFlags, answer.ChatFlags, answer.ServeFlags, answer.DecodingFlags),
            "tools/check_data.py": (tool("check_data", "CheckFlags"), DataFlags),
            "tools/compare_answers.py": (ModelFlags, tool("compare_answers", "CompareFlags")),
            "tools/convert_data.py": (ConvertFlags,),
            "tools/convert_llama.py": (tool("convert_llama", "ConvertFlags"),),
            "tools/crawl_prompt.py": (tool("crawl_prompt", "CrawlFlags"),),
            "tools/eval_ppl.py": (tool("eval_ppl", "PplFlags"),),
            "tools/expand_vocabulary.py": (tool("expand_vocabulary", "ExpandFlags"),),
            "tools/export_gguf.py": (tool("export_gguf", "ExportFlags"),),
            "tools/make_tiny_llama.py": (tool("make_tiny_llama", "MakeFlags"),),
            "tools/merge_lora.py": (tool("merge_lora", "MergeFlags"),),
            "tools/merge_tokenizers.py": (tool("merge_tokenizers", "MergeFlags"), TextFlags),
            "tools/publish_adapter.py": (tool("publish_adapter", "PublishFlags"),),
            "tools/train_tokenizer.py": (tool("train_tokenizer", "TrainFlags"), TextFlags),
            "tools/verify_sha256.py": (tool("verify_sha256", "VerifyFlags"),),
            "tools/quant_generate.py": (tool("quant_generate", "QuantGenerateFlags"),),
            "tools/quant_llama.py": (tool("quant_llama", "QuantiseFlags"),),
            "tools/verify_export.py": (tool("verify_export", "CertificateFlags"),),
        }[name]
    )
    return [one for group in groups for one in fields(group)]


def own_defaults(name: str) -> dict[str, str]:
    """The defaults that a program puts in the place of its groups' own."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / name.split()[0]).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    parsing = next(call for call in calls if isinstance(call.func, ast.Name) and call.func.id.startswith("parse"))
    return {word.arg: word.value.value for word in parsing.keywords if isinstance(word.value, ast.Constant)}
