"""The ways that a conversation went: no edit, deletion or step loses one."""

import random

from vicuna.pages import branches
from vicuna.pages.conversation import Kept, count_turns, deserialize, serialize

SYSTEM = {"role": "system", "content": "简短"}


def turn(n: int) -> tuple[dict, dict]:
    return {"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}


def texts_of(ways) -> set[str]:
    found = set()
    for way in ways:
        for message in way:
            found |= {message["content"], *texts_of(message.get("others", [])), *texts_of(message.get("after", []))}
    return found


def shown(kept: Kept) -> list[str]:
    return [message["content"] for message in kept.messages if message["role"] == "user"]


def test_a_way_put_aside_is_gone_again_with_all_that_followed():
    kept = Kept([SYSTEM])
    for n in range(3):
        kept = branches.add(kept, n, *turn(n))
    edited = branches.add(kept, 1, *turn(8))
    assert shown(edited) == ["q0", "q8"]
    assert branches.ways_at(edited, 1)[1] == 1
    back = branches.step(edited, 1, -1)
    assert shown(back) == ["q0", "q1", "q2"]
    assert branches.step(back, 1, 1) == edited
    assert branches.step(back, 1, -1) == back  # there is none before
    cut = branches.cut(back, 0)
    assert (cut.messages, branches.put_aside(cut)) == ([SYSTEM], 1)
    assert branches.step(cut, 0, 0) == back
    # What is said next stands beside what was put aside, which is put aside no more.
    other = branches.add(branches.cut(kept, 2), 2, *turn(9))
    assert branches.put_aside(branches.cut(kept, 2)) == 1
    assert branches.put_aside(other) == 0
    assert shown(branches.step(other, 2, -1)) == ["q0", "q1", "q2"]


def test_the_same_question_and_answer_again_are_no_other_way():
    kept = branches.add(Kept([]), 0, *turn(0))
    again = branches.add(kept, 0, turn(0)[0], {**turn(0)[1], "draw": 1})
    assert branches.ways_at(again, 0) == ([[turn(0)[0], {**turn(0)[1], "draw": 1}]], 0)
    # What was put aside behind it stays.
    cut = branches.cut(branches.add(kept, 1, *turn(1)), 1)
    assert branches.put_aside(branches.add(cut, 0, *turn(0))) == 1


def test_in_any_order_nothing_is_lost_and_what_is_kept_reads_back():
    chance, kept, asked = random.Random(0), Kept([]), 0
    for _ in range(300):
        turns = count_turns(kept.messages)
        at = chance.randrange(turns) if turns else 0
        match chance.randrange(4):
            case 0:
                kept = branches.add(kept, turns, *turn(asked))
                asked += 1
            case 1 if turns:
                kept = branches.add(kept, at, *turn(asked))
                asked += 1
            case 2 if turns or kept.aside:
                kept = branches.step(kept, at if turns else 0, chance.choice([-1, 1]))
            case 3 if turns and asked < 60:
                kept = branches.cut(kept, at)
        assert texts_of([kept.messages, *kept.aside]) == {f"{who}{n}" for n in range(asked) for who in "qa"}
        assert deserialize(serialize(kept.messages, aside=kept.aside)) == kept
