"""adapter_config.json, typed, and compared with the tensors beside it before PEFT sees any of it.

PEFT makes matrices of the ranks that a config declares, and matches its patterns with names by `re`. Here ranks are
those of the tensors, and a pattern is replaced by what it comes to on the modules that the tensors show.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vicuna.errors import UserError
from vicuna.foreign.patterns import Pattern
from vicuna.foreign.typed import Foreign, Name, Size, opens, read_object, typed
from vicuna.model.adapter_kinds import BEGINS_FROM_DATA, BEGINS_FROM_WEIGHTS, Use, begins_with, check_uses
from vicuna.model.adapter_names import unwrapped
from vicuna.model.found import ADAPTER_CONFIG
from vicuna.sentences import Sentence

Value = TypeVar("Value", int, float)

SAMPLE_CONFIG = Path(__file__).parent.parent.parent / "config-sample" / ADAPTER_CONFIG
LONGEST_NAME = 500  # signs of a module's name; those of real adapters have at most 150
MOST_NAMES = 100_000
MOST_ITERATIONS = 100  # of PiSSA's fast decomposition; PEFT recommends 16
MOST_PATTERNS = 200  # keys that are no plain names; real configs have a handful
_FAST_PISSA = re.compile(r"pissa_niter_(\d{1,9})")
_INITS = ("gaussian", "eva", "orthogonal", "mica", *BEGINS_FROM_WEIGHTS, *BEGINS_FROM_DATA)
_PLAIN_KEY = re.compile(r"(\^?)((?:[\w.-]|\\\.)+)(\$?)")
# What a value of null stands for in every other field: that nothing is said.
_NEVER_NULL = ("r", "lora_alpha")


def _known_init(value: Any) -> bool | str:
    """A way of beginning that PEFT has.

    Raises:
        ValueError: another one, or one that would take long.
    """
    word = value.lower() if isinstance(value, str) else ""
    if isinstance(value, bool) or word in _INITS:
        return value
    if (fast := _FAST_PISSA.fullmatch(word)) and int(fast[1]) <= MOST_ITERATIONS:
        return value
    raise ValueError(f"true, false or one of {', '.join(_INITS)}, pissa_niter_1 to pissa_niter_{MOST_ITERATIONS}")


def _names_or_pattern(value: Any) -> list[str] | str:
    """Names of modules, or a pattern of them."""
    if not isinstance(value, str | list) or len(value) > MOST_NAMES:
        raise ValueError("a list of names, or a pattern of them")
    if isinstance(value, list) and not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in value):
        raise ValueError(f"a list of names, each of at most {LONGEST_NAME} signs, or a pattern of them")
    return value


def _rows_of_tables(value: Any) -> list[int] | dict[str, list[int]]:
    """Rows of the embeddings, or of each table that is named."""
    tables = value if isinstance(value, dict) else {"embed_tokens": value}
    for name, rows in tables.items():
        numbers = isinstance(rows, list) and all(type(row) is int and 0 <= row < 1 << 24 for row in rows)
        if not numbers or not 0 < len(name) <= LONGEST_NAME:
            raise ValueError("a list of rows, or an object that has one for the name of each table")
    return value


Rank = Annotated[int, Field(ge=1, le=1 << 16)]  # the widest weights of today's bases have 53,248 rows
# No natural bound, so a generous one: people write 1 to a few thousand, negative to take away what was learnt.
Alpha = Annotated[float, Field(ge=-1e6, le=1e6), AfterValidator(lambda one: int(one) if one.is_integer() else one)]
Layers = Annotated[
    list[Annotated[int, Field(ge=0, le=100_000)]],
    Field(max_length=100_000),
    BeforeValidator(lambda one: [one] if type(one) is int else one),
]
ModuleNames = Annotated[Any, AfterValidator(_names_or_pattern)]
Pieces = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Task = Literal["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"]


@opens(
    {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "target_modules": ["q_proj", "v_proj"]},
        **{"exclude_modules": ["lm_head"], "lora_alpha": 16, "lora_dropout": 0.05, "fan_in_fan_out": False},
        **{"bias": "none", "use_rslora": False, "modules_to_save": ["embed_tokens"], "init_lora_weights": "pissa"},
        **{"layers_to_transform": [0, 1], "layers_pattern": "layers", "rank_pattern": {"q_proj": 4}},
        **{"alpha_pattern": {"q_proj": 8}, "trainable_token_indices": {"embed_tokens": [5, 6]}, "use_dora": False},
        **{"use_qalora": False, "qalora_group_size": 16, "lora_bias": False, "ensure_weight_tying": False},
        **{"kasa_config": {}, "velora_config": {}, "monteclora_config": {}, "alora_invocation_tokens": [1]},
        **{"arrow_config": {}, "use_bdlora": {}, "layer_replication": [[0, 1]], "target_parameters": ["x"]},
        "megatron_config": {},
    }
)
class AdapterConfig(Foreign):
    """What is used of an adapter_config.json. Of the kinds that no program here uses only that the adapter is one."""

    peft_type: Name | None = None
    task_type: Task | None = None
    r: Rank = 8
    target_modules: ModuleNames = None
    exclude_modules: ModuleNames = None
    lora_alpha: Alpha = 8
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    modules_to_save: Annotated[list[Pieces], Field(max_length=10_000)] | None = None
    init_lora_weights: Annotated[Any, AfterValidator(_known_init)] = True
    layers_to_transform: Layers | None = None
    layers_pattern: ModuleNames = None
    rank_pattern: Annotated[dict[Pieces, Rank], Field(max_length=100_000)] = Field(default_factory=dict)
    alpha_pattern: Annotated[dict[Pieces, Alpha], Field(max_length=100_000)] = Field(default_factory=dict)
    trainable_token_indices: Annotated[Any, AfterValidator(_rows_of_tables)] = None
    use_dora: bool = False
    use_qalora: bool = False
    qalora_group_size: Size = 16
    lora_bias: bool = False
    ensure_weight_tying: bool = False
    kasa_config: dict[Name, Any] | None = None
    velora_config: dict[Name, Any] | None = None
    monteclora_config: dict[Name, Any] | None = None
    alora_invocation_tokens: Any = None
    arrow_config: Any = None
    use_bdlora: Any = None
    layer_replication: Any = None
    target_parameters: Any = None
    megatron_config: Any = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_said(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name in _NEVER_NULL}


# Of these PEFT is told what the file says; of modules, layers and patterns what they come to.
_AS_SAID = (
    *("task_type", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "use_dora", "use_qalora"),
    *("qalora_group_size", "lora_bias", "ensure_weight_tying"),
)


def read_typed_config(file: Path, tensors: Collection[str], uses: Collection[Use] = ()) -> AdapterConfig:
    """An adapter's config as a typed value.

    Args:
        tensors: names of the tensors beside it; uses: what is going to be done with the adapter.

    Raises:
        UserError: a config that can not be read, or is not LoRA's; see `check_uses`.
    """
    said = read_object(file)
    if said.get("peft_type") != "LORA":  # AdaLoRA's config is LoRA's too
        raise UserError(f"{file} describes a {str(said.get('peft_type'))[:60]} adapter; expected LORA.")
    config = typed(said, AdapterConfig, file)
    check_uses(file.parent, config.model_dump(), tensors, uses)
    return config


def config_for_peft(said: AdapterConfig, ranks: Mapping[str, int], file: Path) -> LoraConfig:
    """What PEFT is told of an adapter: of modules and ranks no more than the tensors have.

    What only its training needed, and for some of which PEFT would want the base's weights, is left out; modules go by
    their names where they are not wrapped.

    Args:
        ranks: module in the base -> rank, of all that the tensors show.

    Raises:
        UserError: the config says other ranks or modules than the tensors have.
    """
    declared = resolved(said.rank_pattern, ranks, file, "rank_pattern")
    if any(declared.get(module, (said.r,))[0] != rank for module, rank in ranks.items()):
        raise UserError(
            f"{file} says r {said.r}, but the tensors beside it have rank {sorted(set(ranks.values()))}: it belongs to "
            "another adapter."
        )
    alphas = resolved(said.alpha_pattern, ranks, file, "alpha_pattern")
    begins = said.init_lora_weights if begins_with(vars(said), BEGINS_FROM_WEIGHTS) else True
    rows = said.trainable_token_indices
    return LoraConfig(
        **{name: getattr(said, name) for name in _AS_SAID},
        **_modules(said, ranks),
        # A rank that no tensor has would make matrices of that rank elsewhere.
        r=said.r if said.r in ranks.values() or not ranks else max(ranks.values()),
        init_lora_weights=begins,
        rank_pattern=_harmless(declared, ranks),
        alpha_pattern=_harmless(alphas, ranks),
        modules_to_save=None if said.modules_to_save is None else [unwrapped(name) for name in said.modules_to_save],
        trainable_token_indices=rows,
        kasa_config={} if said.kasa_config is not None else None,
    )


def inferred_config(folder: Path, ranks: list[int], names: list[str]) -> tuple[LoraConfig, str]:
    """The config of an adapter that has none, from its tensors, and a warning.

    Raises:
        UserError: they have several ranks.
    """
    usual = json.loads(SAMPLE_CONFIG.read_text(encoding="utf-8"))
    alpha, dropout = usual["lora_alpha"], usual["lora_dropout"]
    if len(ranks) != 1:
        raise UserError(
            f"{folder} has no {ADAPTER_CONFIG}, and its tensors have the ranks {ranks}: add the config it was "
            "trained with."
        )
    config = LoraConfig(r=ranks[0], lora_alpha=alpha, lora_dropout=dropout, target_modules=names, task_type="CAUSAL_LM")
    said = {"rank": ranks[0], "names": ", ".join(names), "alpha": alpha}
    sample = SAMPLE_CONFIG.parent.name
    return config, Sentence("no_adapter_config", folder=folder, file=ADAPTER_CONFIG, sample=sample, **said)


def _modules(said: AdapterConfig, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Which modules PEFT puts matrices on: what a list says; where it is a pattern, those that the tensors show."""
    pattern = not isinstance(said.target_modules, list) or said.layers_pattern or isinstance(said.exclude_modules, str)
    if pattern or not ranks:
        # Where weights are tied PEFT is told the embeddings, and changes the head with them.
        names = [name for name in ranks if not (said.ensure_weight_tying and name.endswith("lm_head"))]
        return {"target_modules": names or DUMMY_TARGET_MODULES}
    return {
        "target_modules": [unwrapped(name) for name in said.target_modules],
        "exclude_modules": [unwrapped(name) for name in said.exclude_modules or ()] or None,
        "layers_to_transform": said.layers_to_transform,
    }


