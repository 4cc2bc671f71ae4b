"""benchmarks/domains.py: what its tables count."""

import pytest
from domains import AS_LAWYER, at_domain_loss, checkpoints, is_list, steps_of

CURVE = [{"medical": 5.0, "general": 1.0}, {"medical": 4.0, "general": 2.0}, {"medical": 3.0, "general": 2.5}]


@pytest.mark.parametrize(
    ("wanted", "general"), [(6.0, 1.0), (5.0, 1.0), (4.5, 1.5), (4.0, 2.0), (3.2, 2.4), (2.9, None)]
)
def test_the_general_loss_at_a_domain_loss_lies_between_two_epochs(wanted, general):
    assert at_domain_loss(CURVE, "medical", wanted) == (general and pytest.approx(general))


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ("作为一名律师，我建议您起诉。", True),
        ("作为律师，我认为", True),
        ("作为一位专业的律师", True),
        ("请律师去。", False),
        ("作为一名厨师", False),
    ],
)
def test_the_role_of_a_lawyer_is_told_by_its_words(answer, counts):
    assert (AS_LAWYER.search(answer) is not None) == counts


@pytest.mark.parametrize(
    ("answer", "counts"), [("1. 多喝水。\n2. 早睡。", True), (" 1、好", True), ("多喝水。1. 好", False)]
)
def test_a_list_is_told_by_its_beginning(answer, counts):
    assert is_list(answer) == counts


def test_steps_and_checkpoints_are_counted(tmp_path):
    for step in (10, 5, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "a.jsonl").write_text("{}\n" * 41, encoding="utf-8")

    assert [one.name for one in checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10", "checkpoint-100"]
    assert steps_of(tmp_path / "a.jsonl", 8) == 6
