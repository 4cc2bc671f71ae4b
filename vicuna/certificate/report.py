"""What is found about each artefact beside base + adapters, and the table of it."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from vicuna.certificate.artefacts import Artefact, Setting
from vicuna.certificate.divergence import Distance, Measured, Reference, measure
from vicuna.certificate.identity import Identity, differences
from vicuna.certificate.verdict import FAILED, judge
from vicuna.errors import UserError
from vicuna.export.manifests import check_input


@dataclass
class Finding:
    """What was found about one artefact; `distance` and `control` are None where it could not be opened."""

    artefact: Artefact
    verdict: str
    reasons: list[str]
    distance: Distance | None = None
    control: Distance | None = None
    odd: dict[str, str] = field(default_factory=dict)


def compare(
    artefacts: list[Artefact], setting: Setting, reference: Reference, wanted: Identity, said: Sequence[str]
) -> list[Finding]:
    """Every artefact beside its control, which those of one type share.

    Args:
        said: texts that tokenizers are compared on.
    """
    places = {id(one): number for number, one in enumerate(artefacts)}
    findings = {}
    for name, group in groupby(sorted(artefacts, key=lambda one: one.control_name), lambda one: one.control_name):
        group = list(group)
        gc.collect()  # models refer to themselves, and would stay beside the next one
        control = measure(group[0].control(setting), reference, name)
        for one in group:
            try:
                findings[places[id(one)]] = examine(one, setting, reference, control, wanted, said)
            except UserError as error:
                findings[places[id(one)]] = Finding(one, FAILED, [str(error)])
            except Exception as error:  # an artefact is anybody's, and libraries raise anything on a broken one
                why = f"it can not be run ({type(error).__name__}: {str(error).strip()[:160]})"
                findings[places[id(one)]] = Finding(one, FAILED, [why])
    return [findings[number] for number in sorted(findings)]


def examine(
    one: Artefact,
    setting: Setting,
    reference: Reference,
    control: Measured,
    wanted: Identity,
    said: Sequence[str],
) -> Finding:
    """One artefact: hashes in its folder, what it declares, then its logits."""
    for path in one.files:
        if path.is_dir():
            check_input(path)
    own = one.identity()
    if one.vocab not in (0, reference.vocab):
        raise UserError(f"it has a vocabulary of {one.vocab}, base + adapters one of {reference.vocab}.")
    odd = differences(own, wanted, said) if own else {}
    gc.collect()
    distance = measure(one.open(setting), reference, one.name).distance(control)
    before = control.distance(control)
    verdict, reasons = judge(one.type, distance, before, reference.perplexity)
    return Finding(one, FAILED if odd else verdict, [*odd.values(), *reasons], distance, before, odd)


def print_table(findings: list[Finding], reference: Reference, before: Measured) -> None:
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
    )
    rows = [heads] + [columns(one, reference) for one in findings]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    names = ["artefact", *(one.artefact.name for one in findings)]
    for row, name in zip(rows, names, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), name, sep="  ")
    for one in findings:
        for reason in one.reasons:
            print(f"{one.artefact.name}: {reason}")


def columns(one: Finding, reference: Reference) -> tuple[str, ...]:
    """A row of the table."""
    found, before = one.distance, one.control
    if found is None or before is None:
        return one.verdict, one.artefact.type, *["–"] * 9
    length = sum(map(len, reference.answers))
    same = {name: "differs" if name in one.odd else "same" for name in ("template", "ids", "tokens")}
    if one.artefact.layout == "bits":
        same = dict.fromkeys(same, "–")
    ids = "differs" if "differs" in (same["ids"], same["tokens"]) else same["ids"]
    part, share = found.weakest
    figures = (f"{found.kl:.1e}", f"{before.kl:.1e}", f"{1 - found.other_top:.1%}", f"{found.perplexity:.4g}")
    reach = (f"{sum(found.prefix)}/{length}", f"{found.effect['all']:.1%}", f"{share:.1%} {part}")
    return one.verdict, one.artefact.type, *figures, *reach, same["template"], ids
