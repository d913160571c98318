import limbeck
from limbeck.models import build
from limbeck.together import together

train, test = limbeck.data.load("digits")
teacher = build("resnet8", channels=1, classes=10, size=8)  # trained beforehand, in earnest
students = {
    "small": build("mlp", channels=1, classes=10, size=8),
    "large": build("cnn", channels=1, classes=10, size=8),
}

runs = together(students, teacher=teacher, data=train, test=test, method=limbeck.kd(tau=4.0), epochs=2)
print({name: run.history[-1]["accuracy"] for name, run in runs.items()})
