import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from icestream.errors import Misconfigured, UnknownReco
from icestream.scans import recos as package
from icestream.scans.recos import registry
from icestream.scans.recos.dummy import Dummy


@pytest.fixture(autouse=True)
def _forget_what_is_installed() -> Iterator[None]:
    registry.installed_recos.cache_clear()
    yield
    registry.installed_recos.cache_clear()


@pytest.fixture
def module_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is a module of the package of recos."""
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield tmp_path / "brand_new.py"
    sys.modules.pop(f"{package.__name__}.brand_new", None)
    if hasattr(package, "brand_new"):
        del package.brand_new


def install(monkeypatch: pytest.MonkeyPatch, *entries: object) -> None:
    """As if another package had these entry points."""

    def entry_points(*, group: str) -> tuple[object, ...]:
        return entries if group == "icestream.recos" else ()

    monkeypatch.setattr(registry, "entry_points", entry_points)


def an_entry(loaded: object) -> SimpleNamespace:
    return SimpleNamespace(name="mine", value="their.module:RECO", load=lambda: loaded)


class Mine(Dummy):
    name = "mine"


def test_the_built_in_recos_are_there() -> None:
    names = registry.available()
    assert {"dummy", "crash_dummy"} <= set(names)
    assert names == sorted(names)
    assert registry.get("dummy").name == "dummy"


def test_an_unknown_reco_is_refused_with_the_names_of_those_that_there_are() -> None:
    with pytest.raises(UnknownReco, match=r"no reco 'splinempe'; available: .*dummy") as refused:
        registry.get("splinempe")
    assert list(refused.value.available) == registry.available()


def test_one_new_module_adds_one_reco(module_beside_the_others: Path) -> None:
    module_beside_the_others.write_text(
        "from icestream.scans.recos.dummy import Dummy\n\n"
        "class New(Dummy):\n    name = 'brand_new'\n\nRECO = New()\n"
    )
    assert "brand_new" in registry.available()
    assert registry.get("brand_new").batch_size == Dummy.batch_size


def test_one_module_may_add_several(module_beside_the_others: Path) -> None:
    module_beside_the_others.write_text(
        "from icestream.scans.recos.dummy import Dummy\n\n"
        "class One(Dummy):\n    name = 'one'\n\nclass Two(Dummy):\n    name = 'two'\n\n"
        "RECOS = (One(), Two())\n"
    )
    assert {"one", "two"} <= set(registry.available())


def test_a_module_without_a_reco_adds_none(module_beside_the_others: Path) -> None:
    before = registry.available()
    registry.installed_recos.cache_clear()
    module_beside_the_others.write_text("SPEED_M_PER_NS = 0.299792458\n")
    assert registry.available() == before


def test_an_entry_point_of_another_package_adds_a_reco(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, an_entry(Mine()))
    assert registry.get("mine").name == "mine"


def test_an_entry_point_may_be_several_recos(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, an_entry((Mine(),)))
    assert "mine" in registry.available()


def test_a_real_entry_point_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, EntryPoint("x", "tests.unit.scans.recos_of_others:RECO", "icestream.recos"))
    assert "theirs" in registry.available()


def test_two_recos_of_one_name_are_refused_with_both_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, an_entry(Dummy()))
    with pytest.raises(Misconfigured, match=r"both icestream\.scans\.recos\.dummy and entry point mine"):
        registry.available()


def test_a_plug_in_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, EntryPoint("x", "no.such.module:RECO", "icestream.recos"))
    with pytest.raises(Misconfigured, match=r"entry point x = no\.such\.module:RECO cannot be loaded"):
        registry.available()


def test_what_is_no_reco_is_refused_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, an_entry(SimpleNamespace(name="mine", prepare=print)))
    with pytest.raises(Misconfigured, match=r"is no reco: it lacks hypotheses, .*, fit"):
        registry.available()
