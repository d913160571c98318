import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.data.masking import semi_autoregressive
from limbeck.errors import SettingError
from tests.strategies import few


def answer(*lengths: int, prompt: int = 2, width: int = 30) -> Tensor:
    place = torch.arange(width) - prompt
    return (place >= 0) & (place < torch.tensor(lengths)[:, None])


@few
@given(st.lists(st.integers(0, 25), min_size=1, max_size=5), st.integers(1, 12), st.integers(0, 10**6))
def test_a_block_is_learnt_once_and_what_follows_is_hidden(lengths: list[int], block: int, seed: int) -> None:
    tokens = answer(*lengths)
    u = torch.rand(len(lengths), 31, generator=torch.Generator().manual_seed(seed))
    first, second, after = semi_autoregressive(tokens, u, block=block)
    assert not (first & second).any()
    learnt = first | second
    assert not (learnt & after).any()
    assert not ((learnt | after) & ~tokens).any()
    for row, length in enumerate(lengths):
        places = (learnt[row].nonzero().flatten() - 2).tolist()
        behind = (after[row].nonzero().flatten() - 2).tolist()
        if places:
            assert places[0] % block == 0
            assert places == list(range(places[0], min(places[0] + block, length)))
            assert behind == list(range(places[-1] + 1, length))
        else:
            assert length == 0
            assert not behind


def test_blocks_and_tokens_by_hand() -> None:
    tokens, u = answer(5, 5, 5, prompt=1, width=6), torch.zeros(3, 7)
    u[:, 0] = torch.tensor([0.0, 0.5, 0.99])  # of three blocks: the first, the second, the single token left
    u[:, 3] = 0.9
    first, second, after = semi_autoregressive(tokens, u, block=2)
    assert first.int().tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert second.int().tolist() == [[0, 0, 1, 0, 0, 0], [0] * 6, [0] * 6]
    assert after.int().tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0] * 6]


def test_half_of_the_tokens_are_hidden_first() -> None:
    tokens = answer(*[25] * 400)
    u = torch.rand(400, 31, generator=torch.Generator().manual_seed(0))
    first, second, _ = semi_autoregressive(tokens, u, block=5, ratio=0.2)
    share = first.sum() / (first | second).sum()
    assert abs(share.item() - 0.2) < 0.05
    with pytest.raises(SettingError, match="block=0"):
        semi_autoregressive(tokens, u, block=0)
