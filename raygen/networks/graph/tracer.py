"""torch.fx's tracer for networks as they are written: with control flow on sizes, and through the user's own layers."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.proxy import Attribute

from raygen.networks.graph.plain import first_real

# As they are while nothing is traced: torch.fx puts its own in their place.
_CALL, _GET = nn.Module.__call__, nn.Module.__getattr__
_BATCHES = (2, 3)
_SIZES = ("shape", "ndim", "size", "dim", "ndimension", "numel", "nelement")


def is_leaf(module: nn.Module) -> bool:
    """Say whether ``module`` is one layer: it has no children, or is torch's own and not a container."""
    return not any(True for _ in module.children()) or _torch_layer(module)


def leaf_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield dotted name and module of every layer, a shared one under the first of its names, as torch.fx does."""
    inner: set[str] = set()
    for path, child in module.named_modules():
        if path == "" or path in inner:
            continue
        if is_leaf(child):
            inner.update(f"{path}.{name}" for name, _ in child.named_modules() if name)
            yield path, child


class Tracer(fx.Tracer):
    """Makes steps of the layers of :func:`leaf_modules` and of torchvision's operators.

    A layer of the user's code, such as a shortcut that calls a lambda, is traced step by step where that is possible.
    Control flow on shapes goes the way that it goes for an image of ``input_shape``; on the size of the batch, or on
    values, it cannot be traced.

    Attributes:
        ends: by dotted name the step that puts out a layer's response the first time that it runs.
        opened: names of the user's layers that are traced step by step.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        # Some versions of torch annotate one module, some any number; all take any number.
        modules: Any = (math, torchvision.ops)
        super().__init__(autowrap_modules=modules)
        self.ends: dict[str, fx.Node] = {}
        self.opened: set[str] = set()
        self._opening: set[int] = set()
        self._input_shape = input_shape
        self._numbers: _Numbers | None = None

    @property
    def numbers(self) -> _Numbers:
        """What the steps give that are numbers; worked out where the forward asks."""
        if self._numbers is None:
            self._numbers = _Numbers(self.root, self.graph, self._input_shape)
        return self._numbers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether ``m`` is one step."""
        return is_leaf(m) and id(m) not in self._opening

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the output of ``m``, and note which step gives it."""
        call = super().call_module
        output = self._open(m, lambda: call(m, forward, args, kwargs)) if is_leaf(m) and _is_of_the_user(m) else None
        if output is None:
            output = call(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            # A block's name is only its own where the block adds a step to its last layer.
            taken = not is_leaf(m) and output.node in self.ends.values()
            if not taken:
                self.ends.setdefault(self.path_of_module(m), output.node)
        return output

    def _open(self, layer: nn.Module, call: Callable[[], Any]) -> Any:
        """Return what ``call`` gives with the layer's steps in the graph; None, and no steps, where that fails."""
        before, stack = set(self.graph.nodes), copy.copy(self.module_stack)
        self._opening.add(id(layer))
        try:
            output = call()
        except Exception:  # the user's code, called with proxies: it may raise anything
            for node in reversed([node for node in self.graph.nodes if node not in before]):
                self.graph.erase_node(node)
            self.module_stack = stack
            return None
        finally:
            self._opening.discard(id(layer))
        self.opened.add(self.path_of_module(layer))
        return output

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for the value of ``node`` in the forward."""
        return _Sized(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Return the truth of a number that is known."""
        found = self.numbers.of(obj.node)
        return super().to_bool(obj) if found is None else bool(found)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Yield the parts of a value with a known number of them."""
        length = self.numbers.length(obj.node)
        if length is None:
            return super().iter(obj)
        return (self.create_proxy("call_function", operator.getitem, (obj, index), {}) for index in range(length))


class _Sized(fx.Proxy):
    """A proxy that may be asked for the number that it stands for, if it is one that follows from an image's size."""

    tracer: Tracer

    def __getattr__(self, k: str) -> Any:
        if k in ("shape", "ndim"):
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return Attribute(self, k)

    def __len__(self) -> int:
        length = self.tracer.numbers.length(self.node)
        return super().__len__() if length is None else length

    def __index__(self) -> int:
        found = self.tracer.numbers.of(self.node)
        if not isinstance(found, int):
            raise TypeError("a value that is not known while the forward is traced is taken for an integer")
        return found


class _Numbers:
    """Runs the steps so far on shapes without values, with two sizes of the batch: what differs depends on that."""

    def __init__(self, root: nn.Module, graph: fx.Graph, input_shape: tuple[int, ...]) -> None:
        self._root, self._graph = root, graph
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        like = first_real(root)
        with self._mode:
            self._images = [
                torch.empty(batch, *input_shape, dtype=like.dtype, device=like.device) for batch in _BATCHES
            ]
        self._known: dict[fx.Node, tuple[Any, Any] | None] = {}
        self._of_batch: set[fx.Node] = set()

    def of(self, node: fx.Node) -> bool | int | float | None:
        """Return the number that ``node`` gives; None if it is none, depends on the batch, or is not known."""
        pair = self._pair(node)
        found = None if pair is None or node in self._of_batch else pair[0]
        return found if isinstance(found, bool | int | float) else None

    def length(self, node: fx.Node) -> int | None:
        """Return how many parts ``node`` gives, if it gives several."""
        pair = self._pair(node)
        return len(pair[0]) if pair is not None and isinstance(pair[0], tuple | list) else None

    def _pair(self, node: fx.Node) -> tuple[Any, Any] | None:
        if node not in self._known:
            with _as_if_untraced(), self._mode, torch.no_grad():
                for step in self._graph.nodes:
                    if step not in self._known:
                        self._known[step] = self._run(step)
        return self._known[node]

    def _run(self, node: fx.Node) -> tuple[Any, Any] | None:
        try:
            first, second = (self._value(node, which) for which in (0, 1))
        except Exception:  # the user's code, or a step that needs values
            return None
        if not isinstance(first, Tensor):
            if not isinstance(first, bool | int | float | tuple | list) or self._asks_otherwise(node, first):
                return None
            inherits = node.target is not operator.getitem and any(n in self._of_batch for n in node.all_input_nodes)
            if inherits or first != second:
                self._of_batch.add(node)
        return first, second

    def _asks_otherwise(self, node: fx.Node, found: Any) -> bool:
        """Say whether ``node`` asks a tensor for something that is not its size, such as its precision."""
        if isinstance(found, tuple | list) and any(isinstance(part, Tensor) for part in found):
            return False
        asked = node.args[1] if node.target is getattr else node.target
        given = (self._known[source] for source in node.all_input_nodes)
        return asked not in _SIZES and any(pair is not None and isinstance(pair[0], Tensor) for pair in given)

    def _value(self, node: fx.Node, which: int) -> Any:
        def known(source: fx.Node) -> Any:
            pair = self._known[source]
            if pair is None:
                raise LookupError
            return pair[which]

        args, kwargs = fx.map_arg(node.args, known), fx.map_arg(node.kwargs, known)
        if node.op == "placeholder":
            first = next(other for other in self._graph.nodes if other.op == "placeholder")
            return self._images[which] if node is first else args[0]
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._root)
        if node.op == "call_module":
            return self._root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


