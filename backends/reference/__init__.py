"""The arbiter of parity: forward passes, dropout and AdamW in NumPy float64, on the CPU. Never timed.

Needs: numpy, autograd. Gradients come from autograd (https://github.com/HIPS/autograd), which differentiates the NumPy
code of `models.py`; the ladder of parity checks them against central differences of the same forward pass, so that no
automatic differentiation is trusted unseen.
"""

from collections.abc import Mapping

from backends.api import Entry

ENTRY = Entry(
    module="backends.reference.session",
    needs=("numpy", "autograd", "scipy"),
    distributions=("numpy", "autograd"),
)

MODES: Mapping[str, str] = {"default": "NumPy (https://numpy.org/doc/stable)"}
