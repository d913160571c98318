"""Runs on examples of several domains, whose shares move to where the student is behind its teacher.

run = Mixture(student=student, teacher=teacher, data=data, method=ddk(), domain=domain, held_out=[a, b, c])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.data import UNLABELLED, Data, mixed
from limbeck.data.domains import domain_shares
from limbeck.errors import DataError, SettingError
from limbeck.evaluate import evaluating
from limbeck.losses.logit import cross_entropy
from limbeck.run import Run
from limbeck.schedules import Clock
from limbeck.step import Player

__all__ = ["Mixture"]


@dataclass(eq=False, kw_only=True)
class Mixture(Run):
    """A run in which each example's domain is drawn by the domains' shares, and then the example from its domain, which
    is gone through in a new order each time. After each epoch the shares are set anew by `domain_shares` (Liu et al.
    2024, DDK, algorithm 1). They are saved with the run. Meant for a student that is trained already, as in the paper:
    one whose perplexity is many times the teacher's begins with a single domain.

    domain: (n,) int64, the number of each example's domain, from 0. held_out: examples with labels of each, the paper's
    500; both models are asked about them, in eval mode. alpha: in [0, 1]; the least share is (1 - alpha) / domains.
    steps: of an epoch; the paper's 1000.
    """

    domain: Tensor
    held_out: Sequence[Data]
    alpha: float = 0.5
    steps: int = 1000

    @property
    def shares(self) -> Float[Tensor, " domains"]:
        """Of the current epoch."""
        return self.bundle.get_buffer("shares")

    def setup(self) -> None:
        if hasattr(self, "teacher_ce"):
            return
        super().setup()
        if self.unlabelled is not None or len(self.teachers) != 1 or self.steps < 1:
            raise SettingError(
                f"a mixture of domains has one teacher, at least 1 step and no unlabelled=; got {len(self.teachers)} "
                f"teachers, steps={self.steps}, unlabelled={self.unlabelled}"
            )
        counts = torch.bincount(self.domain, minlength=len(self.held_out))
        if len(self.domain) != self.train_data.num_examples or len(counts) != len(self.held_out) or counts.min() == 0:
            raise DataError(
                f"{len(self.domain)} examples in {counts.tolist()} by domain, data of "
                f"{self.train_data.num_examples} and {len(self.held_out)} held-out sets: give each example a domain, "
                f"and each domain examples of both"
            )
        self.teacher_ce = self.cross_entropies("teacher")
        self.bundle.register_buffer("shares", domain_shares(self.cross_entropies("student"), self.teacher_ce))

    def plan(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
        drawn = self.shares.cpu().multinomial(self.steps * self.batch_size, replacement=True, generator=generator)
        ids = torch.empty_like(drawn)
        for number in range(len(self.held_out)):
            members, places = ((each == number).nonzero().flatten() for each in (self.domain, drawn))
            passes = -(-len(places) // len(members))
            orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(passes)]
            if orders:
                ids[places] = torch.cat(orders)[: len(places)]
        return list(ids.split(self.batch_size))

    def end_epoch(self, clock: Clock, started: float) -> None:
        now = domain_shares(self.cross_entropies("student"), self.teacher_ce, self.shares, alpha=self.alpha)
        self.shares.copy_(self.fabric.broadcast(now))
        super().end_epoch(clock, started)

    def cross_entropies(self, role: str) -> Float[Tensor, " domains"]:
        """Mean of each domain's held-out rows in nats, of the first student or the teacher."""
        net = self.students[0] if role == "student" else self.teachers[0]
        means = []
        with evaluating(net), torch.no_grad():
            for data in self.held_out:
                total = rows = 0.0
                for raw in data.batches(list(torch.arange(data.num_examples).split(self.batch_size))):
                    player = Player(self.moved(raw), role, net)
                    y = player.batch.row_labels
                    if y is None:
                        raise DataError("perplexities are of labels: give held-out data with labels")
                    total += float(cross_entropy(player("x").logits, y).double().sum())
                    rows += float((y != UNLABELLED).sum())
                means.append(total / rows)
        return torch.tensor(means, dtype=torch.double, device=self.fabric.device)
