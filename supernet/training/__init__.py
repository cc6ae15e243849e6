"""The training engine: phases of sampled sub-networks, with exact resume."""

from supernet.training.losses import CrossEntropy, Distillation, InPlaceDistillation, Loss
from supernet.training.memory import keep_freed_memory
from supernet.training.phases import Phase, Schedule, plain, progressive_shrinking, single_stage
from supernet.training.records import Epoch, Progress
from supernet.training.samplers import Largest, Sampler, Sandwich, Uniform
from supernet.training.static import Static
from supernet.training.trainer import CollapseError, Trainer, TrainingData

__all__ = [
    "CollapseError",
    "CrossEntropy",
    "Distillation",
    "Epoch",
    "InPlaceDistillation",
    "Largest",
    "Loss",
    "Phase",
    "Progress",
    "Sampler",
    "Sandwich",
    "Schedule",
    "Static",
    "Trainer",
    "TrainingData",
    "Uniform",
    "keep_freed_memory",
    "plain",
    "progressive_shrinking",
    "single_stage",
]
