"""The management of parameters by rule."""

from toque.models.parameters.freezing import Unfreezing, apply, freeze, unfreeze
from toque.models.parameters.rules import (
    Rule,
    Settings,
    by_optimizer,
    constrain,
    groups,
    initialise,
    is_hidden_matrix,
    layer_wise,
    rules,
    settings,
    unit_norm,
)
from toque.models.parameters.table import Table, count, shared, table

__all__ = [
    "Rule",
    "Settings",
    "Table",
    "Unfreezing",
    "apply",
    "by_optimizer",
    "constrain",
    "count",
    "freeze",
    "groups",
    "initialise",
    "is_hidden_matrix",
    "layer_wise",
    "rules",
    "settings",
    "shared",
    "table",
    "unfreeze",
    "unit_norm",
]
