"""The classes and functions that a written PyTorch file brings along, as text."""

from __future__ import annotations

_IF = '''
class IF(nn.Module):
    """Integrate-and-fire neurons, which send theta where u reaches theta."""

    def __init__(self, theta, v_init{bias_argument}):
        super().__init__()
        self.register_buffer("theta", torch.ones(theta))
        self.register_buffer("v_init", torch.zeros(v_init))
{bias_buffer}        self.v = None

    def reset(self):
        self.v = None

    def forward(self, drive):
        v = self.v_init if self.v is None else self.v
        u = v + {drive}
        spikes = (u >= self.theta).to(u.dtype)
        self.v = {after}
        return self.theta * spikes
'''

_ACCUMULATE = '''
class AccumulateThenFire(nn.Module):
    """Neurons that sum the drive of rho steps, then spread their spikes evenly."""

    def __init__(self, rho, theta, v_init{bias_argument}):
        super().__init__()
        self.rho = rho
        self.register_buffer("theta", torch.ones(theta))
        self.register_buffer("v_init", torch.zeros(v_init))
{bias_buffer}
    def forward(self, drives):
{biased}        total = torch.stack(drives[: self.rho]).sum(0) + self.v_init
        count = torch.floor(total / self.theta).clamp(0, self.rho)
        # every second neuron rounds one half down, so that they cancel
        odd = torch.arange(count[0].numel(), device=count.device) % 2
        half = self.rho - odd.view(count.shape[1:])
        sent = [
            torch.floor((2 * count * t + half) / (2 * self.rho))
            for t in range(len(drives) + 1)
        ]
        return [self.theta * (sent[t + 1] - sent[t]) for t in range(len(drives))]
'''

_RUNNING_MAX_POOL = '''
class RunningMaxPool(nn.Module):
    """Max-pooling of running sums: sends by how much the maximum of the sums grew."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.total = None

    def reset(self):
        self.total = None

    def forward(self, x):
        before = torch.zeros_like(x) if self.total is None else self.total
        self.total = before + x
        return self.pool(self.total) - self.pool(before)
'''

_GLOBAL_MAX_POOL = '''
class GlobalMaxPool(nn.Module):
    """The maximum over some dimensions."""

    def __init__(self, dim, keepdim):
        super().__init__()
        self.dim = dim
        self.keepdim = keepdim

    def forward(self, x):
        return torch.amax(x, self.dim, self.keepdim)
'''

_RUNNING_MEAN = '''
def running_mean(values):
    """The means of the first 1, 2, ... of some tensors."""
    means, total = [], 0
    for t, value in enumerate(values, 1):
        total = total + value
        means.append(total / t)
    return means
'''


def neurons(*, bias: bool, soft: bool) -> str:
    """The class of integrate-and-fire neurons.

    Args:
        bias: whether some have a bias.
        soft: whether theta is subtracted after a spike, or the potential set to zero.
    """
    return _IF.format(
        **_bias(bias),
        drive="(drive if self.bias is None else drive + self.bias)" if bias else "drive",
        after="u - self.theta * spikes" if soft else "torch.where(spikes > 0, 0.0, u)",
    )


def accumulating_neurons(*, bias: bool) -> str:
    """The class of neurons that accumulate, then fire."""
    biased = "        if self.bias is not None:\n            drives = [drive + self.bias for drive in drives]\n"
    return _ACCUMULATE.format(**_bias(bias), biased=biased if bias else "")


def _bias(bias: bool) -> dict[str, str]:
    zeros = "None if bias is None else torch.zeros(bias)"
    line = f'        self.register_buffer("bias", {zeros})\n'
    return {"bias_argument": ", bias=None" if bias else "", "bias_buffer": line if bias else ""}


def pools(*, running: bool, whole: bool) -> str:
    """The classes of pooling that PyTorch does not have."""
    return (_RUNNING_MAX_POOL if running else "") + (_GLOBAL_MAX_POOL if whole else "")


def running_mean() -> str:
    """The function for running means."""
    return _RUNNING_MEAN
