"""A checkpoint decides no module that is imported and no file that is opened."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from envs_for_tests import Counting
from small_runs import SMALL, refused

from trpo_fast.cli.main import main
from trpo_fast.train import checkpoint
from trpo_fast.train.checkpoint import CheckpointError
from trpo_fast.train.trainer import TRPO

pytestmark = pytest.mark.attack

RECEIVED: list[dict[str, Any]] = []


class Curious(Counting):
    """Imports what its option ``env_id`` says before the colon, as compatibility layers do."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        RECEIVED.append(options)
        if ":" in str(options.get("env_id")):
            __import__(options["env_id"].partition(":")[0])


@pytest.fixture
def tampered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The path of an agent's checkpoint with these options in it, for an environment that takes
    any; a module ``evilmod`` and a file ``secret`` are where Python finds them.
    """
    if "Curious-v0" not in gymnasium.registry:
        gymnasium.register("Curious-v0", Curious)
    (tmp_path / "evilmod.py").write_text("open('ran', 'w').close()")
    (tmp_path / "secret").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(options: Any) -> Path:
        tree = TRPO("Curious-v0", **SMALL).learn(64).state()
        RECEIVED.clear()
        return checkpoint.save(tmp_path / checkpoint.NAME, {**tree, "env_options": options})

    yield make
    sys.modules.pop("evilmod", None)


REFUSED = [
    {"env_id": "evilmod:Evil-v0"},
    {"env_id": "evilmod"},
    {"env_id": "json"},
    {"env_id": "__main__"},
    {"xml_file": "/etc/passwd"},
    {"xml_file": "secret"},
    {"xml_file": ".."},
    {"xml_file": "~"},
    {"xml_file": "ant.xml"},
    {"xml_file": "a\\b"},
    {"xml_file": ""},
    {"make_kwargs": {"deep": [1, ("evilmod.inner",)]}},
    {"make_kwargs": {"evilmod:Evil-v0": 1}},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_options_that_may_name_a_module_or_a_file_reach_no_constructor(
    options: dict[str, Any], tampered: Any
) -> None:
    path = tampered(options)
    for env in (None, "Curious-v0"):
        with pytest.raises(CheckpointError, match=r"^env_options: expected .* env_options=\.\.\."):
            TRPO.load(path, env)
    assert not RECEIVED and not Path("ran").exists()


def test_the_command_line_refuses_them_as_well(
    tampered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tyro")
    run = str(tampered({"env_id": "evilmod:Evil-v0"}).parent)
    for words in (["eval", run], ["resume", run, "--steps", "64"]):
        refused(words, "(--trust-env)", capsys)
    assert not RECEIVED and not Path("ran").exists()
    assert main(["eval", run, "--episodes", "1", "--trust-env"]) == 0 and Path("ran").exists()


FINE = [
    {"length": 5, "rate": 0.5, "flag": True, "none": None, "range": (1, [2.0])},
    {"map_name": "8x8", "obs_type": "rgb_array", "nested": {"size": {"height": 3}}},
]


@pytest.mark.parametrize("options", FINE, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_numbers_and_words_come_back(options: dict[str, Any], tampered: Any) -> None:
    path = tampered(options)
    assert TRPO.load(path).env_options == options
    assert [options] * 2 == RECEIVED


@pytest.mark.filterwarnings("ignore")
def test_given_options_take_the_place_of_the_saved_ones(tampered: Any) -> None:
    path = tampered({"env_id": "evilmod:Evil-v0"})
    assert TRPO.load(path, env_options={"length": 3}).env_options == {"length": 3}
    assert RECEIVED == [{"length": 3}] * 2 and not Path("ran").exists()
    TRPO.load(path, trust_env=True)
    assert Path("ran").exists()
