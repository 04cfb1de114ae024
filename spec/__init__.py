"""The executable specification of AlexNet: its language, its meaning, and its variants. Imports no framework.

    >>> import spec
    >>> alexnet = spec.load("source-2012")
    >>> spec.geometry(alexnet).parameter_count
    60965224
"""

from spec.errors import Problem, SpecError
from spec.arithmetic import Geometry, GeometryError, LayerGeometry, dropout_shapes, geometry
from spec.initialisation import initial_parameter, initial_parameters
from spec.language import Spec
from spec.loading import from_values, load, names, with_classes
from spec.schedule import Place, Settings, settings

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
