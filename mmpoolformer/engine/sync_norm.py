"""Synchronised BatchNorm for processes on CPUs; torch's own runs on GPUs alone."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm


class JoinedSum(Function):
    """The sum of a tensor over the processes of a group, and of its gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        """Add up what all processes have; all must call it."""
        ctx.group = group
        values = values.detach().clone()
        dist.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        """Add up the gradients: each process's loss depends on everybody's values."""
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class CpuSyncBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of all processes of a group, on CPUs.

    Processes may hold different numbers of images. Mean and variance are those that one
    process would find for all images, up to the order of summation; computed in
    float32 at least.
    """

    process_group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, norm: nn.SyncBatchNorm) -> 'CpuSyncBatchNorm':
        """Return a norm that shares parameters and statistics with torch's."""
        joined = cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
        )
        joined.process_group = norm.process_group
        for own, others in (
            (joined._parameters, norm._parameters),
            (joined._buffers, norm._buffers),
        ):
            own.update(others)
        return joined.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps (B, C, ...) by the images of all processes."""
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)  # (C,) -> (1, C, 1, ...)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = values.new_tensor([x.numel() / x.shape[1]])
        sums = torch.cat([values.sum(dims), count])
        sums = JoinedSum.apply(sums, self.process_group)
        mean, total = sums[:-1] / sums[-1], sums[-1].detach()
        values = values - mean.view(shape)
        squares = JoinedSum.apply(values.square().sum(dims), self.process_group)
        var = squares / total
        self._track(mean.detach(), var.detach(), total)
        values = values * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            values = values * self.weight.view(shape) + self.bias.view(shape)
        return values.to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f'expected at least 2 dimensions, not {x.ndim}')

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, total: Tensor) -> None:
        """Let the running statistics follow, as BatchNorm does."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # the average of all batches so far
            momentum = 1 / self.num_batches_tracked.item()
        unbiased = var * total / (total - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def use_cpu_norms(model: nn.Module) -> None:
    """Replace each `SyncBatchNorm` inside a model by `CpuSyncBatchNorm`, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, CpuSyncBatchNorm.of(child))