@contextmanager
def _as_if_untraced() -> Iterator[None]:
    """Let modules be called, and not be traced."""
    module: Any = nn.Module
    traced = module.__call__, module.__getattr__
    module.__call__, module.__getattr__ = _CALL, _GET
    try:
        yield
    finally:
        module.__call__, module.__getattr__ = traced


@contextmanager
def functions_kept(tracer: fx.Tracer) -> Iterator[None]:
    """Let an autograd function of the user be one step while ``tracer`` traces.

    Traced through, its forward would be differentiated, and its own backward lost.
    """
    given: Any = vars(torch.autograd.Function)["apply"]

    def apply(function: Any, *args: Any) -> Any:
        if any(isinstance(part, fx.Proxy) for part in args):
            return tracer.create_proxy("call_function", _call_of(function), args, {})
        return given.__get__(None, function)(*args)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = given


@cache
def _call_of(function: Any) -> Callable[..., Any]:
    """Return ``function.apply`` as a function of this module, as generated code can name it."""

    def call(*args: Any) -> Any:
        return function.apply(*args)

    call.__name__ = call.__qualname__ = function.__name__
    return call


def _is_of_the_user(layer: nn.Module) -> bool:
    return not _torch_layer(layer) and type(layer).__module__.partition(".")[0] not in (
        "torch",
        "torchvision",
        "raygen",
    )


def _torch_layer(module: nn.Module) -> bool:
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))
    return own and not isinstance(module, containers)
