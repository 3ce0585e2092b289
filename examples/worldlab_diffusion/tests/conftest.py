"""One thread: the tensors are tiny, and other tests may run beside."""

import torch

torch.set_num_threads(1)
