"""What decides a result is noticed, in whichever package it lies; what decides nothing isn't."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rearank.prompts import CompactPrompt
from rearank.rewards import NdcgReward
from rearank.runs import code_of
from rearank.runs.identity import NO_SOURCE

REWARD = '''"""A reward of a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rearank.rewards import Reward

from .helpers import half

if TYPE_CHECKING:
    from .shown import Shown


@dataclass(frozen=True, kw_only=True)
class HalfReward(Reward):
    """Half of what is reached."""

    def rank_score(self, measured):
        """The score."""
        from .late import least  # when it is needed

        return max(least(), half(measured.reranked))
'''


class Package:
    """A package on the path with a reward, its helpers, and a neighbour."""

    def __init__(self, folder: Path) -> None:
        self.name = f"own_{uuid4().hex[:8]}"
        self.folder = folder / self.name
        self.folder.mkdir()
        files = {
            "__init__": "from .neighbour import Other\nfrom .reward import HalfReward\n",
            "reward": REWARD,
            "helpers": "from .deeper import TWO\n\ndef half(value):\n    return value / TWO\n",
            "deeper": "TWO = 2\n",
            "late": "def least():\n    return 0.1\n",
            "shown": "class Shown: ...\n",
            "neighbour": "class Other: ...\n",
        }
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)

    @property
    def reward(self) -> Any:
        return import_module(self.name).HalfReward()

    def edit(self, module: str, change: Callable[[str], str]) -> None:
        path = self.folder / f"{module}.py"
        path.write_text(change(path.read_text()))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Package(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] == made.name]:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["reward", "helpers", "deeper", "late"])
def test_a_change_is_noticed_wherever_it_is(package: Package, module: str) -> None:
    before = code_of(package.reward)
    package.edit(module, lambda text: text + "\nMORE = 1\n")
    after = code_of(package.reward)
    assert [name for name in before if before[name] != after[name]] == [f"{package.name}.{module}"]


@pytest.mark.parametrize("value", ["3", "2.0", "'2'", "True"])
def test_another_value_is_another_code(package: Package, value: str) -> None:
    before = code_of(package.reward)
    package.edit("deeper", lambda text: text.replace("2", value))
    assert code_of(package.reward) != before


def test_comments_docstrings_and_lines_are_not_code(package: Package) -> None:
    before = code_of(package.reward)
    package.edit("reward", lambda text: text.replace("Half of what is reached", "Something else"))
    package.edit("reward", lambda text: text.replace("# when it is needed", "# whenever"))
    package.edit("reward", lambda text: text.replace('        """The score."""\n', ""))
    package.edit("deeper", lambda text: '"""New."""\n\n\n' + text + '"""Of the constant."""  # more\n')
    assert code_of(package.reward) == before


@pytest.mark.parametrize("module", ["neighbour", "shown", "__init__"])
def test_what_it_does_not_use_does_not_count(package: Package, module: str) -> None:
    before = code_of(package.reward)
    package.edit(module, lambda text: text + "\nMORE = 1\n")
    assert code_of(package.reward) == before
    assert f"{package.name}.{module}" not in before


def test_modules_that_import_each_other(package: Package) -> None:
    late = f"\n\ndef all():\n    from {package.name} import HalfReward, Other, half\n"
    package.edit("helpers", lambda text: text + late)
    package.edit("__init__", lambda text: text + "from .helpers import half\n")
    before = code_of(package.reward)
    assert {f"{package.name}.{name}" for name in ("reward", "helpers", "neighbour")} <= before.keys()
    package.edit("helpers", lambda text: text + "MORE = 1\n")
    assert code_of(package.reward) != before


def test_a_place_on_disk_is_not_code(package: Package, tmp_path: Path) -> None:
    before = code_of(package.reward)
    other = tmp_path / "elsewhere"
    other.mkdir()
    package.folder.rename(other / package.name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]
    sys.path.insert(0, str(other))
    try:
        assert code_of(package.reward) == before
    finally:
        sys.path.remove(str(other))


def test_of_ours_what_a_class_is_made_of_counts() -> None:
    found = code_of(NdcgReward())
    assert {"rearank.rewards.ndcg", "rearank.rewards.base", "rearank.metrics", "rearank.types"} <= found.keys()
    assert not any(name.startswith(("rearank.progress", "rearank.tracking")) for name in found)
    assert "rearank.rewards.exact" not in found, "another reward may change"


def test_parts_count_and_plain_values_do_not() -> None:
    assert code_of(CompactPrompt(), {"a": [NdcgReward()]}) == code_of(NdcgReward) | code_of(CompactPrompt)
    assert code_of(1, "text", None, {"a": 2.5}) == {}


@pytest.mark.parametrize("name", ["rearank.training.verl", "rearank.training.trl", "rearank.tasks.pipeline"])
def test_the_largest_of_ours(name: str) -> None:
    found = code_of(import_module(name))
    assert len(found) > 10
    assert NO_SOURCE not in found.values()


def test_what_has_no_file_is_said() -> None:
    made = type("Made", (), {"__module__": "nowhere_at_all"})
    assert code_of(made()) == {"nowhere_at_all": NO_SOURCE}


def test_nothing_is_imported_to_find_out() -> None:
    """A module may do anything when it is imported: verl's plugins change verl."""
    script = "import sys; from rearank.runs import code_of; from rearank.training.verl import VerlTrainer; "
    script += "before = set(sys.modules); found = code_of(VerlTrainer); assert len(found) > 10, found; "
    script += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
