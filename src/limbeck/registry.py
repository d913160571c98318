"""Named methods: registering is defining. `find` and `make` by name, `read` from code."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import SettingError, UnknownName, nearest
from limbeck.objective import Objective

Build = TypeVar("Build", bound=Callable[..., Objective])

#: What a run must bring.
NEEDS = {
    "teacher": "a teacher",
    "teachers": "two teachers or more",
    "students": "two students or more",
    "labels": "labels",
    "unlabelled": "unlabelled examples",
    "strong": "a strongly augmented view",
    "sequences": "sequences of tokens",
    "tokenizers": "texts in the student's and the teacher's tokens",
    "wrong": "right and wrong answers, as masks of these names",
}

#: What a method learns from: found by experiment, see docs/facts.py.
SIGNALS = {
    "labels": "labels",
    "logits": "a teacher's logits",
    "features": "a teacher's embedding or layers",
    "peers": "other students",
    "itself": "the student's own answers",
}


@dataclass(frozen=True)
class Entry:
    """A published system: the function that runs it, and its source."""

    name: str
    family: str
    build: Callable[..., Any]
    paper: str

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return inspect.getdoc(self.build).split("\n\n")[0].replace("\n", " ")  # type: ignore[union-attr]

    @property
    def home(self) -> str:
        """The module that says what its family is."""
        return self.build.__module__

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was found by running it: "signals" (some of `SIGNALS`), "parity", "effect", "cost"; {} for your own."""
        return known_facts().get(self.name, {})

    @property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.build, eval_str=False)


@dataclass(frozen=True)
class Tool(Entry):
    """One that is no objective. does: in one sentence."""

    does: str

    @property
    def summary(self) -> str:
        return self.does

    @property
    def home(self) -> str:
        return f"limbeck.methods.{self.family}"

    @property
    def path(self) -> str:
        """What to import."""
        return f"{self.build.__module__}.{self.build.__name__}"


@dataclass(frozen=True)
class Method(Entry):
    """A named composition.

    needs: some of `NEEDS`. example: settings for the ones that have no default.
    """

    needs: frozenset[str] = frozenset()
    example: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **settings: Any) -> Objective:
        """Build it; a wrong or missing setting is answered with the right ones."""
        known = self.signature.parameters
        for name in settings:
            if name not in known:
                raise SettingError(f"{self.name} has no setting {name!r}; {nearest(name, known)}")
        missing = [name for name, each in known.items() if each.default is each.empty and name not in settings]
        if missing:
            typed = " ".join(f"--method.{name}={self.example.get(name, '...')}" for name in missing)
            raise SettingError(
                f"{self.name} has no default for {', '.join(missing)} (the paper gives none): say e.g. {typed}"
            )
        objective: Objective = self.build(**settings)
        return objective


METHODS: dict[str, Method] = {}
TOOLS: dict[str, Tool] = {}


@cache
def known_facts() -> dict[str, dict[str, Any]]:
    """methods/facts.json, which docs/build.py writes from bench/results, tests/parity and the methods themselves."""
    facts: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "methods/facts.json").read_text())
    return facts


def method(
    *, paper: str, needs: Iterable[str] = (), example: Mapping[str, Any] | None = None
) -> Callable[[Build], Build]:
    """Register a function `(**settings) -> Objective` under its own name, in the family of its file."""

    def register(build: Build) -> Build:
        name = build.__name__
        if name in METHODS:
            raise SettingError(f"a method {name!r} is registered already, in {METHODS[name].build.__module__}")
        if not build.__doc__:
            raise SettingError(f"method {name!r} needs a docstring: its first sentence is what users see")
        family = build.__module__.rpartition(".")[2].strip("_")
        METHODS[name] = Method(name, family, build, paper, frozenset(needs), dict(example or {}))
        return build

    return register


def tool(build: Callable[..., Any], *, does: str, paper: str, name: str | None = None) -> None:
    """Enter a function that is no objective in the catalogue."""
    name = name or build.__name__
    TOOLS[name] = Tool(name, "tools", build, paper, does)


def entry(name: str) -> Method | Tool:
    """The method or tool of this name; an unknown one is answered with the nearest."""
    import limbeck.methods  # noqa: F401 - they register themselves

    there = METHODS | TOOLS
    if name not in there:
        raise UnknownName(f"no method {name!r}; {nearest(name, there)}")
    return there[name]


