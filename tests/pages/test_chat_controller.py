"""What the chat page does with a conversation, without a browser: queues, stops, errors, forgetting."""

import pytest

from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.answer.stream import OUT_OF_MEMORY, Beam, Update
from vicuna.errors import UserError
from vicuna.model.flags import ModelFlags
from vicuna.pages import branches, conversation
from vicuna.pages.chat_controller import MAX_MESSAGE_CHARS, ChatController, Editing
from vicuna.pages.chat_queue import MAX_QUEUED
from vicuna.pages.decoding_controls import CHAT_CONTROLS
from vicuna.pages.rendering import chatbot_messages
from vicuna.pages.strings import STRINGS
from vicuna.prompt.templates import PROMPT_TYPES

EN = STRINGS["en"]
TALK = [
    {"role": "user", "content": "一"},
    {"role": "assistant", "content": "壹"},
    {"role": "user", "content": "二"},
    {"role": "assistant", "content": "贰"},
]


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return load_assistant(ModelFlags(model_path=str(tiny_base), bits=32), ServeFlags(max_queue=1))


@pytest.fixture
def controller(assistant):
    return ChatController(assistant, seed=1, typewriter=True)


def values(adapter="", prompt_type="chat", system="", max_memory=2048, all_beams=False, new=8, **changed) -> list:
    """What the controls stand at: greedy answers of `new` tokens."""
    decoding = {**CHAT_CONTROLS.values("precise"), "max_new_tokens": new, "min_new_tokens": new, **changed}
    return [adapter, prompt_type, system, max_memory, all_beams, *decoding.values()]


def say(controller, question, messages=(), session="s", editing=None, **options) -> list[dict]:
    return list(
        controller.send(EN, session, conversation.serialize(list(messages)), question, editing, values(**options))
    )


def after(changes: list[dict]) -> list[dict]:
    """The conversation that the browser has in the end, without notes."""
    return [{"role": m["role"], "content": m["content"]} for m in kept_after(changes).messages]


def kept_after(changes: list[dict]) -> conversation.Kept:
    return conversation.deserialize([change["stored"] for change in changes if "stored" in change][-1])


def test_an_answer_is_what_the_model_says_to_the_prompt(controller, assistant):
    changes = say(controller, "三", TALK)
    question = {"role": "user", "content": "三"}
    chosen = controller.read_settings(values()).generation
    *_, last = assistant.stream(assistant.prompt_ids([*TALK, question], "chat"), chosen)
    assert after(changes) == [*TALK, question, {"role": "assistant", "content": last.text}]
    kept = conversation.deserialize(changes[0]["stored"])
    assert kept[:2] == (TALK, "三")  # a reload meanwhile brings the question back
    assert changes[0]["message"] == {"value": "", "submit_btn": False, "stop_btn": True, "__type__": "update"}
    assert changes[-1]["message"] == {"submit_btn": True, "stop_btn": False, "__type__": "update"}
    assert not controller.answers.is_busy("s")


def test_an_edited_question_takes_the_place_of_its_turn_and_all_that_follow(controller):
    changes = say(controller, "又一", TALK, editing=Editing(0, typed="打了一半"))
    assert next(message["content"] for message in after(changes)) == "又一"
    assert len(after(changes)) == 2
    assert changes[0]["message"]["value"] == "打了一半"  # as it was before the edit
    kept = kept_after(changes)
    assert branches.step(kept, 0, -1).messages[1:] == TALK[1:]  # nothing of it is lost
    assert branches.step(branches.step(kept, 0, -1), 0, 1) == kept


def test_an_edited_answer_is_another_way_and_asks_no_model(controller, busy):
    (changes,) = say(controller, "壹壹", TALK, editing=Editing(0, of_answer=True))
    assert [message["content"] for message in after([changes])] == ["一", "壹壹"]
    assert kept_after([changes]).messages[1]["note"] == EN["edited"]
    assert branches.step(kept_after([changes]), 0, -1).messages[1:] == TALK[1:]


