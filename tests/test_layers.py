"""The house: packages by subject, what import-linter can not see of them, and how large a thing may be.

The order in which packages may import each other stands in pyproject.toml, and scripts/test.sh has `lint-imports` check
it.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted({file.parent for file in (ROOT / "vicuna").rglob("*.py")})
OURS = [
    *ROOT.glob("*.py"),
    *(ROOT / "vicuna").rglob("*.py"),
    *(ROOT / "tools").glob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
    *(ROOT / "tests").rglob("*.py"),
]
PROGRAMS = {file.stem for folder in ("", "tools", "benchmarks") for file in (ROOT / folder).glob("*.py")}
MOST_LINES = 350
MOST_LINES_OF_A_FUNCTION = 80
TABLES = {"vicuna/pages/strings.py"}  # nothing but a table may be longer


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> set[str]:
    """The top-level names of every module that a file imports, wherever in it."""
    nodes = list(ast.walk(tree(file)))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {module.split(".")[0] for module in whole | parts}


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_a_package_says_what_lives_there_and_brings_nothing_along(folder):
    """A folder without __init__.py is a package that import-linter does not see."""
    module = tree(folder / "__init__.py")

    assert 3 <= len((ast.get_docstring(module) or "").splitlines()) <= 6
    assert all(isinstance(node, ast.Expr | ast.Assign) for node in module.body), "an __init__.py imports nothing"


@pytest.mark.parametrize("file", sorted((ROOT / "vicuna").rglob("*.py")), ids=name)
def test_a_package_imports_no_program(file):
    """The programs are no package, so import-linter can not know them."""
    assert imported(file) & (PROGRAMS | {"tests"}) == set()


def test_the_one_program_that_imports_a_program_is_finetune_chat():
    programs = {file.stem for file in ROOT.glob("*.py")}

    found = {file.stem: imported(file) & programs for file in ROOT.glob("*.py")}

    assert {one: others for one, others in found.items() if others} == {"finetune_chat": {"finetune"}}


@pytest.mark.parametrize("file", sorted(OURS), ids=name)
def test_files_and_functions_fit_what_one_can_keep_in_mind(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}

    assert len(lines) <= MOST_LINES or name(file) in TABLES
    assert {one: length for one, length in long.items() if length > MOST_LINES_OF_A_FUNCTION} == {}
