"""Numbers over time, by hand and as properties."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from limbeck import Cosine, MultiStep, Ramp, Schedule, Warmup, registry
from limbeck.schedules import Clock, value


def clock(step: int, *, steps: int = 8, epochs: int = 4) -> Clock:
    return Clock(step, steps, step * epochs // steps, epochs)


def curve(schedule: Schedule, **settings: int) -> list[float]:
    return [schedule(clock(step, **settings)) for step in range(settings.get("steps", 8))]


def test_ramp_by_step_ends_when_the_last_step_is_done() -> None:
    assert curve(Ramp(1.0, 3.0)) == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75]


def test_ramp_by_epoch_has_arrived_in_the_last() -> None:
    assert curve(Ramp(0.0, 0.8, by="epoch")) == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8])


def test_cosine() -> None:
    assert curve(Cosine(2.0, 1.0))[::4] == [2.0, 1.5]
    assert curve(Cosine(2.0))[2] == 1 + math.cos(math.pi / 4)
    assert Cosine(2.0)(clock(8)) == 0.0


def test_multistep_falls_at_shares_of_the_epochs() -> None:
    falling = MultiStep(1.0, at=(0.5, 0.75), factor=0.5)
    assert curve(falling) == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    paper = MultiStep(0.05, at=(150 / 240, 180 / 240, 210 / 240))
    lrs = [paper(Clock(0, 1, epoch, 240)) for epoch in range(240)]
    assert [epoch for epoch in range(1, 240) if lrs[epoch] != lrs[epoch - 1]] == [150, 180, 210]
    assert lrs[-1] == pytest.approx(0.00005)


def test_warmup_rises_from_above_0_and_then_steps_aside() -> None:
    assert curve(Warmup(1.0, share=0.5)) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    warm, cold = curve(Warmup(Cosine(1.0), share=0.25)), curve(Cosine(1.0))
    assert warm[0] == 0.5 * cold[0]
    assert warm[1:] == cold[1:]
    assert curve(Warmup(1.0, share=0.0)) == [1.0] * 8


def test_a_number_is_a_schedule_that_does_nothing() -> None:
    assert value(0.3, clock(5)) == 0.3
    assert value(Ramp(0.0, 1.0), clock(4)) == 0.5


numbers = st.floats(0.0, 10.0)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(numbers, numbers, st.integers(1, 50), st.integers(1, 10), st.data())
def test_between_start_and_end(start: float, end: float, per_epoch: int, epochs: int, data: st.DataObject) -> None:
    steps = per_epoch * epochs
    now = clock(data.draw(st.integers(0, steps - 1)), steps=steps, epochs=epochs)
    low, high = min(start, end) - 1e-9, max(start, end) + 1e-9
    for schedule in (Ramp(start, end), Ramp(start, end, by="epoch"), Cosine(start, end)):
        assert low <= schedule(now) <= high
    assert 0 < Warmup(1.0, share=0.3)(now) <= 1.0


@pytest.mark.parametrize(
    "schedule", [Ramp(0.0, 1.0, by="epoch"), Cosine(1.0), MultiStep(1.0, at=(0.5,)), Warmup(Cosine(0.1), share=0.1)]
)
def test_prints_as_the_code_that_makes_it(schedule: Schedule) -> None:
    assert registry.read(repr(schedule)) == schedule
    assert hash(registry.read(repr(schedule))) == hash(schedule)
