"""Any model, whatever it returns, as a source of signals."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import EMA, Frozen, Net, Normalize, Output
from limbeck.errors import SettingError, ShapeError, SignalError
from limbeck.signals import as_net, as_signals, same_shape

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Mlp(nn.Module):
    """A linear layer, an activation, and a last linear layer."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), activation or nn.ReLU())
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


class Saying(nn.Module):
    """Returns what it is told."""

    def __init__(self, say: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.say = say

    def forward(self, x: Tensor) -> Any:
        return self.say(x)


def reading(module: nn.Module, *names: str, **settings: Any) -> Net:
    net = Net(module, **settings)
    net.read(names)
    return net


# ---- what models return ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "say",
    [
        lambda x: x,
        lambda x: (x, x + 1),
        lambda x: [x, "more"],
        lambda x: {"loss": 0.5, "logits": x},
        lambda x: Output({".logits": x}),
    ],
    ids=["tensor", "tuple", "list", "mapping", "output"],
)
def test_logits_of_every_form(say: Callable[[Tensor], Any]) -> None:
    assert torch.equal(Net(Saying(say))(X).logits, X)


def test_mapping_gives_its_tensors() -> None:
    layers = (X, X + 1)
    said = {"logits": X, "hidden_states": layers, "attentions": [X], "embedding": X + 2, "boxes": X + 3, "cache": None}
    output = Net(Saying(lambda x: said))(X)
    assert torch.equal(output.logits, X)
    assert [torch.equal(*pair) for pair in zip(output.hidden, layers, strict=True)] == [True, True]
    assert len(output.attention) == 1
    assert torch.equal(output.embedding, X + 2)
    assert torch.equal(output["boxes"], X + 3)
    with pytest.raises(SignalError, match=r"no signal 'box'; did you mean 'boxes'\?"):
        output["box"]
    with pytest.raises(SignalError, match="no signal 'cache'"):
        output["cache"]


@pytest.mark.parametrize("raw", ["text", None, {}, {"loss": 0.5}, (), ("text",)])
def test_what_cannot_be_read(raw: Any) -> None:
    with pytest.raises(SignalError, match=r"the model returned a .*Net\(model, forward=.*\)"):
        as_signals(raw)


def test_forward_and_inputs_of_ones_own() -> None:
    net = Net(Mlp(), forward=lambda module, x: {"logits": module(x["pixels"])}, inputs=lambda x: {"pixels": x / 2})
    assert torch.equal(net(X).logits, net.module(X / 2))


def test_mappings_are_keywords_and_tuples_arguments() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    assert torch.equal(Net(Sum())({"b": X, "a": 3 * X}).logits, 3 * X - X)
    assert torch.equal(Net(Sum())((3 * X, X)).logits, 3 * X - X)


def test_net_of_a_net_and_of_a_function_are_refused() -> None:
    with pytest.raises(SettingError, match="is a Net already"):
        Net(Net(Mlp()))
    with pytest.raises(SettingError, match=r"a model is an nn\.Module; got a function"):
        as_net(lambda x: x)  # type: ignore[arg-type]
    net = Net(Mlp())
    assert as_net(net) is net


# ---- taps -----------------------------------------------------------------------------------------------------------


def test_taps_read_layers_by_path() -> None:
    net = reading(Mlp(), "body.0", "body", "fc")
    output = net(X)
    assert torch.equal(output["body.0"], net.module.body[0](X))
    assert torch.equal(output["body"], net.module.body(X))
    assert torch.equal(output["fc"], output.logits)
    output["body"].sum().backward()
    assert net.module.body[0].weight.grad is not None


def test_reading_twice_taps_once() -> None:
    net = reading(Mlp(), "body", "body")
    net.read(["body"])
    assert len(net.module.body._forward_hooks) == 1


def test_nothing_is_kept_between_forwards() -> None:
    net = reading(Mlp(), "body")
    net(X)
    assert net.taps["body"].kept is None


