import torch
from torch import nn

from limbeck import Data, Run, kd
from limbeck.data.views import Crop
from limbeck.records import Cached, Record

images, labels = torch.rand(256, 1, 8, 8), torch.randint(10, (256,))
data = Data(images, labels, views={"x": Crop(1)})
teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

Record.capture("record", teacher, data, signals={".logits": "topk=5"}, views={"x": 3}, seed=0)
run = Run(student=student, teacher=Cached("record"), data=data, method=kd(tau=4.0), epochs=3, seed=0)
run.fit()  # the teacher does not run; the student sees the crops that it saw
