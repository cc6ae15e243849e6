"""Networks written from scratch with what can be chosen in them: one program is the module and its search space."""

from typing import TYPE_CHECKING

from supernet.lazy import lazy

if TYPE_CHECKING:
    from supernet.programs.parts import choice, layer, one_of, optional, repeat, residual, sequential
    from supernet.programs.supernet import ProgramSupernet

__getattr__, __dir__ = lazy(__name__, __file__)
