"""States, attention, masked tokens and scores of pairs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import SGD, Data, Run, registry
from limbeck.blocks.transfer import AttentionMSE, HiddenMSE, MaskedLM, PairScores
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import SettingError, ShapeError, SignalError
from limbeck.models.gpt import GPT
from limbeck.signals import as_net
from tests import pipelines
from tests.parity.encoders import trans_encoder_case
from tests.parity.test_parity import CASES

PAIRS = [("1+1=", "2"), ("12+30=", "42"), ("a", "abcabc"), ("", "xyz")]


def gpt(seed: int, **settings: Any) -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT(257, **{"width": 8, "depth": 2, "heads": 2, **settings})


def step_of(method: Any, student: nn.Module, teacher: nn.Module | None, data: Data | None = None) -> Any:
    """The step of the whole data, and the method's state."""
    data = data or Tokens.pairs(PAIRS, Bytes(), 12)
    run = Run(student=student, teacher=teacher, data=data, method=method, epochs=1, accelerator="cpu")
    return pipelines.step_of(run, len(data)), run.bundle.state


# ---- signals of a GPT -----------------------------------------------------------------------------------------------


def test_attention_of_a_gpt_is_what_it_mixes_by() -> None:
    net, plain = as_net(gpt(0)), gpt(0)
    net.read([".hidden.1", ".attention.1", ".attention"])
    ids = torch.randint(257, (3, 5))
    output, bare = net({"input_ids": ids}), plain(ids)
    torch.testing.assert_close(output.logits, bare.logits)
    assert set(bare.signals) == {".embedding"} | ({".logits"} & set(bare.signals))
    assert output[".attention.1"].shape == (3, 2, 5, 5)
    assert torch.equal(output[".attention.1"], output.attention[1])
    torch.testing.assert_close(output[".attention.1"].sum(-1), torch.ones(3, 2, 5))
    assert not output[".attention.1"].triu(1).any()
    torch.testing.assert_close(output[".hidden.1"], hooked(plain, "blocks.0", ids))


