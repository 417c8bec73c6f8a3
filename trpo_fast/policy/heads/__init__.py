"""Action heads: the distributions of actions, one file each, and the list of them."""

import sys

from .base import Head as Head
from .base import check_is_head as check_is_head
from .bernoulli import Bernoulli as Bernoulli
from .beta import Beta as Beta
from .categorical import Categorical as Categorical
from .gaussian import Gaussian as Gaussian
from .gaussian import SquashedGaussian as SquashedGaussian
from .multicategorical import MASKED as MASKED
from .multicategorical import MultiCategorical as MultiCategorical
from .register import register_head as register_head
from .register import unregister_head as unregister_head
from .registry import KINDS as KINDS
from .registry import STOCK_HEADS as STOCK_HEADS
from .registry import free_of as free_of
from .registry import head_for_space as head_for_space
from .registry import head_of_distribution as head_of_distribution
from .registry import head_of_kind as head_of_kind
from .registry import without_head as without_head
from .taken import TakenActions as TakenActions

# The name of this module in policies that torch.save wrote before it had folders.
sys.modules["trpo_fast.heads"] = sys.modules[__name__]
