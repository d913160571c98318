"""Distillation on digits, in plain torch. Beside its twin, `sdiff kd_plain.py kd.py`: both end in the same weights."""

import math

import torch
import torch.nn.functional as F

from limbeck.data import Data, load, plan
from limbeck.models import build


def fit(student, train, teacher=None, *, tau=4.0, alpha=0.9, epochs=30, seed=0):
    batches = [ids for epoch in range(epochs) for ids in plan(train, 128, seed=seed, epoch=epoch)]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: (1 + math.cos(math.pi * i / len(batches))) / 2)
    student.train()
    for ids in batches:
        x, y = train.x[ids], train.y[ids]
        logits = student(x)
        loss = F.cross_entropy(logits, y, reduction="none")
        if teacher is not None:
            with torch.no_grad():
                target = F.log_softmax(teacher.eval()(x) / tau, 1)
            kl = F.kl_div(F.log_softmax(logits / tau, 1), target, reduction="none", log_target=True).sum(1)
            loss = (1 - alpha) * loss + alpha * tau**2 * kl
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        cosine.step()


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
