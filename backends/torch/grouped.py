"""Convolution in groups where cuDNN's own is slow: one for each group, or a dense one by a kernel with zeros.

On an H200 (conv4 and conv5 of paper-2012, batch 256, channels last, forward and backward;
``benchmarks/results/gpu-h200.json``) cuDNN's takes 1.4 times as long as one for each group in TF32, and 1.5 to 2.2
times in bfloat16, in which the dense one, with twice the products, is faster still: 2.2 to 2.8 times. With channels
first cuDNN's is as fast. Nothing has been measured without a backward, nor in float32 proper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """``F.conv2d`` of x (N, C, H, W) by weight (O, C / groups, h, w).

    In training on a GPU with channels last, in one of the other forms. There, in half precision, an infinity in one
    group makes the others' outputs NaN, as zeros are multiplied by it.
    """
    last = x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if groups == 1 or not last or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)
    computed = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    form = dense if groups == 2 and computed.itemsize == 2 else split
    return form(x, weight, bias, stride, padding, groups)


def split(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """A convolution for each group."""
    biases = [None] * groups if bias is None else bias.chunk(groups)
    parts = zip(x.chunk(groups, 1), weight.chunk(groups), biases, strict=True)
    return torch.cat([F.conv2d(*part, stride, padding) for part in parts], 1)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """One convolution by a block-diagonal kernel."""
    rows = weight.chunk(groups)
    zeros = [torch.zeros_like(row) for row in rows]
    blocks = [torch.cat([*zeros[:i], row, *zeros[i + 1 :]], 1) for i, row in enumerate(rows)]
    return F.conv2d(x, torch.cat(blocks), bias, stride, padding)
