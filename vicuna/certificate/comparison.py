"""What is found about each artefact beside base + adapters, and the table of it."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from vicuna.certificate.artefacts import Artefact, Setup
from vicuna.certificate.dialogues import dialogues_for
from vicuna.certificate.divergence import Divergence, Measurement, Reference, measure
from vicuna.certificate.engines import UNLIKE, EngineComparison, compare_engines
from vicuna.certificate.identity import Identity, find_differences
from vicuna.certificate.verdict import FAILED, judge
from vicuna.errors import UserError
from vicuna.export.manifests import check_input


@dataclass
class ArtefactResult:
    """What was found about one artefact.

    Attributes:
        divergence, control: None where it could not be opened; engines: None where it holds no template.
    """

    artefact: Artefact
    verdict: str
    reasons: list[str]
    divergence: Divergence | None = None
    control: Divergence | None = None
    odd: dict[str, str] = field(default_factory=dict)
    engines: EngineComparison | None = None


def compare_artefacts(
    artefacts: list[Artefact], setup: Setup, reference: Reference, wanted: Identity, said: Sequence[str]
) -> list[ArtefactResult]:
    """Every artefact beside its control, which those of one type share.

    Args:
        said: texts that tokenizers are compared on.
    """
    places = {id(one): number for number, one in enumerate(artefacts)}
    results = {}
    for name, group in groupby(sorted(artefacts, key=lambda one: one.control_name), lambda one: one.control_name):
        group = list(group)
        gc.collect()  # models refer to themselves, and would stay beside the next one
        control = measure(group[0].control(setup), reference, name)
        for one in group:
            try:
                results[places[id(one)]] = compare_artefact(one, setup, reference, control, wanted, said)
            except UserError as error:
                results[places[id(one)]] = ArtefactResult(one, FAILED, [str(error)])
            except Exception as error:  # an artefact is anybody's, and libraries raise anything on a broken one
                why = f"it can not be run ({type(error).__name__}: {str(error).strip()[:160]})"
                results[places[id(one)]] = ArtefactResult(one, FAILED, [why])
    return [results[number] for number in sorted(results)]


def compare_artefact(
    one: Artefact,
    setup: Setup,
    reference: Reference,
    control: Measurement,
    wanted: Identity,
    said: Sequence[str],
) -> ArtefactResult:
    """One artefact: hashes in its folder, what it declares, then its logits."""
    for path in one.files:
        if path.is_dir():
            check_input(path)
    own = one.identity()
    if one.vocab not in (0, reference.vocab):
        raise UserError(f"it has a vocabulary of {one.vocab}, base + adapters one of {reference.vocab}.")
    odd = find_differences(own, wanted, said) if own else {}
    engines = rendered_by_engines(own) if own and own.template else None
    if engines and engines.verdict == UNLIKE:
        odd["engines"] = "programs ask it with other prompts than it was trained on"
    gc.collect()
    divergence = measure(one.open(setup), reference, one.name).divergence(control)
    before = control.divergence(control)
    verdict, reasons = judge(one.type, divergence, before, reference.perplexity)
    return ArtefactResult(one, FAILED if odd else verdict, [*odd.values(), *reasons], divergence, before, odd, engines)


def rendered_by_engines(found: Identity) -> EngineComparison:
    """What the programs that people ask a model with make of its template."""
    names = found.tokenizer.markers
    bos, eos = (names.get(one, "") for one in (found.tokenizer.bos_id, found.tokenizer.eos_id))
    return compare_engines(found.template, bos, eos, dialogues_for(found.template))


def print_table(results: list[ArtefactResult], reference: Reference, before: Measurement) -> None:
    """The table, and why what did not pass did not."""
    count = sum(map(len, reference.texts))
    print(
        f"base + adapters in float32: perplexity {reference.perplexity:.4g}; the base alone {before.perplexity:.4g}; "
        f"{len(reference.texts)} texts, {count} tokens"
    )
    heads = (
        "verdict",
        "type",
        "KL",
        "KL of base",
        "top-1",
        "perplexity",
        "prefix",
        "effect",
        "weakest part",
        "template",
        "ids",
        "engines",
    )
    rows = [heads] + [table_row(one, reference) for one in results]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    names = ["artefact", *(one.artefact.name for one in results)]
    for row, name in zip(rows, names, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), name, sep="  ")
    for one in results:
        for reason in (*one.reasons, *(one.engines.lines() if one.engines else ())):
            print(f"{one.artefact.name}: {reason}")
    for line in dict.fromkeys(line for one in results if one.engines for line in one.engines.not_rendered()):
        print(line)


def table_row(one: ArtefactResult, reference: Reference) -> tuple[str, ...]:
    """A row of the table."""
    found, before = one.divergence, one.control
    if found is None or before is None:
        return one.verdict, one.artefact.type, *["–"] * 10
    length = sum(map(len, reference.answers))
    same = {name: "differs" if name in one.odd else "same" for name in ("template", "ids", "tokens")}
    if one.artefact.layout == "bits":
        same = dict.fromkeys(same, "–")
    ids = "differs" if "differs" in (same["ids"], same["tokens"]) else same["ids"]
    part, share = found.weakest
    figures = (f"{found.kl:.1e}", f"{before.kl:.1e}", f"{1 - found.other_top:.1%}", f"{found.perplexity:.4g}")
    reach = (f"{sum(found.prefix)}/{length}", f"{found.effect['all']:.1%}", f"{share:.1%} {part}")
    engines = one.engines.verdict if one.engines else "–"
    return one.verdict, one.artefact.type, *figures, *reach, same["template"], ids, engines
