"""A Keras network at PyTorch's own speed: the same layers, weights and results, walked in another way.

Keras on PyTorch permutes each map to channels-first and copies it before every convolution, and spends its own time
around each of some 800 layers. Here the layers only hold the weights: a network's graph is read once into a list of
steps (`steps`), which PyTorch runs forwards and backwards on channels-last memory.
A layer that no step knows runs as Keras has it.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from melanoma.models.backend import keras
from melanoma.models.fused import Clamp, Convolution, Gradients, Normalization, Walk, same_padding, tensor, trains
from melanoma.models.steps import ConvolutionStep, JoinStep, NormalizationStep, PairStep, PlainStep, Step, SumStep

layers = keras.layers


@dataclass
class Placed:
    """A step, the numbers of the maps that it takes, and of the one that it gives."""

    step: Step
    takes: list[int]
    gives: int


class Functional(keras.Model):  # type: ignore[misc]
    """A functional Keras network whose layers hold the weights and whose call walks the steps.

    Named as Keras' own class is: weight files hold the name, and fit both.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Answer with the network's one output, as Keras would."""
        del mask  # images have none
        images = keras.ops.convert_to_tensor(inputs[0] if isinstance(inputs, list | tuple) else inputs)
        weights = [tensor(variable) for variable in self.plan.variables]
        if torch.is_grad_enabled() and any(value.requires_grad for value in (images, *weights)):
            return _Differentiable.apply(self.plan, bool(training), images, *weights)
        return self.plan.forward(images, Walk(bool(training), differentiable=False), [])


def channels_last(network: Any) -> Any:
    """Return the same Keras network, its own layers and weights, walked at PyTorch's own speed.

    network: functional, with one input (batch, height, width, channels) and one output.
    """
    fast = Functional(network.input, network.output, name=network.name)
    fast.plan = _Plan(network)
    return fast


class _Plan:
    """The steps of a network in the order in which they run."""

    def __init__(self, network: Any) -> None:
        self.placed, self.output = _read(network)
        found = {id(variable): variable for placed in self.placed for variable in placed.step.variables}
        self.variables = list(found.values())
        self.last_use = {number: place for place, placed in enumerate(self.placed) for number in placed.takes}

    def forward(self, images: Any, walk: Walk, tape: list[Any]) -> Any:
        """Walk forwards; what the way back needs is put on the tape."""
        maps = {0: _as_map(images)}
        for place, placed in enumerate(self.placed):
            answer, kept = placed.step.forward([maps[number] for number in placed.takes], walk)
            if walk.differentiable:
                tape.append(kept)
            for number in placed.takes:
                if self.last_use[number] == place and number != self.output:
                    maps.pop(number, None)
            maps[placed.gives] = answer
        walk.update_moving_averages()
        return _as_keras(maps[self.output])

    def backward(self, gradient: Any, tape: list[Any], images_wanted: bool) -> Gradients:
        """Walk backwards, giving memory back on the way; the images' gradient is map 0's.

        Raises RuntimeError where this was done before.
        """
        if not tape:
            raise RuntimeError("this walk has gone back already, and gave its memory back on the way: call it again")
        wanted = {0} if images_wanted else set()
        for placed in self.placed:
            if wanted.intersection(placed.takes) or any(map(trains, placed.step.variables)):
                wanted.add(placed.gives)
        gradients = Gradients()
        gradients.add(self.output, _as_map(gradient), owned=False)
        for placed in reversed(self.placed):
            kept = tape.pop()
            if placed.gives not in wanted or placed.gives not in gradients.maps:
                continue
            pull, owned = gradients.maps.pop(placed.gives)
            numbers = [number if number in wanted else None for number in placed.takes]
            placed.step.backward(pull, owned, kept, numbers, gradients)
        return gradients


class _Differentiable(torch.autograd.Function):  # type: ignore[misc]
    """The whole walk as one operation of PyTorch's."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, training: bool, images: Any, *weights: Any) -> Any:
        ctx.plan, ctx.tape, ctx.dtype = plan, [], images.dtype
        # what is returned must be another object than what the tape holds, or the two would keep each other alive
        return plan.forward(images, Walk(training, differentiable=True), ctx.tape).detach()

    @staticmethod
    def backward(ctx: Any, *pull: Any) -> Any:
        gradients = ctx.plan.backward(pull[0], ctx.tape, ctx.needs_input_grad[2])
        to_images = gradients.maps.get(0, (None,))[0] if ctx.needs_input_grad[2] else None
        to_images = None if to_images is None else _as_keras(to_images).to(ctx.dtype)
        to_weights = [gradients.weights.get(id(variable)) for variable in ctx.plan.variables]
        return None, None, to_images, *to_weights


