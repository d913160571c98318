import pytest
import torch

from limbeck.answers import Answers
from limbeck.errors import DataError, SettingError
from limbeck.teachers import as_teacher


def test_looked_up_by_id_on_every_view() -> None:
    p = torch.tensor([[0.0, 1.0], [0.25, 0.5], [0.9, 0.1]])
    teacher = as_teacher(Answers(p))
    for view in ("x", "strong"):
        found = teacher(None, view, torch.tensor([2, 0])).logits
        assert found.isfinite().all()
        torch.testing.assert_close(found.sigmoid(), p[[2, 0]], atol=1e-5, rtol=0)


def test_what_it_refuses() -> None:
    with pytest.raises(DataError, match="probabilities"):
        Answers(torch.tensor([[1.5]]))
    with pytest.raises(SettingError, match="logits only"):
        Answers(torch.rand(2, 2)).read([".embedding"])