def find(name: str) -> Method:
    """The method of this name; a tool's or an unknown one is answered with what to type."""
    found = entry(name)
    if isinstance(found, Tool):
        raise UnknownName(f"{name} is nothing to train by, but a function to call: {found.path}")
    return found


def every(*, family: str | None = None, needs: str | None = None, signal: str | None = None) -> list[Method]:
    """All methods, sorted by family and name; or those of one family, with one need, that learn from one signal.

    Raises UnknownName, with the nearest right one, where there is none such.
    """
    import limbeck.methods  # noqa: F401

    chosen = sorted(METHODS.values(), key=lambda m: (m.family, m.name))
    asked: list[tuple[str, str | None, Callable[[Method], Iterable[str]]]] = [
        ("family", family, lambda m: (m.family,)),
        ("needs", needs, lambda m: m.needs),
        ("signal", signal, lambda m: m.facts.get("signals", ())),
    ]
    for name, value, of in asked:
        if value is None:
            continue
        there = {each for m in chosen for each in of(m)}
        if value not in there:
            raise UnknownName(f"no such method with {name}={value!r}; {nearest(value, there)}")
        chosen = [m for m in chosen if value in of(m)]
    return chosen


def tools() -> list[Tool]:
    """All systems that are no objective, by name."""
    import limbeck.methods  # noqa: F401

    return [TOOLS[name] for name in sorted(TOOLS)]


def catalogue() -> list[Method | Tool]:
    """All methods and tools."""
    return [*every(), *tools()]


def vocabulary() -> dict[str, Callable[..., Any]]:
    """All names that code may use: objectives, schedules, weights and optimisers, a user's own too, and methods."""
    import limbeck.blocks  # noqa: F401 - so that they exist
    from limbeck import optim, schedules, weights

    found: dict[str, Callable[..., Any]] = {}
    for module in (optim, weights):
        found |= {name: each for name, each in vars(module).items() if is_dataclass(each) and isinstance(each, type)}
    for base in (Objective, schedules.Schedule):
        found |= {each.__name__: each for each in subclasses(base)}
    return found | {each.name: each for each in every()}


def subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for each in base.__subclasses__():
        yield each
        yield from subclasses(each)


def make(name: str, **settings: Any) -> Objective:
    """`make("kd", tau=4.0)`, or `make("CE() + 0.9 * KL(4.0)")`: a method by name, or by the code that makes it."""
    if "(" in name:
        objective = read(name)
        if settings:
            raise SettingError(f"settings {sorted(settings)} go inside the code {name!r}")
        if not isinstance(objective, Objective):
            raise SettingError(f"{name!r} is a {type(objective).__name__}, not something to learn from")
        return objective
    return find(name)(**settings)


def read(code: str) -> Any:
    """The value that a piece of code makes: calls of Limbeck's public names, numbers, texts, tuples, `+` and `*`.

    Nothing else runs, so a run.yaml from a stranger is harmless. `read(repr(objective)) == objective`.
    """
    known = vocabulary()

    def walk(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return walk(body)
            case ast.Constant(value=constant):
                return constant
            case ast.Tuple(elts=parts):
                return tuple(map(walk, parts))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return walk(left) + walk(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return walk(left) * walk(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return walk(left) / walk(right)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                if name not in known:
                    raise UnknownName(
                        f"{name!r} in {code!r} is no objective, schedule or method; {nearest(name, known)}"
                    )
                if any(each.arg is None for each in keywords):
                    raise SettingError(f"** in {code!r}: write the settings out")
                named = {str(each.arg): walk(each.value) for each in keywords}
                try:
                    return known[name](*map(walk, args), **named)
                except TypeError as error:
                    raise SettingError(
                        f"{name} in {code!r}: {error}; it is {name}{inspect.signature(known[name])}"
                    ) from error
            case _:
                raise SettingError(
                    f"{ast.unparse(node)!r} in {code!r}: only calls, numbers, texts, tuples, + and * are read"
                )

    try:
        return walk(ast.parse(code.strip(), mode="eval"))
    except (SyntaxError, TypeError, ArithmeticError) as error:
        raise SettingError(f"{code!r} does not make a method: {error}") from error
