from pathlib import Path

import numba
import pytest

from icestream.physics import compiled as compiled_module
from icestream.physics.compiled import compiled, inlined


def twice(x: float) -> float:
    return 2 * x


def test_kernel_gives_the_result_of_its_python_source() -> None:
    assert compiled(twice)(21.0) == 42.0


def test_inlined_kernel_gives_the_result_of_its_python_source() -> None:
    assert inlined(twice)(21.0) == 42.0


def test_read_only_checkout_compiles_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    assert compiled(twice)(21.0) == 42.0


def test_change_of_any_source_names_kernels_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled_module, "__file__", str(tmp_path / "compiled.py"))
    source = tmp_path / "ice.py"
    versions = []
    for text in ("A = 1", "A = 2"):
        source.write_text(text)
        versions.append(compiled_module._version.__wrapped__())

    assert versions[0] != versions[1]
