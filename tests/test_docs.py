"""The documents against each other and against the code: languages, links, paths, flags, messages."""

import ast
import re
import subprocess
import tomllib
from dataclasses import MISSING, Field
from itertools import groupby
from pathlib import Path

import pytest

from finetune_chat import DEFAULTS
from tests.program_flags import PROGRAMS, own_defaults, program_fields
from vicuna.sentences import SENTENCES

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [
    ("README.md", "docs/zh/README.md"),
    *((f"docs/en/{page.name}", f"docs/zh/{page.name}") for page in sorted((ROOT / "docs/en").glob("*.md"))),
]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("config-sample/*.md"),
        *ROOT.glob("sample/**/*.md"),
    ]
)
README_LINES, TREE_LINES, PICTURE_BYTES = 160, 25, 250_000
ARCHITECTURE = ("docs/en/architecture.md", "docs/zh/architecture.md")
TREE = 3  # which section of the README
CHANGES, FLOWS, PACKAGES, PROGRAMS_AND_SCRIPTS = range(4)  # the sections of architecture.md, in every language
# A dotted name, `vicuna.data.records.hold_out`; chat.py is a file.
DOTTED = r"(?<![\w./-])((?:vicuna|tools|benchmarks|finetune|generate|chat)(?:\.(?!(?:py|sh|md)\b)\w+)+)"


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(marks), name) for marks, name in re.findall(r"^(#+) (.+)$", prose(text), re.MULTILINE)]


def default_text(one: Field, own: dict[str, str]) -> str:
    """A flag's default as the table shows it; – where there is none."""
    value = one.default_factory() if one.default is MISSING else one.default
    value = own.get(one.name, value)
    if value in (None, "", []):
        return "–"
    return f"`{' '.join(map(str, value)) if isinstance(value, list) else value}`"


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what lies under it."""
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


def table(section: str) -> list[tuple[str, str]]:
    """(first cell, second cell) of every row of a table of two columns, but for its head."""
    return re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)[1:]


def layers() -> list[str]:
    """Packages and modules of vicuna/, each importing only from those before it, as import-linter is told."""
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    return next(contract["layers"] for contract in contracts if contract["type"] == "layers")[::-1]


def not_there(name: str) -> str:
    """What of a dotted name is not there; "" where all of it is."""
    parts = name.split(".")
    if (ROOT / Path(*parts)).is_dir():
        return ""
    depth = next((n for n in range(len(parts), 0, -1) if (ROOT / Path(*parts[:n])).with_suffix(".py").is_file()), 0)
    file = f"{'/'.join(parts[:depth])}.py"
    body = ast.parse(read(file)).body if depth else []
    for part in parts[depth:]:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        if found is None:
            return f"{name}: {file} has no {part}" if depth else f"{name}: there is no such module"
        body = found.body
    return ""


def assert_same(named: list[str], here: list[str]) -> None:
    """Fail with the paths that a page leaves out, and those that it names in vain."""
    assert sorted(named) == sorted(here), f"left out: {set(here) - set(named)}; not there: {set(named) - set(here)}"


def flag_rows(section: str) -> list[tuple[str, str]]:
    """(flag, default) of every row of a table of flags."""
    return re.findall(r"^\| `--(\w+)` \| (.+?) \|", section, re.MULTILINE)


def messages() -> list[str]:
    """Every text in the programs' source; a value in it is written …"""
    found = [re.sub(r"\{\w.*?\}", "…", english) for english, _ in SENTENCES.values()]
    for file in [*ROOT.glob("*.py"), *ROOT.glob("vicuna/**/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def program_paths(text: str) -> list[str]:
    """Paths of this repository's files in code blocks and in backticks."""
    code = "\n".join([*code_blocks(text), *re.findall(r"`([^`\n]+)`", prose(text))])
    path = r"(?:scripts|tools|vicuna|tests)/[\w./-]*\w|\w+\.(?:py|sh)"
    return re.findall(rf"(?<![\w./-])(?:{path})(?![\w/])", code)


def test_english_and_chinese_have_the_same_pages():
    english = {page.name for page in (ROOT / "docs/en").glob("*.md")}
    chinese = {page.name for page in (ROOT / "docs/zh").glob("*.md")} - {"README.md"}
    assert len(english) >= 7
    assert english == chinese


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: Path(pair[0]).stem)
def test_both_languages_have_the_same_heading_levels(pair):
    english, chinese = (headings(read(page)) for page in pair)
    assert english
    assert [level for level, _ in english] == [level for level, _ in chinese]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: Path(pair[0]).stem)
