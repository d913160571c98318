"""What is known of a method, as the terminal and the docs show it."""

import importlib
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from docs.facts import CASES, owner, signals
from limbeck import CE, KL, Objective, registry, show
from limbeck.cards import about, card
from limbeck.errors import UnknownName
from limbeck.registry import catalogue, entry, every, find, method, tools


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = {each.name: each for each in every()}
    yield
    registry.METHODS.clear()
    registry.METHODS.update(before)


def rows(name: str, **facts: Any) -> dict[str, str]:
    return dict(card(find(name), facts).rows)


@pytest.mark.parametrize("each", every(), ids=lambda each: each.name)
def test_every_method_has_an_equation(each: registry.Method) -> None:
    made = card(each)
    assert made.equation
    assert made.does == each.summary
    assert registry.read(dict(made.rows)["is"]) == each(**each.example)
    assert len(about(each)) <= 64
    assert each.facts["signals"]


@pytest.mark.parametrize("each", tools(), ids=lambda each: each.name)
def test_every_tool_has_a_card(each: registry.Tool, capsys: pytest.CaptureFixture[str]) -> None:
    made = card(entry(each.name))
    module, _, name = dict(made.rows)["is"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is each.build
    assert made.does == each.summary
    assert made.notes
    assert len(each.summary) <= 60
    with pytest.raises(UnknownName, match=rf"{each.name} is .* a function to call: {each.path}"):
        find(each.name)
    show.method(each.name)
    assert each.summary in capsys.readouterr().out


def test_own_method_has_a_card_too(capsys: pytest.CaptureFixture[str]) -> None:
    @method(paper="Ours 2026", needs=("teacher",), example={"weight": 2.0})
    def softly(*, weight: float, kind: Literal["a", "b"] = "a") -> Objective:
        """Only the
        teacher.

        loss = weight KL(p || q)
        p: the teacher's

        kind: of no
        importance.
        """
        return weight * KL()

    made = card(find("softly"))
    assert made.call == "softly(weight: float, kind: Literal['a', 'b'] = 'a')"
    assert card(find("kd")).call == "kd(tau: float = 4.0, alpha: float = 0.9)"
    assert made.does == "Only the teacher."
    assert made.equation == "loss = weight KL(p || q)\np: the teacher's"
    assert made.notes == "kind: of no importance."
    facts = {"needs": "a teacher", "example": "softly(weight=2.0)", "is": "2.0 * KL(tau=1.0)", "source": "Ours 2026"}
    assert dict(made.rows) == facts
    show.method("softly")
    show.methods(family="test_cards", signal=None, needs=None)
    assert "weight KL(p || q)" in capsys.readouterr().out


def test_method_of_one_sentence_has_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    @method(paper="-")
    def short() -> Objective:
        """Short."""
        return CE()

    assert dict(card(find("short")).rows) == {"needs": "nothing", "is": "CE()"}
    show.method("short")
    assert "notation" not in capsys.readouterr().out


def test_measurements_read_as_sentences() -> None:
    found = {
        "figure": "ECE in %",
        "better": "less",
        "difference": [-1.234, -2.0, -0.31],
        "baseline": "dml",
        "claim": "better calibrated",
        "reproduced": "yes",
        "seeds": 5,
    }
    said = rows("bd_kd", effect=found)["effect"]
    assert said == (
        "ECE in % -1.23 (-2 to -0.31) against dml, less is better; mean and 95 % interval of 5 seeds. "
        "Claim: better calibrated: reproduced"
    )
    for verdict in ("no", "undecided"):
        assert not rows("bd_kd", effect=found | {"reproduced": verdict})["effect"].endswith(": reproduced")
    assert "1.5 x the time" in rows("bd_kd", cost={"time": 1.52, "memory": 1.0})["cost"]


def test_parity_says_with_what() -> None:
    cases = [
        {"case": "dkd", "with": "the authors' DKD.py", "tolerance": "1e-6"},
        {"case": "own", "with": None, "tolerance": "1e-6"},
    ]
    assert rows("dkd", parity=cases)["parity"] == (
        "agrees to 1e-6 with the authors' DKD.py (case dkd); agrees to 1e-6 with the paper's equations, as we know of "
        "no code by the authors (case own)"
    )


def test_parity_cases_belong_to_methods() -> None:
    owners = {case: owner(case) for case in CASES}
    assert {owners["dice"], owners["dice-binary"], owners["anyloss-acc"]} == {"dice", "dice_binary", "anyloss"}
    assert owner("kdd") is None
    assert None not in owners.values()
    assert (owners["cce"], owners["dc-pdd"]) == ("cce", "dc_pdd")
    assert "case sinkd" in dict(card(find("sinkd")).rows)["parity"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("kd", ["labels", "logits"]),
        ("llkd", ["logits"]),  # for which labels are not looked at
        ("rkd", ["labels", "features"]),
        ("distill_nearest", ["labels", "logits", "features"]),  # which only choose the teacher
        ("dml", ["labels", "peers"]),
        ("ps_kd", ["labels"]),
    ],
)
def test_signals_are_found_by_experiment(name: str, found: list[str]) -> None:
    assert signals(find(name)) == found


def test_list_names_what_each_learns_from(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(columns: int, **wishes: str | None) -> dict[str, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        show.methods(**{"family": None, "signal": None, "needs": None} | wishes)
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: line for line in lines if line.startswith("  ") and line[2:3].strip()}

    found = listed(100)
    assert found.keys() == {each.name for each in catalogue()}
    assert listed(100, family="tools").keys() == {each.name for each in tools()}
    assert "zip_fit" not in listed(100, needs="teacher")
    assert find("kd").summary in found["kd"]
    assert "(labels), logits" in found["kd"]
    assert "labels, logits" in found["dkd"]
    assert "unlabelled" in listed(140, family="semi")["fixmatch"]
    assert listed(60, signal="features", family="feature").keys() == {"fitnet", "attention_transfer"}
