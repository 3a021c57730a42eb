"""Batch norm over the images of all processes: Ioffe and Szegedy 2015, Algorithm 1."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm

from ganctl import distributed


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is the whole run's, however many processes share it.

    Each computes moments of its share, and all gather them: on GPUs and, unlike with
    `nn.SyncBatchNorm`, on CPUs too. In one process it is the library's, to the bit.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); B is this process's share."""
        if not self.training or distributed.size() == 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        normalized, mean, variance = _Normalize.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            count = distributed.size() * input.numel() // self.num_features
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return normalized


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias; returns mean (C,) and variance (C,) too.

    The moments are those of all processes' x. Gradients are of the sum of all processes' losses, as
    each process's x has a part in all of them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(x.dtype, torch.float32)  # of the moments, of bf16 maps as well
        like = x.new_zeros(x.shape[1], dtype=exact)
        own = torch.batch_norm_update_stats(x, like, like.clone(), 0.0)
        means, variances = distributed.gathered(torch.stack(own)).unbind(1)  # (N, C) each
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """With g the gradient and h the normalised x: (g - mean(g) - h mean(g h)) weight / std."""
        x, weight, mean, variance = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )  # sums of this process's g h and g
        count = x.numel() // x.shape[1]
        along, level = distributed.averaged(torch.stack([of_weight, of_bias])) / count
        inverse = (variance + ctx.eps).rsqrt()
        gain = scale * inverse
        slope = gain * inverse * along
        offset, slope, gain = (
            each[:, None, None] for each in (mean * slope - gain * level, slope, gain)
        )
        of_x = torch.addcmul(offset, x, slope, value=-1).addcmul_(gradient, gain).to(x.dtype)
        return (of_x, None, None, None) if weight is None else (of_x, of_weight, of_bias, None)