def test_both_languages_have_identical_code_blocks(pair):
    english, chinese = (code_blocks(read(page)) for page in pair)
    assert english
    assert english == chinese


@pytest.mark.parametrize("page", [page for pair in PAIRS[1:] for page in pair])
def test_a_page_begins_with_a_sentence_and_the_three_lines_that_do_the_job(page):
    begun = re.match(r"# .+\n\n((?:.+\n)+)\n```bash\n((?:.+\n)+?)```\n", read(page))
    assert begun, "below the title: a paragraph that says what the lines do, and a block of bash"
    assert len(begun[2].splitlines()) <= 3
    assert len(begun[1].splitlines()) <= 4
    assert not begun[1].startswith(("#", "|", "-"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(read(page)))
    relative = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_script_that_a_page_names_exists(page):
    missing = [path for path in program_paths(read(page)) if not (ROOT / path.rstrip("/")).exists()]
    assert missing == []


def test_the_readmes_tree_names_every_program_folder_and_package():
    tree = code_blocks(list(sections(read("README.md")).values())[TREE])[0].strip("`\n").removeprefix("text\n")
    named = re.findall(r"[\w/-]+\.py|[\w/-]+/(?=\s)", tree)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which folders are the repository's")
    folders = {path.split("/")[0] + "/" for path in listed.stdout.split("\n") if "/" in path} - {".ci/"}
    rooms = [f"vicuna/{one}/" if (ROOT / "vicuna" / one).is_dir() else f"vicuna/{one}.py" for one in layers()]

    assert len(tree.splitlines()) <= TREE_LINES
    assert {*folders, *(file.name for file in ROOT.glob("*.py"))} - set(named) == set()
    assert [name for name in named if name.count("/") > name.endswith("/")] == rooms
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_links_the_other_language_first():
    lines = read("README.md").splitlines()
    assert len(lines) <= README_LINES
    assert "(docs/zh/README.md)" in next(line for line in lines[1:] if line)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_picture_is_shown_in_the_readme_or_on_the_page_on_the_chat_and_they_are_small(language):
    pictures = sorted((ROOT / "docs/pictures").iterdir())
    pages = [PAIRS[0][language == "zh"], f"docs/{language}/chat.md"]
    shown = [(ROOT / page).parent / path for page in pages for path in re.findall(r"!\[.+?\]\((.+?)\)", read(page))]
    assert len(pictures) >= 2
    assert sorted(path.resolve() for path in shown) == pictures
    assert all(one.read_bytes().startswith(b"\x89PNG\r\n") for one in pictures)
    assert sum(one.stat().st_size for one in pictures) < PICTURE_BYTES


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_function_and_module_that_a_page_names_is_there(page):
    gone = [problem for name in re.findall(DOTTED, read(page)) if (problem := not_there(name))]
    assert gone == [], "; ".join(gone)


@pytest.mark.parametrize("page", ARCHITECTURE)
def test_each_flow_of_the_architecture_names_what_it_goes_through(page):
    flows = code_blocks(list(sections(read(page)).values())[FLOWS])
    assert [len(set(re.findall(DOTTED, flow))) >= 15 for flow in flows] == [True] * 3


def test_where_to_change_what_names_files_and_names_in_them():
    tables = [table(list(sections(read(page)).values())[CHANGES]) for page in ARCHITECTURE]
    paths = [[re.findall(r"`([\w.-]+/[\w./-]*|\w+\.py)`", where) for _, where in rows] for rows in tables]
    names = re.findall(r"`([\w./-]+)` ?[(（]((?:`\w+`[, 、]*)+)[)）]", str(tables))

    assert len(paths[0]) >= 20
    assert all(paths[0])
    assert paths[0] == paths[1]
    assert [path for row in paths[0] for path in row if not (ROOT / path).exists()] == []
    assert len(names) > 10
    words = [(path, name) for path, group in names for name in re.findall(r"\w+", group)]
    assert [(path, name) for path, name in words if not re.search(rf"\b{name}\b", read(path))] == []


@pytest.mark.parametrize("page", ARCHITECTURE)
def test_the_architecture_names_every_package_in_order_and_every_module(page):
    rows = [re.findall(r"`(.+?)`", cell)[0] for cell, _ in table(list(sections(read(page)).values())[PACKAGES])]
    here = [str(file.relative_to(ROOT)) for file in ROOT.glob("vicuna/**/*.py") if file.name != "__init__.py"]

    assert [package for package, _ in groupby(Path(row).parts[1].removesuffix(".py") for row in rows)] == layers()
    assert [f"vicuna/{one}/" for one in layers() if (ROOT / "vicuna" / one).is_dir()] == [
        row for row in rows if row.endswith("/")
    ]
    assert_same([row for row in rows if row.endswith(".py")], here)


def test_the_table_of_layers_for_contributors_is_import_linters():
    rows = table(read("CONTRIBUTING.md"))
    assert [layer for cell, _ in rows for layer in re.findall(r"`(\w+)`", cell)] == layers()


@pytest.mark.parametrize("page", ARCHITECTURE)
def test_the_architecture_names_every_program_launcher_tool_and_benchmark(page):
    rows = table(list(sections(read(page)).values())[PROGRAMS_AND_SCRIPTS])
    named = [path for cell, _ in rows for path in re.findall(r"`(.+?)`", cell)]
    patterns = ("*.py", "scripts/*.sh", "tools/*.py", "tools/*.sh", "benchmarks/*.py", "benchmarks/*.sh")
    assert_same(named, [str(file.relative_to(ROOT)) for one in patterns for file in ROOT.glob(one)])


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_table_of_a_program_has_its_flags_in_order_with_their_defaults(program, language):
    documented = flag_rows(sections(read(f"docs/{language}/flags.md"))[program])
    own = own_defaults(program)
    assert documented == [(one.name, default_text(one, own)) for one in program_fields(program)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_of_the_dialogue_program_has_the_defaults_that_differ(language):
    documented = flag_rows(sections(read(f"docs/{language}/flags.md"))["finetune_chat.py"])
    shown = {name: " ".join(one) if isinstance(one, list) else one for name, one in DEFAULTS.items()}
    assert documented == [(name, f"`{one}`") for name, one in shown.items()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_that_a_page_names_exists(page):
    every = [one for program in PROGRAMS for one in program_fields(program)]
    known = {name for one in every for name in (one.name, *(also[2:] for also in one.metadata.get("aliases", ())))}
    known |= {f"no_{name}" for name in ("gradient_checkpointing", "use_typewriter", "show_beam")}
    known |= set(re.findall(r"^    (\w+): \w+ = flag\(", read("benchmarks/gpu.py"), re.MULTILINE))
    for program in ("benchmarks/bench_generate.py", "benchmarks/bench_train.py"):
        known |= set(re.findall(r"^    (\w+): [\w\[\]]+ = flag\(", read(program), re.MULTILINE))
    known |= set(re.findall(r'add_argument\("--(\w+)"', read("benchmarks/certificate_bounds.py")))
    known |= set(re.findall(r'add_argument\("--(\w+)"', read("benchmarks/fuzz_templates.py")))
    known |= set(re.findall(r"^        --(\w+)\) ", read("scripts/install.sh"), re.MULTILINE))
    others = {"help", "standalone", "nproc_per_node", "signals_to_handle"}  # argparse's, torchrun's
    others |= {"deepspeed", "logdir"}  # the original's, tensorboard's
    others |= {"max_model_len", "enable_lora", "api_key", "add_host"}  # vLLM's, and Docker's
    others |= {"python_version"}  # pip's
    others |= {"reasoning", "lora", "copy"}  # llama-server's, LM Studio's
    text = re.sub(r"--lora_…", "", read(page))
    named = {name.replace("-", "_") for name in re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)}
    assert named - known - others == set()


@pytest.mark.parametrize(
    "script",
    [
        *(
            f"scripts/{name}.sh"
            for name in ("finetune", "finetune_domain", "generate", "chat_7B", "chat_cpu", "serve_vllm")
        ),
        *("tools/download_llama.sh", "tools/prepare_llama_cpp.sh"),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_launcher_variables_are_those_of_the_script(script, language):
    section = re.search(rf"^### {script}\n(.*?)(?=^#|\Z)", read(f"docs/{language}/flags.md"), re.M | re.S)[1]
    documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))))
    taken = set(re.findall(r"\$\{(\w+):?-", read(script))) - {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
    assert documented == taken


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_heading_of_the_faq_is_a_text_of_the_programs(language):
    wishes, _, *entries = [name for level, name in headings(read(f"docs/{language}/faq.md")) if level == 2]
    texts = messages()
    assert len(entries) >= 10
    assert len(re.findall(r"^### ", sections(read(f"docs/{language}/faq.md"))[wishes], re.MULTILINE)) >= 10
    assert [entry for entry in entries if not any(entry in text for text in texts)] == []


def test_no_page_names_a_folder_of_somebodys_machine():
    assert [page for page in PAGES if re.search(r"(?<![\w.])/(?:work|tmp|root|home)/", read(page))] == []
