"""The training engine: phases of sampled sub-networks, with exact resume."""

from typing import TYPE_CHECKING

from supernet.lazy import lazy

if TYPE_CHECKING:
    from supernet.training.adaptive import Attentive, Shift
    from supernet.training.attention import AttentionRelation, Pathways
    from supernet.training.collapse import CollapseError, Rollback
    from supernet.training.distributed import LostProcessError, World, join
    from supernet.training.draws import Cycles, Draw, Evenly, MacBins, Nested
    from supernet.training.engine import Engine
    from supernet.training.imitation import AlphaDivergence, Imitation, MeanSquare, SoftLabels
    from supernet.training.interruption import TrainingInterrupted
    from supernet.training.losses import CrossEntropy, Distillation, InPlaceDistillation, Loss, OwnLoss
    from supernet.training.memory import keep_freed_memory
    from supernet.training.methods import fine_tuning, plain, pruning, random_sampling, single_stage
    from supernet.training.mixing import Mixing
    from supernet.training.phases import Phase, Schedule, with_draw, with_loss, with_pathways, with_relation
    from supernet.training.records import Epoch, Progress, Record, Resumption, RollbackRecord, Watch, only
    from supernet.training.samplers import AdaptiveSampler, Largest, Sampler, Sandwich, Uniform
    from supernet.training.shrinking import gradual_shrinking, progressive_shrinking
    from supernet.training.static import Static
    from supernet.training.trainer import Trainer, TrainingData

__getattr__, __dir__ = lazy(__name__, __file__)
