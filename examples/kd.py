"""Distillation on digits, with Limbeck. Beside its twin, `sdiff kd_plain.py kd.py`: both end in the same weights."""

import torch

from limbeck import SGD, Cosine, Run, kd, supervised
from limbeck.data import Data, load
from limbeck.models import build


def fit(student, train, teacher=None, *, tau=4.0, alpha=0.9, epochs=30, seed=0):
    Run(
        student=student,
        teacher=teacher,
        data=train,
        method=supervised() if teacher is None else kd(tau=tau, alpha=alpha),
        epochs=epochs,
        batch_size=128,
        optimizer=SGD(Cosine(0.05), momentum=0.9, weight_decay=5e-4),
        seed=seed,
        accelerator="cpu",
    ).fit()


def accuracy(model, test):
    with torch.inference_mode():
        return (model.eval()(test.x).argmax(1) == test.y).float().mean().item()


def main(epochs=30, seed=0):
    train, test = (Data(part.x / 255, part.y) for part in load("digits"))
    torch.manual_seed(seed)
    teacher = build("cnnx2", channels=1, classes=10, size=8)
    student = build("cnn", channels=1, classes=10, size=8)
    fit(teacher, train, epochs=epochs, seed=seed)
    fit(student, train, teacher, epochs=epochs, seed=seed)
    print(f"teacher {accuracy(teacher, test):.1%}, student {accuracy(student, test):.1%}")
    return student


if __name__ == "__main__":
    main()
