"""The settings of a run that the trainer alone has, in groups that ``Config`` inherits: type,
range, default and description of each. Those of updates are in _base/options.py, of
policies and critics in _base/net_options.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from .._base.choices import AdvantageEstimator, Algorithm, Engine, KlRule, Sampling, VineActions
from .._base.net_options import WITH_MEMORY
from .._base.options import COUNT, LONG
from .._base.settings import Above, AtLeast, AtMost, OrInfinite


@dataclass
class EnvironmentSettings:
    """Which environment, who steps its copies, and where."""

    env: Annotated[
        str, Doc("gymnasium id, module:Id, name for EnvPool, or name of a tensor environment")
    ] = "CartPole-v1"
    engine: Annotated[
        Engine,
        Doc(
            "who steps the copies: gymnasium in this process (sync), in this one and workers that "
            "share its memory (workers), in a process for each copy (async), EnvPool, or tensors "
            "on the device"
        ),
    ] = "sync"
    workers: Annotated[
        int | None,
        AtLeast(0),
        COUNT,
        Doc("engine workers: processes beside this one; by default one for each further core"),
    ] = None
    num_envs: Annotated[int, AtLeast(1), AtMost(10**6), Doc("copies of the environment")] = 8
    seed: Annotated[int, AtLeast(0), LONG, Doc("of weights, actions, minibatches and episodes")] = 0
    device: Annotated[
        str,
        Doc("cpu, cuda, cuda:0, ...; auto: where a tensor environment lives, otherwise the CPU"),
    ] = "auto"


@dataclass
class RolloutSettings:
    """What one update learns from: rows, advantages, and how both are normalised."""

    rows_per_update: Annotated[
        int,
        AtLeast(1),
        COUNT,
        Doc("transitions per update, over all copies; rounded up to whole steps of every copy"),
    ] = 2048
    sequence_length: Annotated[
        int | None,
        AtLeast(1),
        COUNT,
        WITH_MEMORY,
        Doc(
            "gru, lstm: gradients go back through at most so many steps, a divisor "
            "of a rollout's; by default through the whole rollout"
        ),
    ] = None
    sampling: Annotated[
        Sampling,
        Doc(
            "path: one trajectory per copy; vine: branches from saved states as well, for "
            "environments whose states can be saved"
        ),
    ] = "path"
    gamma: Annotated[
        float,
        AtLeast(0.0),
        AtMost(1.0),
        Doc("discount of a reward per step; rows are not weighed by it, see discount_weights"),
    ] = 0.99
    discount_weights: Annotated[
        bool,
        Doc("weigh the row of step t of an episode by gamma^t, in the surrogate and in the KL"),
    ] = False
    advantage: Annotated[
        AdvantageEstimator,
        Doc(
            "gae: generalised advantage estimation; n_step: rewards of n_step steps, then the "
            "critic, minus the critic; returns: the discounted return itself, without a baseline"
        ),
    ] = "gae"
    gae_lambda: Annotated[
        float, AtLeast(0.0), AtMost(1.0), Doc("gae: 0 trusts the critic, 1 the rewards")
    ] = 0.95
    n_step: Annotated[
        int, AtLeast(1), COUNT, Doc("n_step: rewards before the critic stands in for the rest")
    ] = 5
    normalize_advantages: Annotated[
        bool, Doc("shift and scale the advantages of an update to mean 0 and deviation 1")
    ] = True
    normalize_observations: Annotated[
        bool, Doc("shift and scale observations by their running mean and deviation")
    ] = True
    normalize_rewards: Annotated[
        bool, Doc("divide rewards by the running deviation of the discounted return")
    ] = False
    observation_clip: Annotated[
        float,
        Above(0.0),
        OrInfinite(),
        Doc("normalised observations are clipped to plus and minus this; inf clips nothing"),
    ] = 10.0


@dataclass
class AlgorithmSettings:
    """Which update moves the policy, and how its limit changes over a run."""

    algorithm: Annotated[
        Algorithm,
        Doc(
            "trpo: natural gradient with a line search; npg: without one; pg: plain gradient; "
            "kl-penalty: a penalty on the KL in place of a limit; rat: as trpo, by a direct solve "
            "among the rows"
        ),
    ] = "trpo"
    max_kl_final: Annotated[
        float | None,
        Above(0.0),
        Doc(
            "where max_kl goes, from max_kl_hold environment steps on until max_kl_steps; without "
            "it max_kl stays"
        ),
    ] = None
    max_kl_hold: Annotated[
        int, AtLeast(0), LONG, Doc("environment steps before max_kl begins to change")
    ] = 0
    max_kl_steps: Annotated[
        int, AtLeast(1), LONG, Doc("environment steps at which max_kl_final is reached")
    ] = 1_000_000
    scale_kl: Annotated[
        bool,
        Doc(
            "smaller updates where the advantages vary less than they did on average: max_kl times "
            "min(1, their variance over its mean so far)"
        ),
    ] = False
    kl_rule: Annotated[
        KlRule,
        Doc(
            "gain: max_kl grows after an update whose surrogate rose about as much as the gradient "
            "says, shrinks after one where it rose much less or no step was accepted"
        ),
    ] = "fixed"
    kl_least: Annotated[float, Above(0.0), Doc("gain: max_kl is never less")] = 1e-4
    kl_most: Annotated[float, Above(0.0), Doc("gain: max_kl is never more")] = 0.05
    kl_factor: Annotated[
        float, Above(1.0), Doc("gain: max_kl is multiplied or divided by this")
    ] = 1.5
    gain_poor: Annotated[
        float, Doc("gain: max_kl shrinks where the rise is a smaller share of the predicted one")
    ] = 0.5
    gain_good: Annotated[
        float, Doc("gain: max_kl grows where the rise is a larger share of the predicted one")
    ] = 0.9
    updates_per_rollout: Annotated[
        int,
        AtLeast(1),
        COUNT,
        Doc(
            "updates on the rows of one rollout; update j of n may go to a KL of (j / n)^2 max_kl "
            "from the policy that sampled them"
        ),
    ] = 1
    fvp_fraction: Annotated[
        float, Above(0.0), AtMost(1.0), Doc("share of the rows that Fisher-vector products use")
    ] = 1.0


@dataclass
class VineSettings:
    """Branches from saved states, with sampling vine."""

    vine_states: Annotated[int, AtLeast(1), COUNT, Doc("states of the rollout set per update")] = 64
    vine_branches: Annotated[
        int,
        AtLeast(2),
        COUNT,
        Doc("actions tried in each, where the action set is not small enough to try all"),
    ] = 4
    vine_actions: Annotated[
        VineActions,
        Doc(
            "where not all are tried, actions are drawn from the policy; or, of a discrete set, "
            "each with the same probability"
        ),
    ] = "policy"
    vine_length: Annotated[
        int, AtLeast(1), COUNT, Doc("steps of a branch before the critic stands in for the rest")
    ] = 32
