import torch

from limbeck import KL, AdamW, Cosine, Run, make
from limbeck.data.text import BPE, Tokens, python_source
from limbeck.generate import generate
from limbeck.models.gpt import GPT

texts, unseen = python_source()
tokenizer = BPE.train(texts, 1000)
data = Tokens.packed(texts[:4], tokenizer, 64)
test = Tokens.packed(unseen[:1], tokenizer, 64)

teacher = GPT(1024, width=64, depth=2, heads=2)  # or a transformers model, or the folder of one; 24 logits are padding
student = GPT(1000, width=32, depth=2, heads=2)
run = Run(student=student, teacher=teacher, data=data, test=test, method=KL(1.0), epochs=1, optimizer=AdamW(0.001))
row = run.fit()[-1]
print(f"{row['bits_per_byte']:.2f} bits per byte, {row['agreement']:.0%} of tokens as the teacher's")

own_texts = make("gkd", beta=0.5, rate=0.5, prompt=8)  # half of the batches are written by the student
go_on = Run(student=student, teacher=teacher, data=data, method=own_texts, epochs=1, optimizer=AdamW(Cosine(0.001)))
go_on.fit()

prompt = torch.tensor([tokenizer.encode("def ")])
ids, lengths = generate(student, prompt, torch.tensor([prompt.shape[1]]), new=20, end=tokenizer.end)
print(tokenizer.decode(ids[0, : lengths[0]].tolist()))