def _as_map(values: Any) -> Any:
    return values.permute(0, 3, 1, 2) if values.ndim == 4 else values


def _as_keras(values: Any) -> Any:
    return values.permute(0, 2, 3, 1) if values.ndim == 4 else values


def _read(network: Any) -> tuple[list[Placed], int]:
    """Read a network's graph into steps; returns them and the number of the map that is the answer."""
    nodes = [node for depth in sorted(network._nodes_by_depth, reverse=True) for node in network._nodes_by_depth[depth]]
    nodes = [node for node in nodes if not node.is_input]
    uses = Counter(id(symbol) for node in nodes for symbol in node.input_tensors)
    uses.update(id(symbol) for symbol in network.outputs)
    users = {id(symbol): node for node in nodes for symbol in node.input_tensors if uses[id(symbol)] == 1}
    numbers = {id(network.inputs[0]): 0}
    placed: list[Placed] = []
    done: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop(0)
        if id(node) in done:
            continue
        chain = _chain(node, users)
        takes = [id(symbol) for symbol in chain[0].input_tensors]
        takes += [id(link.input_tensors[0]) for link in chain[1:] if _scale(link.operation)]
        if any(symbol not in numbers for symbol in takes):  # a shortcut that is made later
            waiting.append(node)
            continue
        done.update(id(link) for link in chain)
        gives = numbers.setdefault(id(chain[-1].outputs[0]), len(numbers))
        placed.append(Placed(_step(chain), [numbers[symbol] for symbol in takes], gives))
    return placed, numbers[id(network.outputs[0])]


def _chain(node: Any, users: dict[int, Any]) -> list[Any]:
    """Follow a node to what is done at once with it: normalisation or a scaled sum, then ReLU."""
    chain = [node]

    def follow(fits: Any) -> bool:
        follower = users.get(id(chain[-1].outputs[0]))
        if follower is None or not fits(follower):
            return False
        chain.append(follower)
        return True

    kind = type(node.operation)
    if kind in (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D):
        if not _is_convolution(node.operation) or node.operation.activation is not keras.activations.linear:
            return chain
        if not follow(lambda other: _is_normalization(other.operation)):
            follow(lambda other: _adds_to_shortcut(other, chain[-1]))
    elif not (_is_normalization(node.operation) or _is_sum(node.operation)):
        return chain
    follow(lambda other: _ceiling(other.operation) is not None)
    return chain


def _step(chain: list[Any]) -> Step:
    """Make the step that does what a chain of nodes does."""
    layer = chain[0].operation
    kinds = {type(link.operation): link.operation for link in chain[1:]}
    dtype = getattr(torch, getattr(layer, "compute_dtype", None) or "float32")
    clamp = Clamp(_ceiling(chain[-1].operation) if len(chain) > 1 else None)
    if _is_normalization(layer):
        return NormalizationStep(Normalization(layer, clamp), dtype)
    if _is_convolution(layer):
        clamp = Clamp(math.inf) if layer.activation is keras.activations.relu else clamp
        norm = kinds.get(layers.BatchNormalization)
        scale = next((scale for link in chain[1:] if (scale := _scale(link.operation))), 1.0)
        return _convolution_step(layer, dtype, norm, scale, clamp)
    if _is_sum(layer):
        return SumStep(dtype, clamp)
    if type(layer) is layers.Concatenate and layer.axis in (-1, 3) and len(layer.output.shape) == 4:
        return JoinStep(dtype)
    return _plain(chain[0])


def _convolution_step(layer: Any, dtype: Any, norm: Any, scale: float, clamp: Clamp) -> Step:
    bias = layer.bias if layer.use_bias else None
    then = Normalization(norm, clamp) if norm else None
    if type(layer) is layers.SeparableConv2D:
        deep = Convolution(layer, layer.depthwise_kernel, None, depthwise=True)
        flat = Convolution(layer, layer.pointwise_kernel, bias, depthwise=False, window=False)
        before = ConvolutionStep(deep, dtype, norm=None, scale=1.0, clamp=Clamp(None))
        return PairStep(before, ConvolutionStep(flat, dtype, norm=then, scale=scale, clamp=clamp))
    convolution = Convolution(layer, layer.kernel, bias, depthwise=type(layer) is layers.DepthwiseConv2D)
    return ConvolutionStep(convolution, dtype, norm=then, scale=scale, clamp=clamp)