def test_regenerating_asks_the_last_question_once_more(controller):
    first = after(say(controller, "三", TALK))
    changes = list(controller.regenerate(EN, "s", conversation.serialize(first), values()))
    assert after(changes) == first  # greedy
    assert list(controller.regenerate(EN, "s", "", values())) == []


def test_regenerating_with_a_seed_draws_anew_and_a_fresh_start_draws_the_same(controller, assistant):
    drawn = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}

    def first_draw(seed: int) -> str:
        fresh = ChatController(assistant, seed=seed, typewriter=True)
        return after(say(fresh, "三", TALK, **drawn))[-1]["content"]

    def told(changes: list[dict]) -> str:
        return [change["stored"] for change in changes if "stored" in change][-1]

    stored, answers = told(say(controller, "三", TALK, **drawn)), []
    for _ in range(3):
        answers.append(conversation.deserialize(stored)[0][-1]["content"])
        stored = told(list(controller.regenerate(EN, "s", stored, values(**drawn))))
    assert len(set(answers)) == 3
    assert first_draw(1) == answers[0]
    assert [first_draw(1 + n) for n in range(3)] == answers  # the n-th time, seed + n
    # The next question begins with the seed again.
    with_draw = say(controller, "四", conversation.deserialize(stored)[0], **drawn)
    assert "draw" not in conversation.deserialize(told(with_draw))[0][-1]


@pytest.mark.parametrize("how", ["regenerate", "edit"])
def test_what_is_not_answered_anew_keeps_its_old_answer(controller, busy, how):
    stored = conversation.serialize(TALK)
    if how == "edit":
        updates = controller.send(EN, "s", stored, "又一", Editing(0), values())
    else:
        updates = controller.regenerate(EN, "s", stored, values())
    first = next(updates)
    controller.answers.stop("s")
    changes = [first, *updates]
    assert after(changes) == TALK
    shown = [bubble["content"]["text"] for bubble in changes[-2]["chatbot"]]
    assert shown == ["一", "壹", "二", "贰"]
    assert changes[-2]["hint"].startswith(f"⚠ {EN['nothing']}")
    typed = [change["message"]["value"] for change in changes if "value" in change.get("message", {})]
    returned = [change["returned"] for change in changes if "returned" in change]
    assert (typed, returned) == (([""], ["又一"]) if how == "edit" else ([], []))
    editing = [change["editing"] for change in changes if "editing" in change]
    assert editing == [None, Editing(0) if how == "edit" else None]


def test_a_full_queue_is_a_notice_and_the_question_stays(controller, assistant, busy):
    assistant.worker.submit(lambda: None, "another")
    changes = say(controller, "三", TALK)
    notice = changes[-2]
    assert "requests are waiting already" in notice["hint"]
    assert len(notice["chatbot"]) == 4  # what is refused is no answer
    assert notice["returned"] == "三"
    assert conversation.deserialize(notice["stored"])[:2] == (TALK, "")  # it is where it was typed
    assert changes[-1]["message"]["submit_btn"]
    assert not controller.answers.is_busy("s")


def test_who_stops_before_the_first_token_has_the_question_back(controller, busy):
    updates = controller.send(EN, "s", conversation.serialize(TALK), "三", None, values())
    next(updates)
    controller.answers.stop("s")
    changes = list(updates)
    assert "nothing was answered" in changes[0]["hint"]
    assert changes[0]["returned"] == "三"
    assert conversation.deserialize(changes[0]["stored"])[:2] == (TALK, "")


