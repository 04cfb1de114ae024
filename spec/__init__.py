"""The executable specification of AlexNet: its language, its meaning, and its variants. Imports no framework.

>>> import spec
>>> alexnet = spec.load("source-2012")
>>> spec.geometry(alexnet).parameter_count
60965224
"""

from typing import TYPE_CHECKING, Any

from spec.arithmetic import Geometry, GeometryError, LayerGeometry, dropout_shapes, geometry
from spec.errors import Problem, SpecError
from spec.language import Spec
from spec.loading import from_values, load, names, with_classes
from spec.schedule import Place, Settings, settings

if TYPE_CHECKING:
    from spec.initialisation import initial_parameter, initial_parameters

__all__ = [
    "Geometry",
    "GeometryError",
    "LayerGeometry",
    "Place",
    "Problem",
    "Settings",
    "Spec",
    "SpecError",
    "dropout_shapes",
    "from_values",
    "geometry",
    "initial_parameter",
    "initial_parameters",
    "load",
    "names",
    "settings",
    "with_classes",
]


def __getattr__(name: str) -> Any:
    """Initialisation needs NumPy, and reading a specification does not: import it when it is asked for."""
    if name in ("initial_parameter", "initial_parameters"):
        from spec import initialisation

        return getattr(initialisation, name)
    raise AttributeError(f"module 'spec' has no attribute {name!r}")
