import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import SGD
from limbeck.data import Data
from limbeck.data.domains import domain_shares
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import DataError, SettingError
from limbeck.methods.language import ddk
from limbeck.models.gpt import GPT
from limbeck.procedures.domains import Mixture
from tests.conformance import Saver, differences, ending, seeded, trained

DOMAINS = ("the cat sat on the mat. ", "0123456789", "def f(x):\n    return x\n")
LENGTH = 16


def tokens(text: str, blocks: int) -> Tokens:
    return Tokens.packed([text * (1 + blocks * LENGTH // len(text))], Bytes(), LENGTH)


def gpt() -> GPT:
    return GPT(Bytes.vocab_size, width=16, depth=1, heads=2)


def taught() -> GPT:
    """Knows the digits alone."""
    teacher = seeded(1, gpt)
    optimizer = torch.optim.Adam(teacher.parameters(), 0.02)
    ids = tokens(DOMAINS[1], 8).x["input_ids"]
    for _ in range(60):
        logits = teacher(ids).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return teacher


TEACHER = taught()


def run_of(**fields: Any) -> Mixture:
    parts = [tokens(text, 4 + 4 * i) for i, text in enumerate(DOMAINS)]
    ids = torch.cat([part.x["input_ids"] for part in parts])
    given: dict[str, Any] = {
        "student": seeded(0, gpt),
        "teacher": copy.deepcopy(TEACHER),
        "data": Tokens({"input_ids": ids}, ids, Bytes()),
        "domain": torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)]),
        "held_out": [tokens(text, 2) for text in DOMAINS],
        "method": ddk(),
        "steps": 6,
        "batch_size": 8,
        "epochs": 3,
        "optimizer": SGD(0.1),
        "accelerator": "cpu",
    }
    return Mixture(**given | fields)


def by_domain(run: Mixture, epoch: int) -> Tensor:
    return torch.bincount(run.domain[torch.cat(run.plan(epoch))], minlength=3)


def test_the_domain_where_the_teacher_knows_more_gets_the_largest_share() -> None:
    run = run_of(steps=500)
    run.setup()
    assert run.shares.argmax() == 1
    shares = by_domain(run, 0) / (500 * 8)
    torch.testing.assert_close(shares.double(), run.shares, atol=0.03, rtol=0)


def test_shares_follow_the_paper_from_epoch_to_epoch() -> None:
    run = run_of(epochs=2)
    run.setup()
    before = run.shares.clone()
    torch.testing.assert_close(before, domain_shares(run.cross_entropies("student"), run.teacher_ce))
    trained(run)
    middle = run_of(epochs=1)
    trained(middle)
    once = domain_shares(middle.cross_entropies("student"), run.teacher_ce, before)
    torch.testing.assert_close(middle.shares, once)
    torch.testing.assert_close(run.shares, domain_shares(run.cross_entropies("student"), run.teacher_ce, once))


def test_each_domain_is_gone_through_before_an_example_comes_again() -> None:
    run = run_of(steps=4)
    run.setup()
    drawn = torch.cat(run.plan(0))
    assert [len(ids) for ids in run.plan(0)] == [8] * 4
    for domain in range(3):
        members = (run.domain == domain).nonzero().flatten()
        times = torch.bincount(drawn, minlength=len(run.domain))[members]
        assert times.max() - times.min() <= 1
    assert torch.equal(drawn, torch.cat(run.plan(0)))
    assert not torch.equal(drawn, torch.cat(run.plan(1)))


def test_resumes_to_the_bit(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    wanted = ending(trained(run_of(watcher=saver)))
    assert "shares" in wanted["bundle"]
    for path in saver.paths:
        run = run_of(student=seeded(7, gpt))
        run.setup()
        run.load(path)
        assert differences(ending(trained(run)), wanted) == [], path.name


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(DataError, match="2 held-out sets"):
        run_of(held_out=run_of().held_out[:2]).setup()
    with pytest.raises(SettingError, match="0 teachers"):
        run_of(teacher=None, method=ddk(gamma=0.0).terms[0]).setup()
    with pytest.raises(DataError, match="with labels"):
        run_of(held_out=[Data({"input_ids": torch.zeros(2, 4, dtype=torch.long)})] * 3).setup()
