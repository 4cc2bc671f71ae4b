#!/usr/bin/env bash
# Resolve every requirements file anew: the exact version of every package, and the hash of its file, for each version
# of Python, to scripts/constraints/. It asks pip's own resolver, and installs nothing.
#
#   bash scripts/make_constraints.sh                 # with the environment of scripts/test.sh; some ten minutes
#   bash scripts/make_constraints.sh 3.13            # for one version of Python
#
# Linux on x86-64 only. What is not the Python of the environment is resolved, not run. Packages without a wheel say
# what they need by code of their own, which pip runs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1

"$PYTHON" - "$@" <<'END'
import datetime, json, pathlib, re, subprocess, sys, tempfile, urllib.parse
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = sys.argv[1:] or ("3.11", "3.12", "3.13")
# Requirements file -> whether what its packages ask for is installed too; the last two list what of it is needed.
FILES = {"requirements.txt": True, "requirements_dev.txt": True, "requirements_cpp.txt": True,
         "requirements_eval.txt": False, "requirements_gptq.txt": False}
BUILD = ["setuptools>=77", "wheel"]  # what packages without a wheel are built with
PLACE = pathlib.Path("scripts/constraints")
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def lines(file):
    text = pathlib.Path(file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if re.match(r"\w", line)]


def resolve(wanted, *flags):
    """What pip would install: name -> version, file, hash and what it asks for; None where it can not."""
    with tempfile.TemporaryDirectory() as aside:
        asked, report = pathlib.Path(aside, "asked.txt"), pathlib.Path(aside, "report.json")
        asked.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report",
                   str(report), "--requirement", str(asked), *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, done.stderr
        found = {}
        for one in json.loads(report.read_text(encoding="utf-8"))["install"]:
            facts, origin = one["metadata"], one["download_info"]
            name = urllib.parse.unquote(origin["url"].rsplit("/", 1)[-1])
            found[canonicalize_name(facts["name"])] = {
                "version": facts["version"].split("+")[0], "file": name,
                "sha256": origin["archive_info"]["hashes"]["sha256"],
                "asks": [Requirement(text) for text in facts.get("requires_dist", [])],
            }
        return found, ""


def needed(found, roots, python, deps=True):
    """The names that requirements lead to under a version of Python; pip itself reads markers by the one it runs in."""
    reached, waiting, lacking = set(), [Requirement(text) for text in roots], []
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        places = {(name, extra) for extra in {"", *one.extras}}
        if name not in found:
            lacking.append(str(one))
        elif not places <= reached:
            reached |= places
            for ask in found[name]["asks"] if deps else ():
                environment = {"python_version": python, "python_full_version": f"{python}.0"}
                if not ask.marker or any(ask.marker.evaluate({**environment, "extra": extra}) for _, extra in places):
                    ask.marker = None
                    waiting.append(ask)
    return {name for name, _ in reached}, lacking


def must(answer):
    found, said = answer
    if found is None:
        sys.exit(said)
    return found


def source_packages(wanted):
    """Those without a wheel, which are the same for every Python."""
    found = {}
    for text in wanted:
        if resolve([text], "--no-deps", "--only-binary", ":all:")[0] is None:
            # Some are built with what stands in the environment, some with tools of their own.
            built, _ = resolve([text], "--no-deps", "--no-build-isolation")
            found |= built or must(resolve([text], "--no-deps"))
    return found


def asked_for(text):
    """The wheel for CUDA of a package that some indexes offer for the CPU too, by the same version."""
    return text.replace("torch==", "torch===") if text.startswith("torch==") else text


model = re.search(r"^package=(\S+)$", pathlib.Path("scripts/install_smollm2.sh").read_text(encoding="utf-8"), re.M)[1]
roots = {file: lines(file) for file in FILES} | {"scripts/install_smollm2.sh": [model]}
roots["requirements_gptq.txt"] += BUILD
sources = source_packages([text for texts in roots.values() for text in texts])
for python in PYTHONS:
    only = ("--python-version", python, "--only-binary", ":all:", "--target", "nowhere")
    wanted = [text for file, deps in FILES.items() if deps for text in roots[file]] + BUILD
    plain = [text for text in wanted if canonicalize_name(Requirement(text).name) not in sources]
    for text in wanted:
        if built := sources.get(canonicalize_name(Requirement(text).name)):
            plain += [str(ask) for ask in built["asks"] if "extra ==" not in str(ask.marker)]
    more = []
    while True:
        found = must(resolve([*map(asked_for, plain), *more], *only)) | sources
        lacking = needed(found, wanted, python)[1]
        if not lacking:
            break
        print(f"Python {python} asks for {', '.join(lacking)} more")
        more += lacking
    alone = [text for file in roots if not FILES.get(file) for text in roots[file]]
    alone = [text for text in alone if canonicalize_name(Requirement(text).name) not in sources and "==" in text]
    for name, one in must(resolve(alone, "--no-deps", *only)).items():
        if found.setdefault(name, one)["version"] != one["version"]:
            sys.exit(f"{name} is {found[name]['version']} in one requirements file and {one['version']} in another")
    run = "" if python == HERE else " Resolved, not installed and not run."
    text = [f"# What each requirements file brings under Python {python}, by scripts/make_constraints.sh on "
            f"{datetime.date.today()}.{run}",
            "# Those of cuda, nvidia and triton come with torch for CUDA only."]
    listed = set()
    for file in roots:
        names = needed(found, roots[file], python, FILES.get(file, False))[0] - listed
        text += [f"# {file}", *sorted(f"{name}=={found[name]['version']}" for name in names)]
        listed |= names
    files = {found[name]["file"]: found[name]["sha256"] for name in listed}
    torch = next(text for text in roots["requirements.txt"] if text.startswith("torch=="))
    for one in must(resolve([torch], "--no-deps", *only)).values():
        files[one["file"]] = one["sha256"]
    PLACE.mkdir(exist_ok=True)
    (PLACE / f"python{python}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    hashes = sorted((name.lower(), name, digest) for name, digest in files.items())
    (PLACE / f"python{python}.sha256").write_text("".join(f"{d}  {name}\n" for _, name, d in hashes), encoding="utf-8")
    print(f"Python {python}: {len(listed)} packages")
END