def resolved(
    patterns: Mapping[str, Value], modules: Collection[str], file: Path, field: str
) -> dict[str, tuple[Value, str]]:
    """Module -> value and key of the first key in a pattern of a config that it fits, as PEFT takes it.

    Raises:
        UserError: more patterns than are tried, or one that is not read here.
    """
    exact, ends, complex_ones = {}, {}, []
    for place, key in enumerate(map(unwrapped, patterns)):
        if plain := _PLAIN_KEY.fullmatch(key):
            (exact if plain[1] else ends).setdefault(plain[2].replace("\\.", "."), place)
        else:
            complex_ones.append((place, key))
    if len(complex_ones) > MOST_PATTERNS:
        raise UserError(f"{file}: {field} has {len(complex_ones):,} patterns; expected at most {MOST_PATTERNS}.")
    try:
        tried = [(place, Pattern(key)) for place, key in complex_ones]
    except UserError as error:
        raise UserError(f"{file}: {field}: {error}") from error
    said, found = list(patterns.items()), {}
    for module in modules:
        parts = module.split(".")
        places = [exact.get(module), *(ends.get(".".join(parts[start:])) for start in range(len(parts)))]
        places += [place for place, pattern in tried if pattern.fits_end(module)]
        if here := [place for place in places if place is not None]:
            key, value = said[min(here)]
            found[module] = (value, key)
    return found


def _harmless(found: Mapping[str, tuple[Value, str]], modules: Collection[str]) -> dict[str, Value]:
    """A pattern for PEFT that does the same on these modules, with keys that are names."""
    plain = {unwrapped(key): value for value, key in found.values() if _PLAIN_KEY.fullmatch(unwrapped(key))}
    rest = {module: value for module, (value, key) in found.items() if not _PLAIN_KEY.fullmatch(unwrapped(key))}
    # A name for all modules that end on it, where they have one value: PEFT tries each key on each module.
    by_end: dict[str, set[Value | None]] = {}
    for module in modules:
        by_end.setdefault(module.rpartition(".")[2], set()).add(rest.get(module))
    for module, value in rest.items():
        end = module.rpartition(".")[2]
        plain.setdefault(end if by_end[end] == {value} else module, value)
    return plain
