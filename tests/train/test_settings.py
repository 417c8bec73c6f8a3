"""Each setting is stated once: Config, the updates, the critic and the command line agree on it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_args

import pytest
import torch
from cases import Case

from trpo_fast import (
    FisherOperator,
    MLPPolicy,
    Penalty,
    kl_penalty_update,
    npg_update,
    pg_update,
    rat_update,
    trpo_update,
)
from trpo_fast._base import choices
from trpo_fast._base.options import UpdateOptions
from trpo_fast._base.settings import Setting, declared
from trpo_fast.backends.registry import registry
from trpo_fast.learner.critic import Critic
from trpo_fast.train import rules
from trpo_fast.train.config import Config, from_dict, groups, make_config
from trpo_fast.train.presets import OWN_TENSOR, PRESETS, TENSOR, in_flags, preset_for

SETTINGS = declared(Config)
CASE = Case("gaussian", obs_dim=3, rows=24, dtype=torch.float32)

TAKERS: dict[str, Any] = {
    "trpo_update": trpo_update,
    "npg_update": npg_update,
    "pg_update": pg_update,
    "kl_penalty_update": kl_penalty_update,
    "rat_update": rat_update,
    "FisherOperator": FisherOperator,
    "Penalty": Penalty,
    "Critic": Critic,
}
ALGORITHMS = {
    "trpo": "trpo_update",
    "npg": "npg_update",
    "pg": "pg_update",
    "kl-penalty": "kl_penalty_update",
    "rat": "rat_update",
}
# What is no setting: the objects themselves, and what the trainer knows.
OBJECTS = set("policy batch penalty obs obs_dim weights action_mask actions optimizer".split())
OBJECTS |= {"sync", "options", "device", "dtype", "sequence_length", "starts", "state", "group"}
# Arguments that are settings of another name; every other has its own.
RENAMED = {
    ("npg_update", "learning_rate"): "npg_learning_rate",
    ("pg_update", "learning_rate"): "pg_learning_rate",
    ("pg_update", "max_grad_norm"): "pg_max_grad_norm",
    ("rat_update", "max_rows"): "rat_max_rows",
    ("kl_penalty_update", "inner"): "penalty_inner",
    ("kl_penalty_update", "adam_steps"): "penalty_adam_steps",
    ("kl_penalty_update", "learning_rate"): "penalty_learning_rate",
    ("kl_penalty_update", "rounds"): "penalty_rounds",
    ("kl_penalty_update", "tolerance"): "penalty_tolerance",
    ("Penalty", "value"): "penalty",
    ("Penalty", "target_kl"): "max_kl",
    ("Penalty", "rule"): "penalty_rule",
    ("Penalty", "rate"): "penalty_rate",
    ("Penalty", "min_value"): "penalty_min",
    ("Penalty", "max_value"): "penalty_max",
    ("Critic", "method"): "critic",
    **{
        ("Critic", name): f"critic_{name}"
        for name in "hidden learning_rate epochs minibatch steps cg_iterations damping "
        "fraction".split()
    },
}


def arguments(name: str) -> dict[str, Any]:
    """The arguments of a function that are settings, with their defaults; ``fvp_rows`` is the
    number of rows that ``fvp_fraction`` stands for, and has no default of its own; ``group`` is a
    thing of the process.
    """
    parameters = inspect.signature(TAKERS[name]).parameters
    found = {key: value.default for key, value in parameters.items() if key not in OBJECTS}
    if "options" in parameters:
        found |= {
            key: getattr(Config, key)
            for key in UpdateOptions.__annotations__
            if key not in ("fvp_rows", "group")
        }
    found.pop("fvp_rows", None)
    return found


PAIRS = [
    (name, argument, RENAMED.get((name, argument), argument))
    for name in TAKERS
    for argument in arguments(name)
]


def other(setting: Setting) -> Any:
    """A value that is not the default."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if setting.kind is bool:
        return not setting.default
    if setting.kind is int:
        return 3 if setting.default is None else setting.default + 1
    return 0.5 * setting.default if setting.default else 0.25


def test_help_of_update_options_describes_each() -> None:
    lines = (UpdateOptions.__doc__ or "").splitlines()
    for name in UpdateOptions.__annotations__:
        assert any(line.startswith(f"    {name}: ") for line in lines)