def test_what_is_sent_meanwhile_is_answered_in_order_with_its_own_settings(controller):
    updates = controller.send(EN, "s", "", "一", None, values())
    first = next(updates)
    assert say(controller, "二", new=3) == [{"message": {"value": "", "__type__": "update"}, "hint": EN["waits"]}]
    assert say(controller, "三") == [{"message": {"value": "", "__type__": "update"}, "hint": EN["waits"]}]
    changes = [first, *updates]
    assert [m["content"] for m in after(changes)][::2] == ["一", "二", "三"]
    notes = [m["note"] for m in kept_after(changes).messages[1::2]]
    assert [note.split(" · ")[:2] for note in notes] == [[EN["base_only"], f"{n} tokens"] for n in (8, 3, 8)]
    # What waits is kept too.
    drafts = [conversation.deserialize(change["stored"]).draft for change in changes if "stored" in change]
    assert "一\n二\n三" in drafts
    assert drafts[-1] == ""
    # What is typed while the second is answered is not wiped out.
    wiped = [change for change in changes if change.get("message", {}).get("value") == ""]
    assert wiped == [first]


def test_a_question_that_comes_as_the_answer_ends_is_answered(controller, monkeypatch):
    updates, enqueue = controller.send(EN, "s", "", "一", None, values()), controller.answers.enqueue
    next(updates)
    monkeypatch.setattr(controller.answers, "enqueue", lambda *args: [*updates] and enqueue(*args))
    assert after(say(controller, "三", TALK))[-2]["content"] == "三"


def test_a_question_that_comes_as_another_begins_waits_for_it(controller, monkeypatch):
    updates, begin = controller.send(EN, "s", "", "一", None, values()), controller.answers.begin

    def overtaken(session):
        monkeypatch.setattr(controller.answers, "begin", begin)
        changes.append(next(updates))
        return begin(session)

    changes = []
    monkeypatch.setattr(controller.answers, "begin", overtaken)
    assert [change["hint"] for change in say(controller, "二")] == [EN["waits"]]
    assert [m["content"] for m in after([*changes, *updates])][::2] == ["一", "二"]


def test_only_so_many_wait_and_stop_gives_them_back(controller, busy):
    updates = controller.send(EN, "s", "", "一", None, values())
    next(updates)
    for i in range(MAX_QUEUED):
        assert say(controller, f"等{i}")[0]["hint"] == EN["waits"]
    assert say(controller, "多") == [{"hint": EN["too_many"]}]
    controller.answers.stop("s")
    *_, last = updates
    assert last["returned"] == "\n".join(f"等{i}" for i in range(MAX_QUEUED))
    assert not controller.answers.is_busy("s")


def test_an_abandoned_answer_changes_nothing_any_more(controller):
    updates = controller.send(EN, "s", "", "一", None, values(new=200))
    for _ in range(2):
        next(updates)
    controller.answers.abandon("s")
    assert list(updates) == []
    assert after(say(controller, "另一个"))[0]["content"] == "另一个"


def test_a_closed_tab_ends_its_answer(controller, assistant):
    updates = controller.send(EN, "s", "", "一", None, values(new=300))
    for _ in range(2):
        next(updates)
    updates.close()
    assert not controller.answers.is_busy("s")
    assert assistant.worker.waiting == 0


def test_running_out_of_memory_keeps_what_there_is_and_names_the_remedy(assistant):
    class Exhausted:
        """Stands for an engine on a card that is full."""

        tokenizer, context, max_beams = assistant.tokenizer, assistant.engine.context, 1

        def stream(self, *args, **more):
            yield Update([Beam([5], "半句")], 1, 0.1, 0.1)
            raise UserError(OUT_OF_MEMORY)

    full = type(assistant)(Exhausted(), "base", "GPU", assistant.choices)
    changes = say(ChatController(full, None, True), "一")
    assert after(changes) == [{"role": "user", "content": "一"}, {"role": "assistant", "content": "半句"}]
    assert "lower Max New Tokens" in changes[-2]["chatbot"][-1]["content"]["text"]
    with pytest.raises(UserError, match="4 beams are more than the 1 possible"):
        ChatController(full, None, True).read_settings(values(num_beams=4))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"adapter": "../x"}, "there is no adapter"),
        ({"adapter": None}, "there is no adapter"),
        ({"adapter": ["x"]}, "there is no adapter"),
        ({"system": {"x": 1}}, "there is no adapter"),
        ({"prompt_type": "T4"}, "no prompt type 'T4'"),
        ({"max_memory": -1}, "Max Memory -1"),
        ({"max_memory": float("nan")}, "Max Memory nan"),
        ({"max_memory": "2048"}, "Max Memory '2048'"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"new": 10**9}, "max_new_tokens 1000000000"),
        ({"num_beams": 99}, "99 beams"),
        ({"num_beams": 0}, "num_beams 0"),
        ({"top_k": True}, "top_k True"),
    ],
)
def test_a_value_that_no_control_has_is_refused_in_a_sentence(controller, changed, named):
    (change,) = say(controller, "一", **changed)
    assert named in change["hint"]


