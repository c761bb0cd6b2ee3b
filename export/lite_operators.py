"""The operators that a TorchScript Lite edge may use; every one leaves one value on the stack.

An allow-list: what is not here (``aten::save``, ``aten::from_file``, ``aten::as_strided``, prints,
Python calls, random numbers) is refused by name, and so is what has overloads with two results
(``aten::max``). Overloads are not told apart.
"""

from __future__ import annotations

_SHAPES_AND_NUMBERS = """
    __and__ __contains__ __getitem__ __is__ __isnot__ __not__ __or__ add ceil div eq floor
    floordiv ge gt le len lt mul ne neg numel remainder size sub
    Bool Float Int dim
"""
_TENSORS = """
    cat chunk clone constant_pad_nd contiguous detach dropout expand expand_as flatten
    narrow pad pad_replicate permute pixel_shuffle pixel_unshuffle reflection_pad2d
    replication_pad2d reshape select slice split squeeze stack t to transpose unsqueeze
    channel_shuffle view upsample_bilinear2d upsample_nearest2d
"""
_ACTIVATIONS = """
    celu celu_ clamp clamp_ clamp_max clamp_min elu elu_ gelu glu hardsigmoid hardsigmoid_
    hardswish hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ log_softmax mish mish_ prelu
    relu relu6 relu6_ relu_ selu selu_ sigmoid sigmoid_ silu silu_ softmax softplus tanh tanh_
"""
_LAYERS = """
    adaptive_avg_pool2d add_ addmm avg_pool2d batch_norm conv1d conv2d
    conv_transpose2d div_ group_norm instance_norm layer_norm linear matmul max_pool2d mean mul_
    sub_ sum exp sqrt rsqrt pow abs bmm
"""
_QUANTIZATION = "dequantize int_repr quantize_per_tensor q_scale q_zero_point"
_QUANTIZED = """
    add add_relu batch_norm2d batch_norm2d_relu cat cat_relu conv1d conv1d_relu conv2d
    conv2d_relu conv_transpose2d elu hardswish instance_norm layer_norm group_norm leaky_relu linear
    linear_relu matmul mul mul_relu prelu relu6 sigmoid softmax
"""


def _qualified(namespace: str, *groups: str) -> set[str]:
    return {f"{namespace}::{name}" for group in groups for name in group.split()}


#: Qualified names, as in ``bytecode.pkl``.
OPERATORS = frozenset(
    _qualified("aten", _SHAPES_AND_NUMBERS, _TENSORS, _ACTIVATIONS, _LAYERS, _QUANTIZATION)
    | _qualified("quantized", _QUANTIZED)
)