@pytest.mark.parametrize("path", ["bdy", "body.7", ""])
def test_missing_layer_names_the_nearest(path: str) -> None:
    with pytest.raises(SignalError, match=rf"the student \(Mlp\) has no layer '{path}'; .*'body"):
        Net(Mlp()).read([path], owner="student")


def test_layer_that_gives_a_tuple_gives_its_first() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    net = reading(Recurrent(), "lstm")
    output = net(X)
    assert torch.equal(output["lstm"], output.logits)


def test_what_a_call_of_the_module_itself_left_is_not_read() -> None:
    class Sometimes(Mlp):
        run_body = True

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(x)) if self.run_body else x

    net = reading(Sometimes(), "body")
    net.module(X)
    net.module.run_body = False
    with pytest.raises(SignalError, match="'body' did not run in this forward"):
        net(X)


def test_layer_without_a_tensor_and_layer_that_does_not_run() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.named = Saying(lambda x: {"a": x})
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.named(x)["a"]

    with pytest.raises(SignalError, match="layer 'named' gives a dict"):
        reading(Odd(), "named")(X)
    with pytest.raises(SignalError, match="layer 'unused' did not run"):
        reading(Odd(), "unused")(X)


def test_layer_changed_in_place_after_it_was_read() -> None:
    output = reading(Mlp(nn.ReLU(inplace=True)), "body.0", "body.1")(X)
    with pytest.raises(SignalError, match=r"layer 'body\.0' was changed in place.*inplace=False"):
        output["body.0"]
    assert (output["body.1"] >= 0).all()


def test_layer_of_a_frozen_model_is_read_as_it_was() -> None:
    """Under inference mode nothing tells that a tensor was changed in place, so the tap keeps a copy."""
    model = Mlp(nn.ReLU(inplace=True))
    wanted = model.body[0](X).detach()
    assert (wanted < 0).any()
    teacher = Frozen(model)
    teacher.read(["body.0"])
    assert torch.equal(teacher(X)["body.0"], wanted)


def test_signals_of_a_frozen_model_may_be_saved_for_the_backward_pass() -> None:
    teacher = Frozen(Net(Mlp(), forward=lambda module, x: {"logits": module(x), "hidden_states": (x * 2, x * 3)}))
    teacher.read(["body"])
    weight = torch.ones((), requires_grad=True)
    output = teacher(X)
    (output.logits.sum() * weight + (output["body"] * weight).sum() + sum(output.hidden).sum() * weight).backward()
    assert weight.grad is not None
    assert not output.logits.requires_grad


def test_copies_have_their_own_taps() -> None:
    net = reading(Mlp(), "body", ".embedding")
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.module.body[0].weight.zero_()
        twin.module.body[0].bias.fill_(2.0)
    theirs, ours = twin(X), net(X)
    assert torch.equal(theirs["body"], torch.full((3, 5), 2.0))
    assert torch.equal(theirs.embedding, theirs["body"])
    assert torch.equal(ours["body"], net.module.body(X))
    average = EMA(net, 0.9)  # a copy too, of a net whose module has been called by itself
    assert torch.equal(average(X)["body"], ours["body"])


# ---- embedding ------------------------------------------------------------------------------------------------------


def test_embedding_is_what_enters_the_last_linear_layer() -> None:
    net = reading(Mlp(), ".embedding")
    assert torch.equal(net(X).embedding, net.module.body(X))


def test_head_may_be_named() -> None:
    net = reading(Mlp(), ".embedding", head="body.0")
    assert torch.equal(net(X).embedding, X)
    with pytest.raises(SignalError, match=r"has no layer 'head'"):
        reading(Mlp(), ".embedding", head="head")
    assert torch.equal(reading(nn.Linear(4, 2), ".embedding")(X).embedding, X)  # a model that is its own head


