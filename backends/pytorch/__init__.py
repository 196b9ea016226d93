"""The PyTorch backend: `torch.nn` modules, run eagerly, with the fused AdamW of `torch.optim`.

Needs: torch.
"""

from backends.pytorch.session import open_session, versions

__all__ = ["open_session", "versions"]
