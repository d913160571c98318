import hypothesis
import pytest
import torch

pytest.register_assert_rewrite("tests.conformance")
torch.set_num_threads(1)

# The same examples each time, however slow the machine: a red test is a change, not luck.
hypothesis.settings.register_profile("limbeck", derandomize=True, deadline=None)
hypothesis.settings.load_profile("limbeck")