@pytest.mark.parametrize(("name", "argument", "setting"), PAIRS)
def test_an_option_is_a_setting_with_the_same_default(
    name: str, argument: str, setting: str
) -> None:
    assert setting in SETTINGS, f"{argument} of {name} cannot be reached from Config"
    assert arguments(name)[argument] == SETTINGS[setting].default


@pytest.mark.parametrize("algorithm", get_args(choices.Algorithm))
def test_a_setting_arrives_at_the_update(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, seen = ALGORITHMS[algorithm], {}
    monkeypatch.setattr(rules, name, lambda *_, **given: seen.update(given))
    wanted = {argument: setting for owner, argument, setting in PAIRS if owner == name}
    values = {setting: other(SETTINGS[setting]) for setting in wanted.values()}
    config = Config(algorithm=algorithm, fvp_fraction=0.25, **values)
    policy = CASE.policy()
    rules.apply_rule(policy, CASE.batch(policy), config, Penalty(), config.max_kl, sync=True)
    assert {argument: seen[argument] for argument in wanted} == {
        argument: values[setting] for argument, setting in wanted.items()
    }
    assert algorithm == "pg" or seen["fvp_rows"] == 6  # a plain gradient takes no such products


def test_a_setting_arrives_at_the_penalty() -> None:
    fields = {argument: setting for owner, argument, setting in PAIRS if owner == "Penalty"}
    values = {setting: other(SETTINGS[setting]) for setting in fields.values()}
    penalty = rules.make_penalty(Config(**values))
    assert dataclasses.asdict(penalty) == {name: values[fields[name]] for name in fields}


def refused(call: Any, argument: str) -> bool:
    try:
        call()
    except ValueError as error:
        name, _, sentence = str(error).partition(": expected ")
        assert sentence and name in (argument, argument.replace("min", "max"))
        return True
    return False


VALUES = (-1, 0, 0.0, 1.0, 1.5, float("nan"), float("inf"), True, "x")
VALUES += (2**31, 10**30, 10**400, 10**5000)


@pytest.mark.parametrize(("name", "argument", "setting"), PAIRS)
def test_config_and_functions_refuse_the_same(name: str, argument: str, setting: str) -> None:
    policy = CASE.policy()
    batch = CASE.batch(policy)
    first: dict[str, tuple[Any, ...]] = {
        "FisherOperator": (policy, batch.obs),
        "Critic": (3,),
        "Penalty": (),
        "kl_penalty_update": (policy, batch, Penalty()),
    }
    positional = first.get(name, (policy, batch))
    for value in VALUES:
        # The method of a critic is called by its setting's name in either.
        mine = "critic" if (name, argument) == ("Critic", "method") else argument
        options = {argument: value}
        here = refused(lambda o=options: TAKERS[name](*positional, **o), mine)
        there = refused(lambda v=value: Config(**{setting: v}), setting)
        assert here == there, (value, here, there)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_a_setting_says_what_it_is(setting: Setting) -> None:
    assert setting.help and setting.check(setting.default) == setting.default
    if setting.kind in (int, tuple):  # no integer that C++ could not hold
        wrong = 2**64 if setting.kind is int else (2**64,)
        with pytest.raises(ValueError, match=rf"^{setting.name}: expected .* (most|to) \d+, got"):
            Config(**{setting.name: wrong})
    if setting.kind is float:
        wrong = {"nan", "-inf"} | (set() if "or_inf" in setting.bounds else {"inf"})
        for value in map(float, sorted(wrong)):
            with pytest.raises(ValueError, match=f"^{setting.name}: expected .*, got {value}"):
                Config(**{setting.name: value})


# The settings of the first files and checkpoints: they must be there as long as those are read.
FIRST = """env engine workers num_envs rows_per_update seed device backend precision algorithm
sampling hidden activation std initial_log_std action_mode gamma gae_lambda normalize_advantages
normalize_observations normalize_rewards observation_clip max_kl max_kl_final max_kl_hold
max_kl_steps scale_kl damping cg_iterations cg_tol backtrack_ratio backtrack_steps kl_reduction
kl_direction fvp_fraction chunk_rows npg_learning_rate pg_learning_rate pg_max_grad_norm penalty
penalty_rule penalty_rate penalty_inner penalty_adam_steps penalty_learning_rate critic
critic_hidden critic_learning_rate critic_epochs critic_minibatch critic_rows critic_steps
critic_cg_iterations critic_damping critic_fraction vine_states vine_branches vine_length"""


def test_settings_are_flat_and_those_of_old_files() -> None:
    assert set(FIRST.split()) <= set(SETTINGS)
    assert from_dict({name: getattr(Config(), name) for name in FIRST.split()}) == Config()
    grouped = [name for group in groups().values() for name in declared(group)]
    assert grouped == list(SETTINGS)


def test_the_config_holds_plain_values() -> None:
    numpy = pytest.importorskip("numpy")
    config = Config(num_envs=numpy.int64(4), gamma=numpy.float32(0.5), hidden=[numpy.int32(8)])
    assert (type(config.num_envs), type(config.gamma)) == (int, float)
    assert config.hidden == (8,) and type(config.hidden[0]) is int


def test_precisions_are_those_that_are_served() -> None:
    served = {precision for backend in registry().values() for precision in backend.precisions}
    assert served == set(get_args(choices.Precision))
    policy = CASE.policy()
    sentence = r"^precision: expected one of \('fp32', .*\), got 'fp8'"
    with pytest.raises(ValueError, match=sentence):
        FisherOperator(policy, CASE.batch(policy).obs, precision="fp8")
    with pytest.raises(ValueError, match=sentence):
        Config(precision="fp8")


def test_lists_are_those_of_what_there_is() -> None:
    assert set(get_args(choices.Backend)) == {"auto", *registry()}
    for activation in get_args(choices.Activation):
        MLPPolicy(2, CASE.policy().head, (2,), activation)


def test_an_infinite_max_kl_is_blamed_on_max_kl() -> None:
    with pytest.raises(ValueError, match=r"^max_kl: expected a finite number above 0, got inf"):
        make_config("CartPole-v1", max_kl=float("inf"))


def test_a_penalty_that_was_spoiled_moves_nothing() -> None:
    policy = CASE.policy()
    before = policy.state_dict()["net.0.weight"].clone()
    for name in ("value", "target_kl", "min_value"):
        penalty = Penalty()
        setattr(penalty, name, -1.0)
        with pytest.raises(ValueError, match=f"^{name}: expected a finite number above 0, got -1"):
            kl_penalty_update(policy, CASE.batch(policy), penalty)
    assert torch.equal(before, policy.state_dict()["net.0.weight"])
    with pytest.raises(
        ValueError, match="max_value: expected a finite number of at least 2, got 1"
    ):
        Penalty(min_value=2.0, max_value=1.0)
    with pytest.raises(ValueError, match="penalty_max: expected at least penalty_min 2, got 1"):
        Config(penalty_min=2.0, penalty_max=1.0)


def test_solves_take_no_number_past_an_int() -> None:
    policy = CASE.policy()
    F = FisherOperator(policy, CASE.batch(policy).obs)
    with pytest.raises(ValueError, match=r"^iterations: expected an integer of at most 2147483647"):
        F.solve(torch.zeros(F.shape[0]), 2**31)


@pytest.mark.parametrize(
    "preset", [TENSOR, *OWN_TENSOR.values(), *(values for _, values in PRESETS)]
)
def test_presets_are_settings(preset: dict[str, Any]) -> None:
    assert from_dict(preset) != Config() and set(preset) <= set(SETTINGS)


def test_an_environment_of_tensors_has_its_own_over_theirs() -> None:
    preset = preset_for("Quadrotor-v0", "tensor")
    assert preset == TENSOR | OWN_TENSOR["Quadrotor"] and preset["critic_epochs"] == 4
    assert preset_for("CartPole-v1", "tensor")["critic_epochs"] == TENSOR["critic_epochs"]


def test_a_preset_as_flags() -> None:
    assert in_flags("LQR-v0", "sync") == (
        "--gamma 0.9 --no-normalize-observations --rows-per-update 4096"
    )
    assert "--critic-hidden 128 128" in in_flags("Swimmer-v5", "sync")
    assert in_flags("Antelope", "sync") == "nothing, it has none"
