"""Shared set-up: deterministic seeds, a fresh compiler, and a quiet reference."""

import os

import fake_driver
import hypothesis
import pytest
import torch

# Read when Triton defines its functions, so before anything imports it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _same_start():
    """Equal random numbers, and float32 as precise as it was: transformers' TrainingArguments may turn TF32 on."""
    torch.manual_seed(0)
    precision = torch.backends.fp32_precision
    yield
    torch.backends.fp32_precision = precision


@pytest.fixture
def fresh_compiler():
    """Compile counts start at zero and nothing comes from an earlier test."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def x():
    """What `conversions.MLP` takes."""
    return torch.randn(4, 16, 64)


@pytest.fixture
def ask(tmp_path):
    """Runs a script on a machine with a CUDA driver that only writes down what it is asked; all that is printed."""
    return fake_driver.asker(tmp_path)
