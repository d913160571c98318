import pytest
import torch

pytest.register_assert_rewrite("tests.conformance")
torch.set_num_threads(1)
