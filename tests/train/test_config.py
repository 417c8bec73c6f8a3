"""Settings: presets, TOML round trips, precedence, and a sentence for every bad value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from trpo_fast._base.choices import Engine
from trpo_fast.envs.engines import ENGINES
from trpo_fast.train.config import Config, from_dict, make_config, read_toml, write_toml
from trpo_fast.train.presets import describe, preset_for


def test_precedence_is_preset_then_file_then_arguments(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("gamma = 0.5\nmax_kl = 0.5\nhidden = [32]\n")
    config = make_config("Swimmer-v5", file=file, max_kl=0.25)
    assert (config.gamma, config.max_kl, config.hidden) == (0.5, 0.25, (32,))
    assert make_config("Swimmer-v5").gamma == 0.999
    assert make_config("Swimmer-v5", preset=False).gamma == Config().gamma
    assert make_config("CartPole-v1", engine="tensor").num_envs == 4096


def test_the_environment_given_wins_over_the_files_and_the_files_engine_counts(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('env = "Hopper-v5"\nengine = "tensor"\n')
    config = make_config("Pendulum-v1", file=file)
    assert (config.env, config.gamma, config.num_envs) == ("Pendulum-v1", 0.9, 4096)
    config = make_config(file=file)
    assert (config.env, config.gamma, config.num_envs) == ("Hopper-v5", 0.995, 4096)
    assert make_config("Pendulum-v1", file=file, engine="sync").num_envs == 16
    assert make_config() == make_config("CartPole-v1")


def test_a_config_survives_toml(tmp_path: Path) -> None:
    config = make_config(
        "Hopper-v5",
        hidden=(),
        chunk_rows=100,
        engine="workers",
        workers=3,
        critic="gauss_newton",
        seed=3,
    )
    write_toml(config, tmp_path / "c.toml")
    assert from_dict(read_toml(tmp_path / "c.toml")) == config


@pytest.mark.parametrize("env", ["Walker2d-v5", "CartPole-v1", "Ant-v5"])
def test_none_survives_toml_and_a_preset(env: str, tmp_path: Path) -> None:
    config = make_config(env, max_kl_final=None, workers=None)
    write_toml(config, tmp_path / "c.toml")
    assert 'max_kl_final = "none"' in (tmp_path / "c.toml").read_text()
    assert make_config(env, file=tmp_path / "c.toml") == config
    (tmp_path / "d.toml").write_text('gamma = "none"\n')
    with pytest.raises(ValueError, match="gamma: expected a value, got None"):
        make_config(env, file=tmp_path / "d.toml")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_envs", 0, "num_envs: expected an integer of at least 1, got 0"),
        ("num_envs", 2.5, "num_envs: expected an integer of at least 1, got 2.5"),
        ("gamma", 1.5, "gamma: expected a number from 0 to 1, got 1.5"),
        ("gamma", float("nan"), "gamma: expected a number from 0 to 1, got nan"),
        ("max_kl", "big", "max_kl: expected a finite number above 0, got 'big'"),
        ("seed", True, "seed: expected an integer"),
        ("engine", "warp", "engine: expected one of"),
        ("workers", -1, "workers: expected an integer of at least 0, got -1"),
        ("critic", "sgd", "critic: expected one of"),
        ("device", 3, "device: expected a string, got 3"),
        ("hidden", (64, -1), "hidden: expected a sequence of integers"),
        ("normalize_rewards", "yes", "normalize_rewards: expected true or false, got 'yes'"),
        ("max_lk", 0.1, "max_lk: expected a setting such as 'max_kl', got an unknown name"),
    ],
)
def test_bad_values_are_sentences(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_config("CartPole-v1", **{name: value})
    assert message in str(caught.value)


def test_rollouts_hold_at_least_the_rows_asked_for() -> None:
    assert Config(num_envs=8, rows_per_update=2049).steps_per_update == 257
    assert Config(num_envs=4096, rows_per_update=1).steps_per_update == 1


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config: expected a TOML file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("gamma = = 1")
    with pytest.raises(ValueError, match="config: expected TOML in"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("env", "gamma"),
    [
        ("Pendulum-v1", 0.9),
        ("InvertedPendulum-v5", 0.99),
        ("Swimmer-v5", 0.999),
        ("Hopper-v5", 0.995),
        ("Walker2d-v5", 0.99),
    ],
)
def test_a_preset_is_its_own_familys(env: str, gamma: float) -> None:
    assert make_config(env).gamma == gamma


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Antelope", None),
        ("AntMaze_UMaze-v4", None),
        ("MyHopper-v0", None),
        ("InvertedSpring-v0", None),
        ("HopperEnv", "Hopper-v5"),
        ("ALE/Hopper-v0", "Hopper-v5"),
        ("module:Hopper-v5", "Hopper-v5"),
        ("HumanoidStandup-v5", "Ant-v5"),
        ("InvertedDoublePendulum-v5", "InvertedPendulum-v5"),
        ("LunarLanderContinuous-v3", "LunarLander-v3"),
        ("Pusher-v5", "HalfCheetah-v5"),
    ],
)
def test_presets_are_of_whole_names(name: str, family: str | None) -> None:
    wanted = {} if family is None else preset_for(family)
    assert preset_for(name) == wanted and (family is None or wanted)


def test_a_preset_in_one_line() -> None:
    config = make_config("Pendulum-v1", gamma=0.8).as_dict()
    wanted = "rows_per_update=4096, num_envs=16, max_kl=0.02; not its gamma"
    assert describe(config) == f"preset of Pendulum-v1: {wanted}"
    assert describe(make_config("Antelope").as_dict()) == "no preset for Antelope"


def test_every_engine_can_be_configured() -> None:
    assert (*ENGINES, "tensor") == get_args(Engine)
    for engine in get_args(Engine):
        assert Config(engine=engine).engine == engine
    with pytest.raises(ValueError, match=r"engine: expected one of \('sync', .*'tensor'\), got"):
        Config(engine="warp")
