"""Tokenised records on disk, named by their content: data, tokenizer, template and options, never by file names.

One process of a host tokenises, the others wait for it and then map the same files; so does the next run on the same
records. An entry appears by a rename, whole and on the disk, or not at all; it is hashed before it is used, and made
anew where it is not what was written.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vicuna.data.examples import Examples, tokenise
from vicuna.data.files import file_kind
from vicuna.data.flags import DataFlags
from vicuna.data.records import Records, Source, hold_out, read_records, refusal
from vicuna.data.spilled import spilled_dialogues
from vicuna.data.workers import Workers, process_count
from vicuna.errors import UserError
from vicuna.files.aside import PREFIX, aside_folder
from vicuna.files.outputs import put
from vicuna.log import log
from vicuna.prompt.templates import BASE
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.wordings import TEMPLATES

MANIFEST, TRAIN_ROWS, HELD_OUT_ROWS = "manifest.json", "train.arrow", "held_out.arrow"
MISSING = "it is not there"
HEARTBEAT_TIMEOUT_S = 60  # a process that tokenises shows every few seconds that it still does
HEARTBEAT_S = 5
# What an entry depends on, beside the files and the tokenizer.
OPTIONS = (
    *("prompt_type", "cutoff_len", "train_turns", "train_on_inputs", "test_size", "skip_bad_rows", "encoding"),
    *("fields", "pack", "fill"),
)
# The modules whose code decides what the rows of a file become.
ROW_MODULES = (
    *("vicuna.data.bad_row", "vicuna.data.encodings", "vicuna.data.nesting", "vicuna.data.parsing"),
    *("vicuna.data.files", "vicuna.data.pieces", "vicuna.data.spilled"),
    *("vicuna.data.fields", "vicuna.data.fills", "vicuna.data.suspicions", "vicuna.data.values", "vicuna.data.marks"),
    *("vicuna.data.calls", "vicuna.data.readers", "vicuna.data.formats", "vicuna.data.records"),
    *("vicuna.data.packing", "vicuna.data.row_check", "vicuna.data.workers"),
    *("vicuna.data.examples", "vicuna.prompt.wordings", "vicuna.prompt.templates", "vicuna.prompt.tokenizer"),
    *("vicuna.prompt.tokenizer_files", "vicuna.prompt.rendering", "vicuna.prompt.own_template"),
    *("vicuna.foreign.odd_files", "vicuna.foreign.paths", "vicuna.foreign.typed", "vicuna.foreign.libraries"),
    "vicuna.prompt.tokenizer_fields",
    *("vicuna.prompt.pieces", "vicuna.prompt.traits", "vicuna.prompt.replaced_templates"),
)


@dataclass(frozen=True)
class TrainingData:
    """The examples of a run.

    Attributes:
        records: files and counts; its dialogues are not kept.
        held_out: examples for evaluation, or None.
    """

    records: Records
    train: Examples
    held_out: Examples | None

    @property
    def sha256(self) -> str:
        """Of the tokenised rows."""
        parts = [part.sha256 for part in (self.train, self.held_out) if part]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def location(self, record: int) -> str:
        """Where a training record stands, as messages name it."""
        source, line = self.train.place(record)
        return f"{self.records.sources[source].path} line {line}"


def load_or_tokenise(
    flags: DataFlags,
    sources: Sequence[Source],
    text_tokenizer: TextTokenizer,
    writes: bool,
    timeout_s: float = HEARTBEAT_TIMEOUT_S,
) -> TrainingData:
    """The tokenised records, from the cache or into it.

    Args:
        sources: the files, as `open_sources` gives them.
        writes: whether this process tokenises what is not there; the others of its host wait.
        timeout_s: seconds to wait without a sign of life.

    Raises:
        UserError: malformed records, or the process that tokenises has ended.
    """
    cache = Path(flags.cache_path).expanduser() if flags.cache_path else default_cache()
    entry = cache / cache_key(flags, sources, text_tokenizer)
    problem = what_is_wrong(entry)
    if problem and writes:
        if problem != MISSING:
            log.warning("WARNING   the tokenised records in %s are made anew: %s", entry, problem)
        _write(flags, sources, text_tokenizer, entry)
    elif problem:
        _wait(entry, timeout_s)
    return _read(entry, sources)


def what_is_wrong(entry: Path) -> str:
    """Why the rows of an entry can not be used, MISSING where there is none; "" where they are what was written."""
    try:
        said = json.loads((entry / MANIFEST).read_bytes())
        if said.pop("sha256") != _of_facts(said):
            return f"{MANIFEST} was changed"
        changed = [name for name, digest in said["files"].items() if _of_file(entry / name) != digest]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing" if (entry / MANIFEST).exists() else MISSING
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} or what it names can not be read, or is of an earlier version"
    return f"{changed[0]} was changed" if changed else ""


def _of_facts(said: dict[str, Any]) -> str:
    return _sha256(json.dumps(said, sort_keys=True).encode())


def _of_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def default_cache() -> Path:
    """chinese-vicuna in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chinese-vicuna" / "tokenised"


def cache_key(flags: DataFlags, sources: Sequence[Source], text_tokenizer: TextTokenizer) -> str:
    """SHA-256 of all that the tokenised rows depend on, this program's own code included."""
    code = b"".join(Path(find_spec(name).origin).read_bytes() for name in ROW_MODULES)
    parts = {
        "files": [(source.sha256, source.weight, file_kind(source.path)) for source in sources],
        "options": {name: getattr(flags, name) for name in OPTIONS},
        "template": _template(flags.prompt_type, text_tokenizer),
        "tokenizer": _tokenizer(text_tokenizer),
        "code": _sha256(code),
        "versions": [version(name) for name in ("sentencepiece", "tokenizers")],
    }
    return _sha256(json.dumps(parts, sort_keys=True).encode())[:32]


