"""The first thing that a newcomer runs: real data, five labels per class, under two minutes on two cores."""

from __future__ import annotations

from limbeck.experiment import Experiment


def experiment(seed: int = 0) -> Experiment:
    """A teacher that knows all 1,297 digits' labels; a student that sees five per class and the teacher's opinion of
    all; the same student alone, on the same batches."""
    return Experiment(
        data="digits",
        teacher="resnet8x2",
        student="cnn",
        method="kd",
        labels=5,
        unlabelled=3,
        batch_size=32,
        augment=True,
        epochs=15,
        teacher_epochs=8,
        seed=seed,
    )
