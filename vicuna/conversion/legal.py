"""Legal sets: counsel with the articles it rests on, and verdicts of CAIL as structured answers."""

import re
from typing import Any

from vicuna.conversion.found import Dialogues, Options
from vicuna.data.bad_row import BadRow
from vicuna.data.formats import to_messages
from vicuna.data.values import items, kind, message, text

NO_TERM = "未判处监禁"


def read_counsel(row: Any, options: Options) -> Dialogues:
    """Lawyer LLaMA: a list of one record, or `query`, `laws` and `response`; the articles stand behind the question."""
    messages = to_messages(row, "chat")
    if isinstance(row, dict) and row.get("laws"):
        laws = [text(one, f"laws[{i}]").strip() for i, one in enumerate(items(row, "laws"))]
        if options.drop_laws:
            yield messages, ("articles left out",)
            return
        listed = "\n".join(f"{number}. {law}" for number, law in enumerate(laws, 1))
        messages[-2]["content"] += f"\n参考法条：\n{listed}"
    yield messages, ()


def read_verdict(row: Any, options: Options) -> Dialogues:
    """CAIL: the facts of a case, and charges, articles, term and fine as a numbered list."""
    if not isinstance(row, dict) or not {"fact", "meta"} <= row.keys() or not isinstance(row["meta"], dict):
        has = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {kind(row)}"
        raise BadRow(f"has {has}; expected fact and meta, as CAIL has them", "fields missing")
    meta = row["meta"]
    if missing := [name for name in ("accusation", "relevant_articles", "term_of_imprisonment") if name not in meta]:
        raise BadRow(f"field meta lacks {missing[0]}; expected charges, articles and term", "fields missing")
    charges = list(dict.fromkeys(charge(text(one, "meta.accusation")) for one in items(meta, "accusation")))
    articles = list(dict.fromkeys(_number(one, "meta.relevant_articles") for one in items(meta, "relevant_articles")))
    if not charges:
        raise BadRow("has no charge in meta.accusation; expected one or more", "no charge")
    listed = [f"罪名：{'；'.join(charges)}"]
    if articles:
        listed.append(f"相关法条：{'、'.join(f'《中华人民共和国刑法》第{number}条' for number in articles)}")
    listed.append(f"刑期：{_term(meta['term_of_imprisonment'])}")
    if fine := _number(meta.get("punish_of_money", 0), "meta.punish_of_money"):
        listed.append(f"罚金：{fine}元")
    answer = "\n".join(f"{number}. {one}" for number, one in enumerate(listed, 1))
    notes = ("articles listed twice, kept once",) if len(articles) < len(meta["relevant_articles"]) else ()
    yield [message("user", row["fact"], "fact"), message("assistant", answer, "meta")], notes


def charge(name: str) -> str:
    """A charge without the brackets that mark which of its acts are meant: [生产、销售]假药."""
    return re.sub(r"[\[\]［］]", "", name).strip()


def _term(term: Any) -> str:
    if not isinstance(term, dict):
        raise BadRow(
            f"field meta.term_of_imprisonment is a {kind(term)}; expected death_penalty, life_imprisonment and "
            "imprisonment",
            "fields missing",
        )
    # Flags: beside them the months mean nothing.
    if term.get("death_penalty"):
        return "死刑"
    if term.get("life_imprisonment"):
        return "无期徒刑"
    months = _number(term.get("imprisonment"), "meta.term_of_imprisonment.imprisonment")
    if months < 0:
        raise BadRow(f"has a term of {months} months; expected 0 or more", "a term that is none")
    years, rest = divmod(months, 12)
    parts = [f"{years}年" if years else "", f"{rest}个月" if rest else ""]
    return "".join(parts) or NO_TERM


def _number(value: Any, name: str) -> int:
    """A whole number, which some files write as text."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        return int(value)
    if type(value) is int:
        return value
    raise BadRow(f"field {name} holds {str(value)[:40]!r}; expected a whole number", f"{name} is no number")