def _template(prompt_type: str, tokenizer: TextTokenizer) -> Any:
    """The wording of the prompts, and what it is rendered with."""
    if prompt_type != BASE or tokenizer.chat is None:
        return asdict(TEMPLATES[prompt_type]) if prompt_type in TEMPLATES else prompt_type
    return [tokenizer.chat.text, tokenizer.chat.day, *asdict(tokenizer.chat.settings).values()]


def _tokenizer(tokenizer: TextTokenizer) -> str:
    """SHA-256 of what the ids come from: the file, or what was read of a larger one; and of what begins a text."""
    files = tokenizer.files
    if tokenizer.source.suffix in (".model", ".json"):
        raw = tokenizer.source.read_bytes()
    else:
        raw = files.json.encode() if files.sentencepiece is None else files.sentencepiece
    settings = [tokenizer.beginning, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id]
    return _sha256(raw + json.dumps(settings).encode())


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _write(flags: DataFlags, sources: Sequence[Source], text_tokenizer: TextTokenizer, entry: Path) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    tokenizer_bytes = len(text_tokenizer.files.sentencepiece or text_tokenizer.files.json)
    workers = Workers(process_count(sum(source.path.stat().st_size for source in sources), tokenizer_bytes))
    with (
        aside_folder(entry.parent) as aside,
        _heartbeat(aside / entry.name),
        spilled_dialogues(aside) as dialogues,
        workers,
    ):
        made = aside / entry.name
        records = read_records(
            flags.data_path,
            flags.prompt_type,
            flags.skip_bad_rows,
            flags.encoding,
            flags.fields,
            dialogues,
            flags.fill,
            refusal(text_tokenizer, flags.prompt_type),
            workers,
        )
        train_ids, held_ids = hold_out(len(records.dialogues), flags.test_size)
        options = (flags.prompt_type, flags.cutoff_len, flags.train_on_inputs, flags.train_turns, flags.pack)
        train, held_out = (
            tokenise(text_tokenizer, records, chosen, *options, file=made / name, workers=workers) if chosen else None
            for name, chosen in ((TRAIN_ROWS, records.resample(train_ids)), (HELD_OUT_ROWS, held_ids))
        )
        facts: dict[str, Any] = {"sources": [source.as_json() | {"path": ""} for source in records.sources]}
        for name, examples in (("train", train), ("held_out", held_out)):
            if examples:
                values = {one.name: getattr(examples, one.name) for one in fields(examples) if one.name != "rows"}
                facts[name] = {key: value for key, value in values.items() if value != []}
        digests = {name: _of_file(made / name) for name in (TRAIN_ROWS, HELD_OUT_ROWS) if (made / name).exists()}
        said = {"facts": facts, "files": digests}
        (made / MANIFEST).write_text(json.dumps({**said, "sha256": _of_facts(said)}), encoding="utf-8")
        if os.path.lexists(entry) and what_is_wrong(entry):
            with contextlib.suppress(FileNotFoundError):
                os.rename(entry, aside / "damaged")
        try:
            put(made, entry)
        except OSError:
            if what_is_wrong(entry):  # else another run was quicker
                raise


@contextlib.contextmanager
def _heartbeat(made: Path) -> Iterator[None]:
    """Make the folder of an entry, aside, and touch it every few seconds, while the block runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            with contextlib.suppress(FileNotFoundError):  # it has its place by now
                os.utime(made)

    made.mkdir()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _pulse(entry: Path) -> int | None:
    """When last a process touched what it makes aside for the entry; None if none makes it."""
    with contextlib.suppress(FileNotFoundError):
        return max((made.stat().st_mtime_ns for made in entry.parent.glob(f"{PREFIX}*/*/{entry.name}")), default=None)
    return None


def _wait(entry: Path, timeout_s: float) -> None:
    """Wait until another process of this host has written the entry.

    Raises:
        UserError: it has ended without, or gives no sign of life.
    """
    # When it last was seen to change, by this process's own clock: those of two machines differ, and may be set.
    pulse, since, seen = None, time.monotonic(), None
    while True:
        found, stands = _pulse(entry), _standing(entry)
        if stands != seen and not what_is_wrong(entry):  # which takes as long as the files are large
            return
        seen = stands
        if found is None and pulse is not None and _standing(entry) == seen:
            raise UserError(
                "the process of this host that tokenises has failed; its error stands above. Mend it, and start again."
            )
        if found != pulse:
            pulse, since = found, time.monotonic()
        if time.monotonic() - since > timeout_s:
            raise UserError(
                f"the process of this host that tokenises gave no sign of life for {timeout_s:.0f} s. Start again; the "
                f"processes of a host need the same --cache_path, here {entry.parent}."
            )
        time.sleep(min(0.2, timeout_s / 10))


def _standing(entry: Path) -> tuple[int, int] | None:
    """What tells the entry that stands from another one of its name; None where there is none."""
    try:
        found = (entry / MANIFEST).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns


def _read(entry: Path, sources: Sequence[Source]) -> TrainingData:
    from datasets import Dataset

    facts = json.loads((entry / MANIFEST).read_bytes())["facts"]
    known = [
        Source(
            **{
                **found,
                "path": source.path,
                "bad": Counter(found["bad"]),
                "suspicious": Counter(found["suspicious"]),
            }
        )
        for found, source in zip(facts["sources"], sources, strict=True)
    ]
    parts = {
        name: Examples(rows=Dataset.from_file(str(entry / file)), **facts[name]) if name in facts else None
        for name, file in (("train", TRAIN_ROWS), ("held_out", HELD_OUT_ROWS))
    }
    return TrainingData(Records(sources=known), **parts)
