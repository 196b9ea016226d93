"""The libraries that bring kernels, found among whatever is installed."""

import sys
from pathlib import Path

import pytest

from bench.machine import libraries


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where packages are found."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name, version in {
        "nvidia_cudnn_cu13": "9.19.0.56", "nvidia-cublas": "13.1.0.3", "nvidia-cuda-runtime": "13.0.96",
        "jax-cuda13-plugin": "0.11.2", "jax_cuda13_pjrt": "0.11.2", "triton": "3.6.0", "MKL": "2025.1", "jax": "0.11.2",
        "nvidia-ml-py": "13.610.43", "nvidia-nvtx": "13.0.85", "numpy": "2.5.2", "jaxtyping": "0.3.11",
    }.items():  # fmt: skip
        add(tmp_path, name, version)
    return tmp_path


def add(folder: Path, name: str, version: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.usefixtures("installed")
def test_a_gpus_libraries_are_named_as_the_index_names_them() -> None:
    assert list(libraries.kernels("gpu").items()) == [
        ("jax-cuda13-pjrt", "0.11.2"),
        ("jax-cuda13-plugin", "0.11.2"),
        ("mkl", "2025.1"),
        ("nvidia-cublas", "13.1.0.3"),
        ("nvidia-cuda-runtime", "13.0.96"),
        ("nvidia-cudnn-cu13", "9.19.0.56"),
        ("triton", "3.6.0"),
    ]


@pytest.mark.usefixtures("installed")
def test_what_only_a_gpu_computes_with_is_not_the_cpus() -> None:
    assert libraries.kernels("cpu") == {"mkl": "2025.1"}


def test_of_two_on_the_path_the_first_counts(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path / "first", "nvidia-cudnn-cu13", "9.20")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(installed)])
    assert libraries.kernels("gpu")["nvidia-cudnn-cu13"] == "9.20"