def hooked(model: nn.Module, layer: str, ids: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    model(ids)
    handle.remove()
    return kept[0]


def test_a_layer_that_there_is_not() -> None:
    net = as_net(gpt(0))
    net.read([".hidden.3"])
    with pytest.raises(SignalError, match=r"gives 3 '\.hidden', and '\.hidden\.3' was asked for"):
        net({"input_ids": torch.zeros(1, 2, dtype=torch.long)})


# ---- states and attention -------------------------------------------------------------------------------------------


def real_tokens(data: Tokens) -> Iterator[tuple[int, int]]:
    for row, (prompt, completion) in enumerate(PAIRS):
        yield row, min(max(len(prompt), 1) + len(completion) + 1, data.y.shape[1])  # type: ignore[union-attr]


def test_hidden_by_loops_without_padding() -> None:
    student, teacher = gpt(0), gpt(1, width=12, depth=4)
    step, state = step_of(HiddenMSE(((".hidden.1", ".hidden.2"),)), student, teacher)
    term = HiddenMSE(((".hidden.1", ".hidden.2"),)).loss(step, state)["hidden/1"]
    ids = step.batch.inputs["input_ids"]
    ours, theirs = state[0](hooked(student, "blocks.0", ids)), hooked(teacher, "blocks.1", ids)
    for place, i in enumerate(step.batch.index.tolist()):
        n = dict(real_tokens(step.run.train_data))[i]
        expected = sum((ours[place, t] - theirs[place, t]).square().mean() for t in range(n)) / n
        torch.testing.assert_close(term.value[place], expected)
    assert term.where == "sequences"


def test_attention_by_loops_where_the_teacher_looks() -> None:
    student, teacher = gpt(0), gpt(1, width=12)
    step, state = step_of(AttentionMSE((".attention.1",), nonzero=True), student, teacher)
    a, b = (player.whole("x")[".attention.1"] for player in (step.student, step.teacher))
    value, every = (AttentionMSE((".attention.1",), nonzero).loss(step, state)["attention/1"].value
                    for nonzero in (True, False))  # fmt: skip
    for place, i in enumerate(step.batch.index.tolist()):
        n = dict(real_tokens(step.run.train_data))[i]
        away = (a[place] - b[place]).square()
        squares = [away[h, s, t] for h in range(2) for s in range(n) for t in range(s + 1)]
        torch.testing.assert_close(value[place], sum(squares) / len(squares))
        torch.testing.assert_close(every[place], sum(squares) / (2 * n * n))


def test_svd_keeps_what_spreads_most() -> None:
    teacher = gpt(1, width=12)
    teacher.embed.weight.data[:, 4:] *= 1e-4  # its states lie in four directions
    step, state = step_of(HiddenMSE((".hidden.0",), "svd"), gpt(0, width=4, heads=1), teacher)
    v = state[0]
    torch.testing.assert_close(v.T @ v, torch.eye(4))
    states = teacher.embed(step.batch.inputs["input_ids"])
    torch.testing.assert_close(states @ v @ v.T, states, rtol=0, atol=1e-3 * float(states.abs().max()))
    assert not v.requires_grad


def test_unequal_heads_and_a_wider_student_are_told() -> None:
    with pytest.raises(ShapeError, match="leave attention out"):
        step_of(AttentionMSE((".attention.0",)), gpt(0), gpt(1, heads=1))
    with pytest.raises(ShapeError, match="bridge='learnt'"):
        step_of(HiddenMSE((".hidden.0",), "svd"), gpt(0, width=12), gpt(1))


def test_the_maps_between_layers() -> None:
    method = registry.make("bistil", depths=(2, 6), task=False)
    assert {name for role, name in method.reads if role == "teacher"} == {
        ".hidden.0", ".hidden.3", ".hidden.6", ".attention.2", ".attention.5",
    }  # fmt: skip
    with pytest.raises(SettingError, match="a multiple"):
        registry.make("ernie_tiny", depths=(4, 6))


# ---- masked tokens --------------------------------------------------------------------------------------------------


def test_masked_tokens_are_asked_for_at_the_place_before() -> None:
    ids = torch.randint(250, (64, 20), generator=torch.Generator().manual_seed(0))
    data = Tokens({"input_ids": ids}, ids, Bytes())
    step, state = step_of(MaskedLM(256, 0.5), Copies(), None, data=data)
    seen, y = step.view("masked")["input_ids"], step.batch.inputs["input_ids"]
    hidden = step.batch.masks["masked"]
    assert torch.equal(seen[~hidden], y[~hidden])
    assert 0.4 < hidden[:, 1:].float().mean() < 0.6
    assert not hidden[:, 0].any()  # nothing stands before it
    share = (seen[hidden] == 256).float().mean()
    assert 0.6 < share < 0.95
    assert 0 < (seen[hidden] == y[hidden]).float().mean() < 0.25
    term = MaskedLM(256, 0.5).loss(step, state)["masked"]
    right = (seen == y)[:, 1:][step.batch.positions[:, :-1]]
    assert torch.equal(term.value < 1, right.flatten())  # the model knows the tokens that it sees


class Copies(nn.Module):
    """An encoder that says at each place the token it sees, its logits moved by one."""

    def __init__(self) -> None:
        super().__init__()
        self.margin = nn.Parameter(torch.tensor(20.0))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.margin * nn.functional.one_hot(input_ids, 257).float().roll(-1, 1)


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_gradients_of_trans_encoder() -> None:
    case = CASES["trans-encoder"]
    inputs = {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in case["inputs"].items()}
    sum(trans_encoder_case(inputs, {}).values()).backward()
    for name, expected in case["grad_student"].items():
        torch.testing.assert_close(inputs[name].grad, torch.tensor(expected, dtype=torch.float64))


class Says(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_scores_of_pairs_are_meant_over_probabilities() -> None:
    x = torch.linspace(-1, 1, 4)[:, None]
    run = Run(student=Says(0.5), teacher=[Says(1.0), Says(9.0)], data=Data(x), method=PairScores("bi"), epochs=1,
              batch_size=4, optimizer=SGD(0.0), accelerator="cpu")  # fmt: skip
    loss = run.fit()[-1]["loss"]
    assert loss == pytest.approx(float((0.5 * x - (x.sigmoid() + (9 * x).sigmoid()) / 2).square().mean()))
    with pytest.raises(ShapeError, match="cosines"):
        Run(student=Says(0.5), teacher=Says(9.0), data=Data(x), method=PairScores("cross"), epochs=1, batch_size=4,
            accelerator="cpu").setup()  # fmt: skip
