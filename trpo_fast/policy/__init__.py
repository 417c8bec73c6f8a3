"""Policies: the net, its flat parameters, heads and their distributions."""

from .flat import flat_params as flat_params
from .net import MLPPolicy as MLPPolicy
from .spec import NetSpec as NetSpec
