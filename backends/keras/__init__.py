"""AlexNet in Keras, on TensorFlow (default), JAX or PyTorch: ``build(spec)`` is a plain ``keras.Model``.

>>> import keras, spec, backends.keras
>>> alexnet = spec.load("torchvision")
>>> network = backends.keras.build(alexnet)
>>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
>>> network.compile(backends.keras.SGD.of(alexnet), loss)

The framework is that of the environment variable ``KERAS_BACKEND`` when Keras is first imported, TensorFlow if unset.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on its own build are no news to a user
# By itself TensorFlow takes oneDNN only on CPUs with instructions for short integers or bfloat16. Its convolutions, and
# the gradients of grouped ones, which nothing else has there, are as quick on any other.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    from backends.keras.model import build
    from backends.keras.optimizer import SGD

__all__ = ["SGD", "build"]


def __getattr__(name: str) -> Any:
    """Import Keras when it is first needed: until then a command line can still choose its framework."""
    if name not in __all__:
        raise AttributeError(f"module 'backends.keras' has no attribute {name!r}")
    from backends.keras import model, optimizer

    return {"SGD": optimizer.SGD, "build": model.build}[name]
