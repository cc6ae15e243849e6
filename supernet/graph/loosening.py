"""Sizes that the code of a module reads from its input, as attributes: how wide heads are does not follow from it.

Much code of attention has ``B, N, C = x.shape`` and later ``reshape(B, N, C)``, since all heads together are as wide as
what they read. Where heads are left out, or the embedding is narrower than they are, the same code works if that one
``C`` is another number. A class that is derived from the module's own has the same methods, in which such a size is an
attribute of the module; which, and what it follows, is found by trials. Nothing here knows any class of networks.

Only code of Python is followed: where torch has a fused way for the same, which knows the sizes of its own code alone,
the loosened code does not take it.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

from torch import nn

__all__ = ["Size", "loosened", "sizes_read"]

_DEEPEST = 3  # functions that call functions
_WAYS_ROUND = ("get_fastpath_enabled", "has_torch_function")  # questions whose answer is no: other code would be run

Replace = Callable[[int, ast.expr, str], ast.expr | None]
"""What stands in the place of a size, from its number, itself and the name of the module there; None: as it is."""


@dataclass(frozen=True)
class Size:
    """A size that the code of a class reads: one use of it, or all that one function makes of one name."""

    uses: tuple[int, ...]
    value: int

    @property
    def attribute(self) -> str:
        """What it becomes."""
        return f"extent{self.uses[0]}" if len(self.uses) == 1 else f"extents{self.uses[0]}"


@cache
def loosened(kind: type[nn.Module], attributes: frozenset[tuple[int, str]]) -> type[nn.Module]:
    """A class like `kind` whose code takes these uses of sizes, by their numbers, from attributes of the module."""
    of_use = dict(attributes)

    def replace(number: int, _size: ast.expr, module: str) -> ast.expr | None:
        return _attribute(module, of_use[number]) if number in of_use else None

    def reduced(self: nn.Module, _protocol: Any) -> tuple[Any, ...]:
        return _unfilled, (kind, attributes), self.__dict__

    return _Rewritten(kind, replace).derived({"__reduce_ex__": reduced})


def _unfilled(kind: type[nn.Module], attributes: frozenset[tuple[int, str]]) -> nn.Module:
    """A module of a loosened class as copying and unpickling begin."""
    return object.__new__(loosened(kind, attributes))


def sizes_read(network: nn.Module, kind: type[nn.Module], run: Callable[[], object]) -> dict[str, list[Size]]:
    """The sizes that the code of one class reads, by module: names as a whole first, then single uses.

    Args:
        network: its modules have their classes again when this is done.
        run: runs the network.
    """
    seen: dict[int, dict[int, set[Any]]] = defaultdict(lambda: defaultdict(set))

    def saw(self: nn.Module, number: int, size: Any) -> Any:
        seen[id(self)][number].add(size if type(size) is int else None)
        return size

    def replace(number: int, size: ast.expr, module: str) -> ast.expr:
        return ast.Call(_attribute(module, "_saw"), [ast.Constant(number), size], [])

    rewritten = _Rewritten(kind, replace)
    if not rewritten.uses:
        return {}
    modules = {path: module for path, module in network.named_modules() if type(module) is kind}
    watched = rewritten.derived({"_saw": saw})
    for module in modules.values():
        module.__class__ = watched
    try:
        run()
    finally:
        for module in modules.values():
            module.__class__ = kind
    return {path: list(_sizes(rewritten.uses, seen[id(module)])) for path, module in modules.items()}


def _sizes(names: Sequence[str], seen: Mapping[int, set[Any]]) -> Iterator[Size]:
    """Those of which one value was seen."""
    values = {number: next(iter(found)) for number, found in seen.items() if len(found) == 1 and None not in found}
    for name in dict.fromkeys(names):
        uses = tuple(number for number in values if names[number] == name)
        if name and len(uses) > 1 and len({values[number] for number in uses}) == 1:
            yield Size(tuple(i for i, other in enumerate(names) if other == name), values[uses[0]])
    for number in sorted(values):
        yield Size((number,), values[number])


class _Rewritten:
    """The methods of a class, and the functions that they call, with their sizes replaced in one fixed order."""

    def __init__(self, kind: type[nn.Module], replace: Replace) -> None:
        self.kind = kind
        self.replace = replace
        self.uses: list[str] = []  # of every use of a size the function and the name; no name where it is read in place
        self.methods: dict[str, FunctionType | None] = {}
        if not hasattr(kind, "_loosened"):  # its source is that of the class before
            self.add("forward", inspect.getattr_static(kind, "forward", None), 0, True)

    def derived(self, members: dict[str, Any]) -> type[nn.Module]:
        """A class with these methods in the place of its own."""
        changed = {name: method for name, method in self.methods.items() if method is not None}
        named = {name: getattr(self.kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        return cast(
            type[nn.Module], type(self.kind.__name__, (self.kind,), {**named, "_loosened": True, **changed, **members})
        )

    def add(self, name: str, function: Any, depth: int, bound: bool) -> bool:
        """Whether anything is replaced in a method, or in a function that becomes one."""
        if name in self.methods or depth > _DEEPEST:
            return self.methods.get(name) is not None
        self.methods[name] = None
        tree = copy.deepcopy(_source(function))
        if tree is None:
            return False
        if not bound:
            tree.args.args.insert(0, ast.arg("_module"))
        elif not tree.args.posonlyargs + tree.args.args:
            return False
        visitor = _Sizes(self, function, tree, depth)
        tree.body = [visitor.visit(statement) for statement in tree.body]
        if visitor.changed:
            self.methods[name] = _compiled(tree, function)
        return visitor.changed


class _Sizes(ast.NodeTransformer):
    """Replaces names that stand for sizes of tensors, and sizes that are read where they are used."""

    def __init__(self, rewritten: _Rewritten, function: FunctionType, tree: ast.FunctionDef, depth: int) -> None:
        self.rewritten, self.function, self.depth = rewritten, function, depth
        self.module = (tree.args.posonlyargs + tree.args.args)[0].arg
        assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Assign)]
        bindings = [n for n in assigned if _is_shape(n.value) or _is_size(n.value)]
        bound = (n for binding in bindings for target in binding.targets for n in ast.walk(target))
        self.names = {n.id for n in bound if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.changed = False

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return node if _is_shape(node.value) or _is_size(node.value) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._use(node) if isinstance(node.ctx, ast.Load) and node.id in self.names else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return self._use(node) if _is_size(node) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_size(node):
            return self._use(node)
        if isinstance(node.func, ast.Name | ast.Attribute) and _last(node.func) in _WAYS_ROUND:
            return ast.Constant(False)
        self.generic_visit(node)
        name, function, bound = self._called(node.func)
        if function is not None and self.rewritten.add(name, function, self.depth + 1, bound):
            self.changed = True
            if not bound:
                node.func = _attribute(self.module, name)
        return node

    def _use(self, node: ast.expr) -> ast.expr:
        name = f"{self.function.__qualname__}.{node.id}" if isinstance(node, ast.Name) else ""
        self.rewritten.uses.append(name)
        found = self.rewritten.replace(len(self.rewritten.uses) - 1, node, self.module)
        self.changed |= found is not None
        return node if found is None else found

    def _called(self, target: ast.expr) -> tuple[str, FunctionType | None, bool]:
        """A method of the module, or a function of Python, that is called by its name."""
        known = self.function.__globals__
        local = self.function.__code__.co_varnames
        found: Any = None
        if isinstance(target, ast.Name) and target.id not in local:
            found = known.get(target.id)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
            if target.value.id == self.module:
                method = inspect.getattr_static(self.rewritten.kind, target.attr, None)
                own = isinstance(method, FunctionType) and not hasattr(nn.Module, target.attr)
                return target.attr, method if own else None, True
            if target.value.id not in local and isinstance(known.get(target.value.id), ModuleType):
                found = getattr(known[target.value.id], target.attr, None)
        if not isinstance(found, FunctionType):
            return "", None, False
        return f"_{found.__module__.replace('.', '_')}_{found.__name__}", found, False


@cache
def _source(function: Any) -> ast.FunctionDef | None:
    """The code of a function that stands for itself: not decorated, without a closure or names private to a class."""
    if not isinstance(function, FunctionType) or function.__closure__ or hasattr(function, "__wrapped__"):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError):
        return None
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list:
        return None
    private = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("__")]
    return None if any(not n.attr.endswith("__") for n in private) else tree


def _compiled(tree: ast.FunctionDef, function: FunctionType) -> FunctionType:
    """A function of this code, with everything else of the one that it was read from."""
    ast.increment_lineno(ast.fix_missing_locations(tree), function.__code__.co_firstlineno - 1)
    whole = compile(ast.Module([tree], []), function.__code__.co_filename, "exec", dont_inherit=True)
    code = next(c for c in whole.co_consts if isinstance(c, CodeType) and c.co_name == function.__name__)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _attribute(module: str, name: str) -> ast.Attribute:
    return ast.Attribute(ast.Name(module, ast.Load()), name, ast.Load())


def _last(name: ast.Name | ast.Attribute) -> str:
    return name.id if isinstance(name, ast.Name) else name.attr


def _is_shape(node: ast.AST) -> bool:
    """``x.shape``, ``x.size()``, or a part of it."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Slice) and _is_shape(node.value)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "size" and not node.args
    return isinstance(node, ast.Attribute) and node.attr == "shape"


def _is_size(node: ast.AST) -> bool:
    """``x.shape[1]`` or ``x.size(1)``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "size" and len(node.args) == 1
    return isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice) and _is_shape(node.value)