def _plain(node: Any) -> PlainStep:
    """Run a layer as PyTorch has it where that is alike, else as Keras has it."""
    layer = node.operation
    if _is_pooling(layer):
        return PlainStep(lambda maps, training: _pooled(layer, maps[0]), [])
    ceiling = _ceiling(layer)
    if ceiling is not None:
        relu = torch.relu if math.isinf(ceiling) else lambda values: values.clamp(0, ceiling)
        return PlainStep(lambda maps, training: relu(maps[0]), [])
    if type(layer) is layers.ZeroPadding2D and layer.data_format == "channels_last":
        (top, bottom), (left, right) = layer.padding
        return PlainStep(lambda maps, training: functional.pad(maps[0], (left, right, top, bottom)), [])
    keys = [id(symbol) for symbol in node.input_tensors]
    takes_training = getattr(layer, "_call_has_training_arg", False)

    def as_keras(maps: list[Any], training: bool) -> Any:
        given = {key: _as_keras(values) for key, values in zip(keys, maps, strict=True)}
        positional, named = node.arguments.fill_in(given)
        named = {**named, "training": training} if takes_training else named
        return _as_map(layer(*positional, **named))

    return PlainStep(as_keras, list(getattr(layer, "weights", [])))  # frozen ones too: they may learn later


def _pooled(layer: Any, images: Any) -> Any:
    padding: Any = (0, 0)
    if layer.padding == "same":
        left, right, top, bottom = same_padding(images.shape[2:], layer.pool_size, layer.strides)
        padding = (top, left)
        if (left, top) != (right, bottom):
            images, padding = functional.pad(images, (left, right, top, bottom), value=float("-inf")), (0, 0)
    if type(layer) is layers.MaxPooling2D:
        return functional.max_pool2d(images, layer.pool_size, layer.strides, padding)
    return functional.avg_pool2d(images, layer.pool_size, layer.strides, padding, count_include_pad=False)


# What a layer must be for a step to stand in for it


def _on_images(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last" and len(layer.output.shape) == 4


def _is_convolution(layer: Any) -> bool:
    known = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
    plain = type(layer) in known and _on_images(layer) and not getattr(layer, "lora_enabled", False)
    return plain and layer.activation in (keras.activations.linear, keras.activations.relu)


def _is_normalization(layer: Any) -> bool:
    if type(layer) is not layers.BatchNormalization:
        return False
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    otherwise = getattr(layer, "synchronized", False) or getattr(layer, "renorm", False)
    return len(layer.output.shape) == 4 and axis in (-1, 3) and not otherwise


def _is_sum(layer: Any) -> bool:
    alike = type(layer) is layers.Add and len(layer.output.shape) == 4
    return alike and len({tuple(symbol.shape) for symbol in layer.input}) == 1


def _is_pooling(layer: Any) -> bool:
    if type(layer) not in (layers.MaxPooling2D, layers.AveragePooling2D) or not _on_images(layer):
        return False
    if type(layer) is layers.MaxPooling2D or layer.padding == "valid":
        return True
    if None in layer.input.shape[1:3]:
        return False
    left, right, top, bottom = same_padding(layer.input.shape[1:3], layer.pool_size, layer.strides)
    return (left, top) == (right, bottom)


def _scale(layer: Any) -> float | None:
    """Tell what InceptionResNetV2 scales a branch by before it adds it to its shortcut; None for another layer."""
    return float(layer.scale) if type(layer).__name__ == "CustomScaleLayer" else None


def _adds_to_shortcut(node: Any, convolution: Any) -> bool:
    return bool(_scale(node.operation)) and node.input_tensors[1] is convolution.outputs[0]


def _ceiling(layer: Any) -> float | None:
    """Tell where a ReLU ends, infinity for the plain one; None for a layer that is none."""
    if type(layer) is layers.Activation:
        return math.inf if layer.activation is keras.activations.relu else None
    if type(layer) is layers.ReLU and not layer.negative_slope and not layer.threshold:
        return math.inf if layer.max_value is None else float(layer.max_value)
    return None