def test_no_linear_layer_no_embedding() -> None:
    with pytest.raises(SignalError, match=r"the teacher \(ReLU\) has no nn\.Linear .*Net\(model, head='\.\.\.'\)"):
        Net(nn.ReLU()).read([".embedding"], owner="teacher")


def test_hidden_states_need_a_config() -> None:
    with pytest.raises(SignalError, match=r"no config\.output_hidden_states to ask for '\.hidden'.*forward="):
        reading(Mlp(), ".hidden")


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    return BertForSequenceClassification(config).eval()


TOKENS = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}


def test_hugging_face_model_gives_logits_embedding_layers_and_hidden_states(bert: nn.Module) -> None:
    net = reading(bert, ".hidden", ".embedding", "bert.encoder.layer.1")
    output = net(TOKENS)
    assert output.logits.shape == (2, 3)
    assert [layer.shape for layer in output.hidden] == [(2, 3, 8)] * 3
    assert torch.equal(output["bert.encoder.layer.1"], output.hidden[-1])
    assert torch.equal(bert.classifier(output.embedding), output.logits)
    assert all(len(part.hidden[0]) == 1 for part in output.split([1, 1]))


def test_hugging_face_attention(bert: nn.Module) -> None:
    import transformers

    if int(transformers.__version__.split(".")[0]) > 4:  # 4 takes another attention by itself
        with pytest.raises(SignalError, match=r"the teacher \(Bert\w+\) cannot give '\.attention': .*'eager'"):
            Net(bert).read([".attention"], owner="teacher")
    bert.config._attn_implementation = "eager"
    teacher = Frozen(type(bert)(bert.config))
    teacher.read([".attention"])
    maps = teacher(TOKENS).attention
    assert [layer.shape for layer in maps] == [(2, 2, 3, 3)] * 2
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 2, 3))


# ---- outputs --------------------------------------------------------------------------------------------------------


def test_split_gives_back_what_was_joined() -> None:
    net = reading(Mlp(), "body")
    output = net(torch.cat([X, 2 * X[:2]]))
    first, second = output.split([3, 2])
    torch.testing.assert_close(first.logits, net(X).logits)
    torch.testing.assert_close(second["body"], net(2 * X[:2])["body"])


def test_signal_that_was_not_asked_for_says_how() -> None:
    with pytest.raises(SignalError, match=r"no signal 'body'; there is: '\.logits'.*named in the objective's `reads`"):
        Net(Mlp())(X)["body"]


def test_shapes_that_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match=r"logits: the student gives \(3, 4\), the teacher \(3, 2\); use another"):
        same_shape("logits", X, X[:, :2], "use another")


# ---- normalisation --------------------------------------------------------------------------------------------------


def test_normalize() -> None:
    images = torch.arange(16.0).view(2, 2, 2, 2)
    normalize = Normalize(mean=[1.0, 3.0], std=[2.0, 4.0])
    wanted = torch.stack([(images[:, 0] - 1) / 2, (images[:, 1] - 3) / 4], 1)
    assert torch.equal(normalize(images), wanted)
    assert not normalize.state_dict()


def test_normalize_moves_with_its_net_and_is_its_models_own() -> None:
    net = Net(nn.Identity(), inputs=Normalize([0.5], [0.5])).double()
    images = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    assert torch.equal(net(images).logits, (images - 0.5) / 0.5)
    assert torch.equal(Net(nn.Identity())(images).logits, images)


@pytest.mark.parametrize(("mean", "std"), [([0.0], [0.0]), ([0.0], [-1.0]), ([0.0, 1.0], [1.0])])
def test_normalize_that_cannot_be(mean: list[float], std: list[float]) -> None:
    with pytest.raises(SettingError, match="as many means as positive deviations"):
        Normalize(mean, std)


def test_taps_are_no_closures() -> None:
    """Else a deep copy would write into the original's taps."""
    net = reading(Mlp(), "body")
    (hook,) = net.module.body._forward_hooks.values()
    assert inspect.ismethod(hook)
