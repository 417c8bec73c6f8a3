"""Policies: the net, its flat parameters, the heads, and in what a policy departs from its spec."""

from .flat import flat_params as flat_params
from .net import MLPPolicy as MLPPolicy
from .spec import NetSpec as NetSpec
