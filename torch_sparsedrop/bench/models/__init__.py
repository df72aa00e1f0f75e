"""The models of ``bench --what model``: sizes as published, random weights, nothing downloaded."""

from __future__ import annotations

from .zoo import MODELS, Model, loss_of

__all__ = ["MODELS", "Model", "loss_of"]
