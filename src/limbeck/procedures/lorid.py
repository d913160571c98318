"""LoRID: three LoRA adapters on one language model, and answers that two of them agree on (Li et al. 2025). Needs peft
(extra `[lora]`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from limbeck.data.text import Tokenizer
from limbeck.errors import SettingError, nearest
from limbeck.generate import generate
from limbeck.methods.transfer import lorid
from limbeck.procedures.chain import within
from limbeck.run import Run

Model = TypeVar("Model", bound=nn.Module)

#: question -> reasoning, question -> knowledge, question and knowledge -> reasoning
NAMES = ("intuitive", "knowledge", "deep")


def with_adapters(model: Model, layers: Sequence[str], *, r: int, alpha: int, dropout: float = 0.1) -> Model:
    """The model itself, with a LoRA adapter of each of NAMES in the linear layers of these names; all else is frozen.

    The authors: r=512, alpha=1024 in q_proj and v_proj of models of 7B.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for name in NAMES:
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers))
        inject_adapter_in_model(config, model, adapter_name=name)
    return model


def use(model: nn.Module, name: str) -> None:
    """Let this adapter alone act and train."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    known = sorted({each for layer in layers for each in layer.lora_A})  # type: ignore[union-attr]
    if name not in known:
        raise SettingError(f"the model has no adapter {name!r}; {nearest(name, known)}")
    for layer in layers:
        layer.set_adapter(name)


def tuned(run: Run, name: str, *, resume: bool = False) -> Run:
    """The run with one adapter of its student, finished. Its data: pairs of the adapter's prompts and completions. The
    authors: 5 epochs, AdamW(5e-5) with a cosine and 3 % warm-up."""
    if not isinstance(run.student, nn.Module):
        raise SettingError("one student has all three adapters: Run(student=with_adapters(...))")
    use(run.student, name)
    one = replace(run, method=lorid(), folder=within(run, name))
    one.fit(resume=resume)
    return one


def agree(
    model: nn.Module,
    questions: Sequence[str],
    tokenizer: Tokenizer,
    answer: Callable[[str], str | None],
    *,
    new: int,
    tries: int = 20,
    temperature: float = 1.5,
    top_p: float = 0.9,
    joined: Callable[[str, str], str] = "{}{}".format,
    generator: torch.Generator | None = None,
) -> list[str | None]:
    """For each question the first answer that both reasoners have given; None if there is none after `tries`.

    answer: reads it in a reasoning, None where there is none. new: tokens to write at most. joined: the deep
        reasoner's prompt, of question and knowledge, as it was trained.

    Every try adds one answer to each reasoner's, so that they may agree on answers of different tries. Of several at
    once the earliest of the intuitive reasoner counts; the authors count the question as right if any is.
    """
    settings = {"new": new, "temperature": temperature, "top_p": top_p, "generator": generator}

    def said(name: str, prompts: Sequence[str]) -> list[str]:
        use(model, name)
        return written(model, prompts, tokenizer, **settings)

    found: list[str | None] = [None] * len(questions)
    given: list[tuple[list[str | None], list[str | None]]] = [([], []) for _ in questions]
    for _ in range(tries):
        left = [i for i, each in enumerate(found) if each is None]
        if not left:
            break
        asked = [questions[i] for i in left]
        quick = said("intuitive", asked)
        deep = said("deep", [joined(q, k) for q, k in zip(asked, said("knowledge", asked), strict=True)])
        for i, *both in zip(left, quick, deep, strict=True):
            for answers, text in zip(given[i], both, strict=True):
                answers.append(answer(text))
            found[i] = common(*given[i])
    return found


def common(first: Sequence[str | None], second: Sequence[str | None]) -> str | None:
    """The first of `first` that is in `second` too."""
    return next((each for each in first if each is not None and each in second), None)


def written(model: nn.Module, prompts: Sequence[str], tokenizer: Tokenizer, **settings: Any) -> list[str]:
    """What the model goes on with after each prompt, up to the end of text."""
    ids = [torch.tensor(tokenizer.encode(prompt) or [tokenizer.end]) for prompt in prompts]
    lengths = torch.tensor([len(each) for each in ids])
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.end)
    device = next(model.parameters()).device
    whole, ends = generate(
        model,
        padded.to(device),
        lengths.to(device),
        end=tokenizer.end,
        vocabulary=tokenizer.vocab_size,
        **settings,
    )
    return [tokenizer.decode(row[first:last].tolist()) for row, first, last in zip(whole, lengths, ends, strict=True)]