def test_a_message_has_a_largest_length(controller):
    (change,) = say(controller, "长" * (MAX_MESSAGE_CHARS + 1))
    assert f"longer than {MAX_MESSAGE_CHARS} characters" in change["hint"]
    assert "message" not in change


def test_a_prompt_type_without_turns_forgets_them_all_and_a_system_prompt_goes_only_where_it_has_a_place(controller):
    asked = [{"role": "system", "content": "简短"}, *TALK, {"role": "user", "content": "三"}]
    found = controller.trim(asked[1:], controller.read_settings(values(prompt_type="text")))
    assert (found.forgotten, found.messages) == (2, asked[-1:])
    assert controller.trim(asked, controller.read_settings(values())).messages == asked
    for prompt_type in PROMPT_TYPES:
        settings = controller.read_settings(values(prompt_type=prompt_type, system=" 简短 "))
        shown = controller.trim(asked, settings).messages
        has_place = prompt_type in ("chat", "chat_eos", "chinese_alpaca")
        assert (settings.system, shown[0]["role"] == "system") == ("简短", has_place)
        changes = say(controller, "三", prompt_type=prompt_type, system="简短")
        assert after(changes)[0] == {"role": "system", "content": "简短"}  # what is not sent is kept
        note = kept_after(changes).messages[-1]["note"]
        assert (f"prompt type {prompt_type} has no place for the system prompt" in note) == (not has_place)
    changes = say(controller, "三", asked[:-1], system="")
    assert after(changes)[0]["role"] == "user"
    assert after(say(controller, "三", TALK, system="详细"))[0] == {"role": "system", "content": "详细"}


def test_what_does_not_fit_is_said_where_the_memory_is_shown(controller):
    shown = controller.show(EN, conversation.Kept(TALK), controller.read_settings(values(max_memory=10)))
    assert "raise Max Memory" in shown["memory"]
    shown = controller.show(EN, conversation.Kept(TALK), controller.read_settings(values(max_memory=300)))
    assert shown["memory"].endswith("/ 300 tokens · 0 turns forgotten (Max Memory 300)")
    shown = controller.show(EN, conversation.Kept(TALK), controller.read_settings(values(max_memory=2048)))
    assert shown["memory"].endswith("(the base's context 512 less 8 for the answer)")
    used, budget = shown["memory"].split("memory ")[1].split(" tokens")[0].split(" / ")
    assert 0 < int(used) < int(budget) == 512 - 8
    assert shown["memory"].count("■") + shown["memory"].count("□") == 10


@pytest.mark.parametrize(("count", "forgotten"), [(c, f) for c in range(5) for f in range(c + 1)])
def test_a_line_stands_between_what_is_forgotten_and_what_is_not(count, forgotten):
    messages = [
        m
        for i in range(count)
        for m in ({"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"})
    ]
    shown = chatbot_messages(EN, messages, forgotten)
    lines = [i for i, bubble in enumerate(shown) if "metadata" in bubble]
    assert lines == ([2 * forgotten] if forgotten else [])
    others = [bubble["content"]["text"] for bubble in shown if "metadata" not in bubble]
    assert others == [message["content"] for message in messages]
    assert conversation.count_turns(messages) == count
    assert conversation.before_turn(messages, count) == messages
