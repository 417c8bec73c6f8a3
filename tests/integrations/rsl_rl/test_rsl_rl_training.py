"""Training by rsl_rl's runner, the critic's fit, checkpoints and settings."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rsl_rl")

from rsl_rl.algorithms import PPO
from rsl_rl.runners import OnPolicyRunner
from rsl_rl_cases import GAUSSIAN, MODEL, Swing, algorithm

from trpo_fast.integrations.rsl_rl import TRPO

NAME = "trpo_fast.integrations.rsl_rl:TRPO"
CNN = {
    "class_name": "CNNModel",
    "cnn_cfg": {"output_channels": [2], "kernel_size": 3, "activation": "tanh"},
}
RND = {"weight": 1.0, "num_outputs": 2, "predictor_hidden_dims": [4], "target_hidden_dims": [4]}


def runner(kind: str = NAME, envs: int = 8, log_dir: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    model = {**MODEL, "hidden_dims": [32, 32], "obs_normalization": True}
    cfg = {
        "algorithm": {"class_name": kind, **options},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": model,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "num_steps_per_env": 32,
        "save_interval": 100,
    }
    return OnPolicyRunner(Swing(envs), cfg, log_dir, "cpu")


def mean_reward(made: Any) -> float:
    return float(made.alg.storage.rewards.mean())


@pytest.mark.slow
def test_a_runner_that_knows_its_name_learns() -> None:
    made = runner(envs=64, critic_method="gauss_newton")
    made.learn(1, init_at_random_ep_len=True)
    first = mean_reward(made)
    made.learn(60)
    assert first < -0.4 and mean_reward(made) > 0.6 * first
    assert not bool(made.alg.actor.obs_normalizer.mean.eq(0.0).all())


def test_what_is_logged_and_saved_is_rsl_rl_s(tmp_path: Path) -> None:
    made = runner(log_dir=str(tmp_path), value_loss_coef=0.5)
    made.learn(2)
    assert made.logger.writer is not None and (tmp_path / "model_1.pt").exists()
    for kind in (NAME, "PPO"):
        other = runner(kind)
        other.load(str(tmp_path / "model_1.pt"))
        assert other.current_learning_iteration == 1
        for part in ("actor", "critic"):
            states = [getattr(each.alg, part).state_dict() for each in (other, made)]
            torch.testing.assert_close(*states, rtol=0.0, atol=0.0)
        other.learn(1)
    stock = runner("PPO", log_dir=str(tmp_path / "stock"))
    stock.learn(1)
    made.load(str(tmp_path / "stock" / "model_0.pt"))
    states = [each.alg.actor.state_dict() for each in (stock, made)]
    torch.testing.assert_close(*states, rtol=0.0, atol=0.0)
    made.learn(1)


@pytest.mark.parametrize("options", [{}, {"use_clipped_value_loss": False}, {"rnd_cfg": RND}])
def test_the_critic_follows_ppo_s_value_loss(options: dict[str, Any]) -> None:
    """Given the same permutation, and no schedule that moves PPO's learning rate."""
    told, pair = [], []
    for kind in (PPO, TRPO):
        given = copy.deepcopy(options)
        made = algorithm(kind, schedule="fixed", entropy_coef=0.0, **given)
        torch.manual_seed(3)
        told.append(made.update())
        pair.append(made)
    torch.testing.assert_close(*[[*m.critic.parameters()] for m in pair], rtol=1e-6, atol=1e-7)
    assert told[0]["value"] == pytest.approx(told[1]["value"], rel=1e-6)
    if options.get("rnd_cfg"):
        torch.testing.assert_close(*[[*m.rnd.predictor.parameters()] for m in pair])
        assert told[0]["rnd"] == pytest.approx(told[1]["rnd"], rel=1e-6)


def test_gauss_newton_fits_the_returns_better() -> None:
    losses = {}
    for method in ("adam", "gauss_newton"):
        made = algorithm(TRPO, critic_method=method, critic_fraction=1.0, rnd_cfg=dict(RND))
        storage = made.storage
        obs, returns = storage.observations.flatten(0, 1), storage.returns.flatten(0, 1).clone()
        told = made.update()
        losses[method] = float((made.critic(obs) - returns).square().mean())
    assert losses["gauss_newton"] < losses["adam"]
    assert told["value"] == pytest.approx(losses["gauss_newton"], rel=1e-5) and "rnd" in told


def test_a_critic_that_is_more_than_an_mlp_is_fitted_by_adam() -> None:
    with pytest.warns(UserWarning, match="it is fitted by Adam"):
        made = algorithm(TRPO, critic={"activation": "lrelu"}, critic_method="gauss_newton")
    before = [p.clone() for p in made.critic.parameters()]
    made.update()
    assert all(bool((p != q).any()) for p, q in zip(made.critic.parameters(), before, strict=True))


