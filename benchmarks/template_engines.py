"""Where transformers, llama-cpp-python and llama.cpp's server render published chat templates otherwise, as a table.

    python benchmarks/template_engines.py

Reads the templates where scripts/install_cpp.sh put llama.cpp's sources; prints Markdown. A few seconds.
"""

from collections import Counter
from pathlib import Path

from vicuna.certificate.dialogues import dialogues_for
from vicuna.certificate.engines import ENGINES, EngineComparison, compare_engines
from vicuna.gguf.llama_cpp_source import source_folder

FIXED_DAY = '{%- set date_string = "26 Jul 2024" -%}'  # as `--prompt_type base` writes the day into a template


def published_templates() -> dict[str, str]:
    """Name -> text of the templates that llama.cpp's sources hold, of those that show the day with one day for all."""
    paths: list[Path] = sorted((source_folder() / "models/templates").glob("*.jinja"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    return {name: FIXED_DAY + text if "date_string" in text else text for name, text in texts.items()}


def compare(template: str) -> EngineComparison:
    """A template in all three, with tokens as most have them."""
    return compare_engines(template, "<s>", "</s>", dialogues_for(template))


def main() -> None:
    """Print a row for each template, then how many templates part at each dialogue."""
    found = {name: compare(text) for name, text in published_templates().items()}
    print("| template | verdict | dialogues | refused by transformers | llama-cpp-python | llama.cpp |")
    print("|---|---|---|---|---|---|")
    counted = Counter()
    for name, one in found.items():
        named = []
        for engine in ENGINES[1:]:
            own = [parting.dialogue for parting in one.partings if parting.engine == engine]
            counted.update((engine, dialogue) for dialogue in own)
            named.append("all" if own and len(own) == one.asked - one.refused else ", ".join(own))
        if one.switched:
            named[-1] = f"thinks unless switched off; {named[-1]}".removesuffix("; ")
        print(f"| {name} | {one.verdict} | {one.asked} | {one.refused} | {named[0]} | {named[1]} |")
    print("\n| program | dialogue | templates |\n|---|---|---|")
    for (engine, dialogue), count in counted.most_common():
        print(f"| {engine} | {dialogue} | {count} |")
    total, parted = sum(one.asked - one.refused for one in found.values()), sum(counted.values())
    print(f"\n{len(found)} templates, {total} dialogues, {parted} renderings otherwise.")


if __name__ == "__main__":
    main()
