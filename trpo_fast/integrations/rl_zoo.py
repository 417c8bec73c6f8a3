"""Has rl-baselines3-zoo train ``--algo trpo`` with the class of this package:

python -m rl_zoo3.train --algo trpo --env Hopper-v5 --gym-packages trpo_fast.integrations.rl_zoo

Importing this module puts the class into the zoo's table; ``rl_zoo3.enjoy`` takes it likewise.
"""

from .._base.extras import require
from .sb3 import TRPO

require("rl_zoo3", "trpo_fast.integrations.rl_zoo", "sb3").ALGOS["trpo"] = TRPO
