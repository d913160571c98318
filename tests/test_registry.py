"""Names and code: found, made, refused."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import limbeck
from limbeck import CE, KL, SGD, AdamW, Cosine, Objective, Ramp, Schedule, Warmup, registry
from limbeck.errors import SettingError, UnknownName
from limbeck.registry import NEEDS, every, find, make, method, read


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    every()
    before = dict(registry.METHODS)
    yield
    registry.METHODS.clear()
    registry.METHODS.update(before)


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "near"), [("fitnets", "'fitnet'"), ("kdd", "'kd'"), ("fixmach", "'fixmatch'")])
def test_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=rf"no method '{name}'; did you mean .*{near}"):
        find(name)


def test_name_that_is_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(UnknownName, match=r"no method 'zzz'; there is: .*'crd', "):
        make("zzz")


def test_every_is_sorted_and_can_be_narrowed() -> None:
    names = [each.name for each in every()]
    assert len(set(names)) == len(names) >= 11
    families = [each.family for each in every()]
    assert families == sorted(families)
    assert {"kd", "dkd"} <= {each.name for each in every(family="logit")}
    assert all("students" in each.needs for each in every(needs="students"))
    assert "crd" in {each.name for each in every(signal="features")}
    assert {"kd", "dml"}.isdisjoint(each.name for each in every(signal="features"))
    assert [each.name for each in every(family="feature", signal="logits")] == ["fitnet"]
    with pytest.raises(UnknownName, match=r"family='logits'.*did you mean 'logit'"):
        every(family="logits")
    with pytest.raises(UnknownName, match=r"needs='label'.*did you mean 'labels'"):
        every(needs="label")
    with pytest.raises(UnknownName, match=r"signal='feature'.*did you mean 'features'"):
        every(signal="feature")
    with pytest.raises(UnknownName, match=r"needs='teacher'; there is: 'labels', 'students'$"):
        every(family="mutual", needs="teacher")


@pytest.mark.parametrize("each", every(), ids=lambda each: each.name)
def test_every_method_says_what_it_is(each: registry.Method) -> None:
    assert each.paper
    assert each.summary.endswith((".", ":"))
    assert "\n" not in each.summary
    assert len(each.summary) <= 56, "a line of `limbeck methods`, beside the name, in a terminal of 100 columns"
    assert each.needs <= NEEDS.keys()
    required = {name for name, value in each.signature.parameters.items() if value.default is value.empty}
    assert required <= each.example.keys() <= each.signature.parameters.keys()
    assert find(each.name) is each
    assert getattr(limbeck, each.name) is each.build


def test_missing_setting_says_what_to_type() -> None:
    with pytest.raises(SettingError, match=r"fitnet has no default for layer, hint_epochs .*--method\.layer=layer2"):
        find("fitnet")()
    with pytest.raises(SettingError, match=r"no default for hint_epochs .*--method\.hint_epochs=1$"):
        make("fitnet", layer="layer3")


def test_wrong_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"kd has no setting 'tua'; did you mean 'tau'\?"):
        make("kd", tua=4.0)


# ---- registering ----------------------------------------------------------------------------------------------------


def test_registering_is_defining() -> None:
    @method(paper="Ours 2026", needs=("teacher",), example={"weight": 2.0})
    def softly(*, weight: float, tau: float = 4.0) -> Objective:
        """Only the teacher,

        and nothing else.
        """
        return weight * KL(tau)

    assert softly(weight=1.0) == KL(4.0) * 1.0  # it is still a function
    assert make("softly", weight=3.0) == 3.0 * KL(4.0)
    assert read("softly(weight=3.0) + CE()") == 3.0 * KL(4.0) + CE()
    entry = find("softly")
    assert (entry.family, entry.summary, entry.paper) == ("test_registry", "Only the teacher,", "Ours 2026")
    with pytest.raises(SettingError, match=r"no default for weight .*--method\.weight=2\.0"):
        read("softly()")


def test_two_methods_of_one_name_and_methods_without_a_word() -> None:
    with pytest.raises(SettingError, match=r"'kd' is registered already, in limbeck\.methods\.logit"):

        @method(paper="-")
        def kd() -> Objective:
            """Another."""
            return CE()

    with pytest.raises(SettingError, match="'silent' needs a docstring"):

        @method(paper="-")
        def silent() -> Objective:
            return CE()


# ---- code -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnObjective(CE):
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class OwnSchedule(Schedule):
    at: float


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("CE() + 0.9 * KL(4.0)", CE() + 0.9 * KL(4.0)),
        ("KL(tau=1/2) * 2", 2 * KL(0.5)),
        ("-0.5 * CE()", -0.5 * CE()),
        ("0.1 * (CE() + KL())", 0.1 * (CE() + KL())),
        ("Ramp(0.0, 1.0, by='epoch') * CE()", Ramp(0.0, 1.0, by="epoch") * CE()),
        ("kd(tau=2.0, alpha=0.5)", 0.5 * CE() + 0.5 * KL(2.0)),
        ("SGD(Warmup(Cosine(0.1), share=0.1), nesterov=True)", SGD(Warmup(Cosine(0.1), share=0.1), nesterov=True)),
        ("AdamW(1e-3, betas=(0.9, 0.95))", AdamW(1e-3, betas=(0.9, 0.95))),
        ("OwnSchedule(0.5) * OwnObjective((1.0, -2.0))", OwnSchedule(0.5) * OwnObjective((1.0, -2.0))),
        ("  CE()  ", CE()),
    ],
)
def test_reads_values(code: str, value: object) -> None:
    assert read(code) == value


@pytest.mark.parametrize(
    "code",
    [
        "CE().__class__",
        "KL(tau=CE().couples)",
        "__import__('os').system('true')",
        "__import__('os')",
        "eval('1')",
        "open('x')",
        "lambda: 1",
        "(lambda: CE())()",
        "[CE() for _ in (1,)]",
        "[CE()]",
        "{'a': 1}",
        "CE() if 1 else KL()",
        "KL(**{'tau': 1.0})",
        "KL(*(1.0,))",
        "f'{CE()}'",
        "CE",
        "x := CE()",
        "CE() - KL()",
        "2 ** 1000000",
        "(1.0, 2.0)[0]",
        "1 < 2",
        "(1 / 0) * CE()",
        "import os",
        "CE(); KL()",
        "CE() +",
        "",
    ],
)
def test_nothing_else_is_read(code: str) -> None:
    with pytest.raises((SettingError, UnknownName)):
        read(code)


def test_unknown_name_in_code_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"'Raamp' in 'Raamp.*' is no objective.*did you mean 'Ramp'"):
        read("Raamp(0, 1) * CE()")
    with pytest.raises(UnknownName, match="'os' in"):
        read("os(1)")


def test_wrong_arguments_in_code_show_the_signature() -> None:
    with pytest.raises(SettingError, match=r"KL in 'KL\(temperature=2\.0\)': .*it is KL\(tau: .*= 1\.0\)"):
        read("KL(temperature=2.0)")
    with pytest.raises(SettingError, match="does not make a method"):
        read("CE() + 1")
    with pytest.raises(SettingError, match="kd has no setting 'tua'; did you mean 'tau'"):
        read("kd(tua=4.0)")


def test_make_takes_names_and_code() -> None:
    assert make("kd", tau=2.0, alpha=0.5) == make("kd(tau=2.0, alpha=0.5)") == read("0.5 * CE() + 0.5 * KL(2.0)")
    with pytest.raises(SettingError, match=r"settings \['tau'\] go inside the code"):
        make("kd(alpha=0.5)", tau=2.0)
    with pytest.raises(SettingError, match="is a SGD, not something to learn from"):
        make("SGD(0.1)")
