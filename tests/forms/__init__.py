"""Every spelling of dropout beside a linear, and what is decided for each of its dropouts."""

from . import between, dropouts, left, linears
from .form import BOTH, FORMS, IN, Form, K, N, P

__all__ = ["BOTH", "FORMS", "IN", "Form", "K", "N", "P", "between", "dropouts", "left", "linears"]