def test_a_shared_encoder_follows_the_actor_alone() -> None:
    made = algorithm(TRPO, image=True, actor=CNN, critic=CNN)
    shared = algorithm(TRPO, image=True, actor=CNN, critic=CNN, share_cnn_encoders=True)
    assert shared.critic.cnns is shared.actor.cnns
    assert made.critic.cnns is not made.actor.cnns
    with torch.no_grad():
        shared.storage.advantages = torch.zeros_like(shared.storage.advantages)
    before = copy.deepcopy(shared.actor.state_dict())
    shared.update()
    torch.testing.assert_close(shared.actor.state_dict(), before, rtol=0.0, atol=0.0)


def test_time_outs_are_bootstrapped_as_ppo_does() -> None:
    ours, theirs = algorithm(TRPO), algorithm(PPO)
    for name in ("rewards", "returns", "advantages"):
        assert torch.equal(getattr(ours.storage, name), getattr(theirs.storage, name))
    assert float(ours.storage.dones.sum()) > 0


def test_what_it_cannot_train_is_refused() -> None:
    with pytest.raises(ValueError, match="actor: expected a model without memory, got the rec"):
        algorithm(TRPO, actor={"class_name": "RNNModel", "rnn_hidden_dim": 4})
    with pytest.raises(ValueError, match="actor: expected a model with a distribution_cfg"):
        algorithm(TRPO, actor={"distribution_cfg": None})
    with pytest.raises(ValueError, match="damping: expected a finite number of at least 0"):
        algorithm(TRPO, damping=-1.0)
    with pytest.raises(ValueError, match="critic_method: expected one of"):
        algorithm(TRPO, critic_method="sgd")
    with pytest.raises(TypeError, match="dampin"):
        algorithm(TRPO, dampin=0.1)
    made = algorithm(TRPO)
    with pytest.raises(ValueError, match="multi_gpu_cfg: expected None: updates do not share"):
        TRPO(made.actor, made.critic, made.storage, multi_gpu_cfg={"world_size": 2})


def test_it_says_which_settings_of_ppo_it_does_not_use() -> None:
    with pytest.warns(UserWarning, match=r"TRPO does not use PPO's entropy_coef, schedule$"):
        algorithm(TRPO, entropy_coef=0.01, schedule="adaptive", desired_kl=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = algorithm(TRPO, entropy_coef=0.0, desired_kl=0.02)
        assert made.step_settings["max_kl"] == 0.02
        assert algorithm(TRPO, desired_kl=0.02, max_kl=0.03).step_settings["max_kl"] == 0.03
        assert algorithm(TRPO).step_settings["max_kl"] == 0.01


def test_a_compiled_actor_holds_the_same_parameters() -> None:
    """``torch_compile_mode`` wraps the models after this class has laid their parameters out."""
    made = algorithm(TRPO, critic_method="gauss_newton")
    before = {name: p.data_ptr() for name, p in made._raw_actor.mlp.named_parameters()}
    made.compile("default")
    assert made.actor is not made._raw_actor
    made.update()
    assert before == {name: p.data_ptr() for name, p in made._raw_actor.mlp.named_parameters()}


def test_models_that_were_moved_are_updated_where_they_are() -> None:
    """To another type here, as there is one device."""
    known = {**GAUSSIAN, "std_type": "scalar"}
    fit = {"critic_method": "gauss_newton", "critic_fraction": 1.0, "critic_steps": 1}
    pair = [algorithm(TRPO, actor={"distribution_cfg": known}, **fit) for _ in range(2)]
    made = pair[0]
    for name in ("observations", "actions", "advantages", "returns"):
        setattr(made.storage, name, getattr(made.storage, name).double())
    made.actor.double()
    made.critic.double()
    wide, narrow = (each.update() for each in pair)
    assert wide["accepted"] == 1.0 and made.actor.distribution.std_param.dtype == torch.float64
    assert wide == pytest.approx(narrow, rel=1e-3, abs=1e-5)
    parameters = [[p.float() for p in each.actor.parameters()] for each in pair]
    torch.testing.assert_close(*parameters, rtol=1e-3, atol=1e-4)


def test_the_critic_s_std_is_none_of_the_actor_s() -> None:
    made = algorithm(TRPO, actor={"distribution_cfg": {**GAUSSIAN, "init_std": 0.5}})
    made.update()
    assert torch.equal(made._critic_net.head.log_std, torch.zeros(1))
