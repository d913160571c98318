import torch

from limbeck import CE, KL, RKD, Data, Hint, Ramp, Stages, TeacherConfidence, Weighted
from limbeck.data.views import strong, weak

method = CE() + 0.9 * KL(tau=4.0)  # a method is a value: it prints as the code that makes it
later = CE() + Ramp(0.0, 1.0) * KL(4.0) + 0.1 * RKD()  # a schedule stands wherever a number does
sure = CE() + Weighted(KL(4.0), by=TeacherConfidence())  # examples count as much as the teacher is sure
staged = Stages(((Hint("layer2"), 5), (method, None)))  # first the hint, for five epochs, then the rest

images, labels = torch.rand(64, 1, 28, 28), torch.randint(10, (64,))
data = Data(images, labels, views={"x": weak(), "strong": strong()})  # replayable: seed, example and epoch decide
