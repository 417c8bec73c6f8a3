"""A model card: the README.md beside an exported policy, in the form that model hubs read. Front
matter in YAML with library, tags and the evaluated return (model-index), then what it is, how to
load it and its settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from .._base import toml
from .._base.rows import dotted_parts, map_rows
from .._version import __version__
from .agent import Agent
from .episodes import Evaluation
from .nets import example_rows

LIBRARY = "trpo-fast"
TAGS = ("deep-reinforcement-learning", "reinforcement-learning", LIBRARY)

TORCH = """import torch

policy = torch.export.load({file!r}).module()
action{after} = policy({obs}{memory}{mask})
"""
ONNX = """import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession({file!r})
inputs = {{{obs}{memory}{mask}}}
(action,{after}) = policy.run(None, inputs)
"""
MASKS = {
    ".pt2": ", torch.ones({shape}, dtype=torch.bool)",
    ".onnx": ', "mask": np.ones({shape}, bool)',
}
MEMORIES = {  # before the first step of an episode
    ".pt2": ", torch.zeros({state}), torch.ones({start}, dtype=torch.bool)",
    ".onnx": ', "state": np.zeros({state}, np.float32), "start": np.ones({start}, bool)',
}
CODE = {".pt2": TORCH, ".onnx": ONNX}


def model_card(agent: Agent, evaluation: Evaluation, file: str, *, single: bool = False) -> str:
    """The card of the policy that was exported as ``file``."""
    count = "one observation" if single else "a batch of observations"
    parts = (
        _front_matter(agent, evaluation),
        f"# {_title(agent)}",
        f"A policy for `{agent.config.env}`, trained for {agent.steps:,} environment steps by "
        f"trpo_fast {__version__}, algorithm `{agent.config.algorithm}`.",
        f"With the most likely actions: {evaluation}.",
        "## Load",
        f"`{file}` takes {count} and runs without trpo_fast:",
        f"```python\n{_code(agent, file, single)}```",
        "## Settings",
        "`trpo-fast train --config FILE` reads them.",
        f"```toml\n{toml.text(agent.config.as_dict())}```",
    )
    return "\n\n".join(parts) + "\n"


def _title(agent: Agent) -> str:
    return f"{agent.config.algorithm.upper()} on {agent.config.env}"


def _front_matter(agent: Agent, evaluation: Evaluation) -> str:
    """YAML between lines of dashes; its strings are JSON's, which YAML has too."""
    env, title = json.dumps(agent.config.env), json.dumps(_title(agent))
    score = json.dumps(f"{evaluation.mean:.2f} +/- {evaluation.std:.2f}")
    tags = "\n".join(f"- {json.dumps(tag)}" for tag in (agent.config.env, *TAGS))
    return f"""---
library_name: {LIBRARY}
tags:
{tags}
model-index:
- name: {title}
  results:
  - task:
      type: reinforcement-learning
      name: reinforcement-learning
    dataset:
      name: {env}
      type: {env}
    metrics:
    - type: mean_reward
      value: {score}
      name: mean_reward
      verified: false
---"""


def _code(agent: Agent, file: str, single: bool) -> str:
    """How to load and call it, on zeros."""
    ending, rows = Path(file).suffix, () if single else (1,)
    width = agent.collector.layout.mask_width
    mask = MASKS[ending].format(shape=(*rows, width)) if width else ""
    memory = after = ""
    if (policy := agent.recurrent) is not None:
        memory = MEMORIES[ending].format(state=(*rows, policy.state_size), start=rows)
        after = " state" if ending == ".onnx" else ", state"
    obs = map_rows(lambda part: _zeros(part, ending, rows), example_rows(agent)[0])
    if ending == ".onnx":
        text = ", ".join(f'"{name}": {part}' for name, part in dotted_parts(obs, "obs").items())
    else:
        text = _expression(obs)
    return CODE[ending].format(file=file, obs=text, memory=memory, mask=mask, after=after)


def _zeros(part: Tensor, ending: str, rows: tuple[int, ...]) -> str:
    """Rows of one part of the observations, as an expression."""
    shape = (*rows, *part.shape[1:])
    kind = str(part.dtype).removeprefix("torch.")
    if ending == ".onnx":
        return f"np.zeros({shape}, np.{kind})"
    return (
        f"torch.zeros({shape})"
        if kind == "float32"
        else f"torch.zeros({shape}, dtype=torch.{kind})"
    )


def _expression(rows: Any) -> str:
    """Dicts and tuples of expressions, as an expression."""
    if isinstance(rows, dict):
        return f"{{{', '.join(f'{key!r}: {_expression(part)}' for key, part in rows.items())}}}"
    if isinstance(rows, tuple):
        return f"({''.join(f'{_expression(part)}, ' for part in rows).rstrip()})"
    return str(rows)
