"""AlexNet in PyTorch: ``build(spec)`` is a plain ``nn.Module``, ``SGD`` the specification's update rule.

>>> import spec, backends.torch
>>> network = backends.torch.build(spec.load("torchvision"))
>>> optimizer = backends.torch.SGD(network.named_parameters(), network.spec)
"""

from backends.torch.model import AlexNet, build
from backends.torch.optimizer import SGD

__all__ = ["SGD", "AlexNet", "build"]
