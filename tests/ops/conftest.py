import os

import torch

if not torch.cuda.is_available():
    # Before the kernels are imported: they then run on the CPU, line by line.
    os.environ['TRITON_INTERPRET'] = '1'
