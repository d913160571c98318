"""transformers' language models as students and teachers, as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import CE, KL, SGD, UNLABELLED, Data, Run
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import SettingError, ShapeError
from limbeck.generate import generate
from limbeck.signals import Headless, as_net
from tests.test_language import check_ends

transformers = pytest.importorskip("transformers")

V = 261  # four more than bytes have
SIZE = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip
CAUSAL: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3,
             "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 1, "eos_token_id": 2},
    "Llama": SIZE,
    "Qwen2": SIZE,
    "Mistral": SIZE,
    "Gemma2": {**SIZE, "head_dim": 8, "final_logit_softcapping": 3.0},
    "Cohere": {**SIZE, "logit_scale": 0.25},
    "Granite": {**SIZE, "logits_scaling": 4.0},
    "OPT": {"vocab_size": V, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 64, "dropout": 0, "init_std": 0.3},
}  # fmt: skip


def build(kind: str, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    name = next(n for n in (f"{kind}LMHeadModel", f"{kind}ForCausalLM") if hasattr(transformers, n))
    return getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**CAUSAL[kind] | settings)).eval()


def t5(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def pairs(noise: int = 0) -> Tokens:
    """Prompts and completions, with anything in the padding."""
    data = Tokens.pairs([("1+1=", "2"), ("12+30=", "42"), ("a", "abcabc"), ("", "xyz")], Bytes(), 16)
    for row, y in zip(data.x["input_ids"], data.y, strict=True):  # type: ignore[arg-type]
        last = int((y != UNLABELLED).nonzero().max())
        row[last + 1 :] = torch.randint(256, row[last + 1 :].shape, generator=torch.Generator().manual_seed(noise))
    return data


def fitted(student: Any, teacher: Any, data: Data, **settings: Any) -> Run:
    run = Run(student=student, teacher=teacher, data=data, method=CE() + KL(2.0), epochs=1, batch_size=4,
              optimizer=SGD(0.05), accelerator="cpu", **settings)  # fmt: skip
    run.fit()
    return run


@pytest.mark.parametrize("kind", CAUSAL)
def test_logits_are_made_when_wanted_and_are_the_model_s_own(kind: str) -> None:
    model, ids = build(kind), torch.randint(V, (3, 9))
    net = as_net(model)
    output = net({"input_ids": ids})
    assert isinstance(net.hand_over, Headless)
    assert net.hand_over.exact
    assert ".logits" not in output.signals
    torch.testing.assert_close(output.logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    a, b = (torch.autograd.grad(each.logits.square().sum(), list(model.parameters()), allow_unused=True)
            for each in (net({"input_ids": ids}), model(input_ids=ids)))  # fmt: skip
    for one, other in zip(a, b, strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Gemma2"])
def test_adapters_are_asked_as_their_models_are(kind: str) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(build(kind), config).eval()
    net, x = as_net(model), {"input_ids": torch.randint(V, (2, 9))}
    assert isinstance(net.hand_over, Headless)
    torch.testing.assert_close(net(x).logits, model(**x).logits, rtol=1e-4, atol=1e-5)
    assert net.hand_over.exact
    before = model.generation_config, model.get_base_model().generation_config
    ids, _ = generate(model, PROMPTS, LENGTHS, new=6, temperature=0)
    assert (model.generation_config, model.get_base_model().generation_config) == before
    for row, length in zip(ids, LENGTHS, strict=True):
        assert torch.equal(row[: length + 6], greedy(model, row[:length], 6, V))


def test_learnt_prompts_are_asked_as_a_whole() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(build("Llama"), peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    x = {"input_ids": torch.randint(V, (2, 9))}
    torch.testing.assert_close(as_net(model.eval())(x).logits, model(**x).logits)


@pytest.mark.parametrize("kind", CAUSAL)
def test_models_learn_from_each_other_and_padding_changes_nothing(kind: str) -> None:
    first, again = (fitted(build(kind), build("Llama", 1), pairs(noise)) for noise in (0, 1))
    as_teacher = fitted(build("GPT2"), build(kind, 1), pairs())
    for run in (first, again, as_teacher):
        assert all(term > 0 for term in run.history[-1]["terms"].values())
    for (name, a), b in zip(first.bundle.named_parameters(), again.bundle.parameters(), strict=True):
        assert torch.equal(a, b), name
    start = build(kind).get_output_embeddings().weight
    assert not torch.equal(first.students[0].module.get_output_embeddings().weight, start)


@pytest.mark.parametrize("kind", ["GPT2", "Gemma2", "Cohere"])
def test_equal_models_say_the_same(kind: str) -> None:
    run = Run(student=build(kind), teacher=build(kind), data=pairs(), method=KL(2.0), epochs=1, batch_size=4,
              optimizer=SGD(0.0), accelerator="cpu")  # fmt: skip
    assert run.fit()[-1]["loss"] == pytest.approx(0, abs=1e-6)


def test_a_saved_model_is_a_teacher_by_its_folder(tmp_path: Path) -> None:
    for make in (lambda seed: build("Gemma2", seed), t5):
        teacher = make(1)
        teacher.save_pretrained(tmp_path)
        data = pairs() if teacher.config.model_type == "gemma2" else sequences()
        a, b = (fitted(make(0), given, data) for given in (teacher, str(tmp_path)))
        assert a.history[-1]["loss"] == b.history[-1]["loss"]


# ---- what a newcomer types ------------------------------------------------------------------------------------------


def packed(length: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(256, (8, length), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :3] = -100
    return ids, labels


def listed() -> list[dict[str, list[int]]]:
    """As the datasets library has them."""
    return [{"input_ids": a.tolist(), "labels": b.tolist()} for a, b in zip(*packed(12), strict=True)]


def test_their_labels_of_nothing_are_ours() -> None:
    ids, labels = packed(12)
    ours = Tokens({"input_ids": ids}, labels.masked_fill(labels == -100, UNLABELLED), Bytes())
    theirs = Tokens({"input_ids": ids}, labels, Bytes()), Data(listed(), classes=Bytes.vocab_size)
    losses = [fitted(build("Llama"), build("Llama", 1), data).history[-1]["loss"] for data in (ours, *theirs)]
    assert max(losses) == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda ids, y: Tokens({"input_ids": ids}, torch.full_like(y, -100), Bytes()), "no token has a label"),
        (lambda ids, y: Data({"input_ids": ids[:, :-1]}, ids[:, 1:]), "these labels are of the next tokens"),
        (lambda ids, y: Data({"input_ids": ids}), r"of texts with labels \(n, length\)"),
    ],
)
def test_labels_that_teach_nothing_or_something_else(make: Any, complaint: str) -> None:
    run = Run(student=build("Llama"), teacher=build("Llama", 1), data=make(*packed(12)), method=KL(2.0))
    with pytest.raises(ValueError, match=complaint):
        run.setup()


@pytest.mark.parametrize("kind", ["GPT2", "OPT"])
def test_what_a_model_lacks_is_told(kind: str) -> None:
    long, other = packed(65)[0], packed(12)[0] + 100
    for ids, complaint in ((long, "It has 64 places, and here are 65 tokens"), (other, f"It has {V} tokens, and here")):
        with pytest.raises(ShapeError, match=complaint):
            Run(student=build(kind), data=Data({"input_ids": ids}, ids % 256), method=CE()).setup()
    x = {"input_ids": packed(12)[0]}
    with pytest.raises(ShapeError, match="give decoder_input_ids among the inputs"):
        Run(student=t5(), data=Data(x, x["input_ids"]), method=CE()).setup()


# ---- sequence to sequence -------------------------------------------------------------------------------------------


def sequences() -> Data:
    """What is read, and what the decoder reads: its labels are of the latter."""
    draw = torch.Generator().manual_seed(0)
    read, said = torch.randint(2, V, (4, 7), generator=draw), torch.randint(2, V, (4, 5), generator=draw)
    mask = torch.arange(7) < torch.tensor([[7], [5], [3], [6]])
    x = {"input_ids": read, "attention_mask": mask.long(), "decoder_input_ids": torch.nn.functional.pad(said, (1, 0))}
    y = torch.nn.functional.pad(said, (1, 0), value=UNLABELLED)
    y[1, 4:] = UNLABELLED
    return Data(x, y, classes=V)


def test_sequence_to_sequence() -> None:
    data = sequences()
    run = Run(student=t5(), data=data, method=CE(), epochs=1, batch_size=4, optimizer=SGD(0.0), accelerator="cpu")
    labels = data.y[:, 1:].masked_fill(data.y[:, 1:] < 0, -100)  # type: ignore[index]
    own = t5()(input_ids=data.x["input_ids"], attention_mask=data.x["attention_mask"], labels=labels).loss.item()
    assert run.fit()[-1]["loss"] == pytest.approx(own, rel=1e-5)
    assert fitted(t5(), t5(1), data).history[-1]["terms"]["kl"] > 0


# ---- generation -----------------------------------------------------------------------------------------------------

PROMPTS, LENGTHS = torch.tensor([[5, 6, 7, 8], [9, 0, 0, 0], [3, 4, 0, 0]]), torch.tensor([4, 1, 2])


def greedy(model: Any, prompt: Tensor, new: int, vocabulary: int) -> Tensor:
    for _ in range(new):
        token = model(input_ids=prompt[None], use_cache=False).logits[0, -1, :vocabulary].argmax()
        prompt = torch.cat([prompt, token[None]])
    return prompt


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("vocabulary", [None, 100])
def test_the_most_probable_continuation_is_the_model_s_own(kind: str, vocabulary: int | None) -> None:
    model = build(kind)
    ids, lengths = generate(model, PROMPTS, LENGTHS, new=6, temperature=0, vocabulary=vocabulary)
    assert torch.equal(lengths, LENGTHS + 6)
    for row, length in zip(ids, LENGTHS, strict=True):
        assert torch.equal(row[: length + 6], greedy(model, row[:length], 6, vocabulary or V))
        assert not row[length + 6 :].any()


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "OPT"])
def test_texts_fill_the_positions_that_there_are(kind: str) -> None:
    name = "n_positions" if kind == "GPT2" else "max_position_embeddings"
    model = build(kind, **{name: 8})
    ids, lengths = generate(model, PROMPTS, LENGTHS, new=6, temperature=0)
    assert lengths.tolist() == [8, 7, 8]
    for row, before, after in zip(ids, LENGTHS.tolist(), lengths.tolist(), strict=True):
        assert torch.equal(row[:after], greedy(model, row[:before], after - before, V))
        assert not row[after:].any()


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_samples_are_replayed_by_the_generator_s_state(kind: str) -> None:
    model, generator = build(kind), torch.Generator().manual_seed(3)
    state, outside = generator.get_state(), torch.get_rng_state()

    def draw() -> Tensor:
        return generate(model, PROMPTS, LENGTHS, new=8, generator=generator)[0]

    first, second = draw(), draw()
    generator.set_state(state)
    assert torch.equal(draw(), first)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), outside)


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_samples_follow_the_probabilities(kind: str) -> None:
    model = build(kind, vocab_size=6, initializer_range=0.5, bos_token_id=None, eos_token_id=None)
    prompt = torch.tensor([[1, 2, 3]]).expand(4000, 3)
    ids, _ = generate(model, prompt, torch.full((4000,), 3), new=1, temperature=2.0, vocabulary=5,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    wanted = (model(input_ids=prompt[:1]).logits[0, -1, :5] / 2).softmax(-1)
    torch.testing.assert_close(ids[:, 3].bincount(minlength=5) / 4000, wanted.detach(), rtol=0, atol=0.04)


def test_a_model_s_own_settings_of_generation_count_nowhere() -> None:
    model = build("Llama")
    model.generation_config.update(
        repetition_penalty=5.0, num_beams=3, eos_token_id=greedy(model, PROMPTS[0], 2, V)[-1].item()
    )
    ids, _ = generate(model, PROMPTS, LENGTHS, new=6, temperature=0)
    assert torch.equal(ids[0, :10], greedy(model, PROMPTS[0], 6, V))


def test_texts_end_at_their_end() -> None:
    check_ends(build("GPT2", vocab_size=9, eos_token_id=None, bos_token_id=None), rows=32)


def test_sequence_to_sequence_cannot_go_on_with_a_prompt() -> None:
    with pytest.raises(SettingError, match="a T5ForConditionalGeneration cannot"):
        generate(t5(), PROMPTS, LENGTHS, new=2)
