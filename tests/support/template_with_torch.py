"""What a template imports whose runners are to draw from every random generator there is."""

import random

import numpy
import torch

torch.set_num_threads(1)
random.seed(1)
numpy.random.seed(1)
torch.manual_seed(1)
