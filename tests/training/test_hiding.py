"""``cluster.env``: names are written down, values are not, whatever file or config they come from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.end_to_end.pipeline import ROOT, environment

from rearank.training.base import TrainingError
from rearank.training.verl import Cluster
from rearank.training.verl.hiding import launcher_runtime_of, runtime_of, without_values

SECRETS = (
    "first-secret-value",
    "second-secret-value",
    "third-secret-value",
    "fourth-secret-value",
    "fifth-secret-value",
)
SMALL = (
    *("experiment=quickstart", "task=prepare", "tracking=wandb", "name=run", "prepare.validation_windows=4"),
    *("dataset.collection.query_count=12", "validation.collection.query_count=4"),
)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")], ids=["run", "sweep"])
def test_no_value_is_written_anywhere(sweep: tuple[str, ...], tmp_path: Path) -> None:
    """On the command line, in a mapping there, and in a config file: nothing in the output folder or W&B's file."""
    config = tmp_path / "conf" / "experiment" / "mine.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "# @package _global_\ndefaults:\n  - quickstart\ncluster:\n  env:\n    IN_A_FILE: third-secret-value\n"
    )
    outputs = tmp_path / "outputs"
    command = [sys.executable, str(ROOT / "run.py"), *sweep, *SMALL, f"paths.outputs={outputs}", "experiment=mine"]
    command += [f"hydra.searchpath=[file://{config.parent.parent}]", "+cluster.env.HF_TOKEN=first-secret-value"]
    place = "'s3://key:fourth-secret-value@a place'"
    command += [f"+cluster.runtime_env={{env_vars:{{OTHER_TOKEN:second-secret-value}},working_dir:{place}}}"]
    command += ["+cluster.runtime_env.pip.packages=['git+https://me:fifth-secret-value@host/code']"]
    clean = {key: value for key, value in environment().items() if key != "WANDB_API_KEY"}
    done = subprocess.run(
        [word for word in command if word != "experiment=quickstart"],
        cwd=ROOT, env=clean, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    texts = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    assert any(path.suffix == ".wandb" for path in texts)
    assert [path for path, text in texts.items() if any(secret.encode() in text for secret in SECRETS)] == []
    assert not [path for path in outputs.rglob("*") if any(secret in str(path) for secret in SECRETS)]
    written = b"".join(text for path, text in texts.items() if path.name == "config.yaml")
    for name in (b"HF_TOKEN: null", b"OTHER_TOKEN: null", b"IN_A_FILE: null", b"working_dir: null", b"pip: null"):
        assert name in written, "names stay"
    said = b"".join(texts.values())
    assert b"+cluster.env.HF_TOKEN=null" in said
    assert not sweep or len(list(outputs.glob("*-sweep/seed=*/prepared/summary.json"))) == 2


RAY = """
class exceptions:
    class RayError(Exception):
        pass

def init(runtime_env, **_):
    print("SEEN", runtime_env)

def remote(**_):
    return lambda function: type("Remote", (), {"remote": staticmethod(function)})

def put(value):
    return value

get = put

def shutdown():
    pass
"""
"""Ray in this process: each job is composed and written as in one of Ray's own."""


@pytest.mark.slow
def test_no_value_of_the_launchers_runtime_environment_is_written(tmp_path: Path) -> None:
    """Of the command line and of a config file; Ray gets all of it."""
    config = tmp_path / "conf" / "experiment" / "mine.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "# @package _global_\ndefaults:\n  - quickstart\n  - override /launcher: ray\n"
        "hydra:\n  launcher:\n    runtime_env:\n      working_dir: 's3://third-secret-value'\n"
    )
    (tmp_path / "ray.py").write_text(RAY)
    outputs = tmp_path / "outputs"
    given = ["-m", *SMALL[1:2], "tracking=none", *SMALL[4:], "seed=1,2", f"paths.outputs={outputs}", "experiment=mine"]
    given += [f"hydra.searchpath=[file://{config.parent.parent}]"]
    given += ["+hydra.launcher.runtime_env={env_vars:{HF_TOKEN:first-secret-value},pip:[second-secret-value]}"]
    given += ["+hydra.launcher.runtime_env.conda.name=fourth-secret-value"]
    places = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "run.py", *given],
        cwd=ROOT, env={**environment(), **places}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = next(line for line in done.stdout.splitlines() if line.startswith("SEEN"))
    assert all(secret in seen for secret in SECRETS[:4]), seen
    texts = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    assert len(list(outputs.glob("*-sweep/seed=*/.hydra/hydra.yaml"))) == 2
    assert [path for path, text in texts.items() if any(secret.encode() in text for secret in SECRETS)] == []
    assert b"hydra.launcher.runtime_env.conda.name=null" in b"".join(texts.values()), "names stay"


def test_the_launchers_runtime_environment_is_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REARANK_RUNTIME_ENV_pip", '["of the run"]')
    monkeypatch.setenv("REARANK_LAUNCHER_ENV_pip", '["of the sweep"]')
    monkeypatch.setenv("REARANK_LAUNCHER_ENV_env_vars", '{"A": "b"}')
    found = {"pip": None, "env_vars": None, "conda": "c", "gone": None}
    assert launcher_runtime_of(found) == {"pip": ["of the sweep"], "env_vars": {"A": "b"}, "conda": "c", "gone": None}
    assert runtime_of({"pip": None}) == {"pip": ["of the run"]}


def test_a_value_reaches_the_cluster_from_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the config, this process's own for null, and what was moved away; numbers as text."""
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("HF_TOKEN", "of this process")
    monkeypatch.setenv("REARANK_ENV_HF_TOKEN", "of the command line")
    cluster = Cluster(env={"NCCL_IB_DISABLE": 1, "HF_HOME": None}, runtime_env={"env_vars": {"HF_TOKEN": None}})
    expected = {"NCCL_IB_DISABLE": "1", "HF_HOME": "/models", "HF_TOKEN": "of the command line"}
    assert cluster.environment() == expected
    assert "models" not in repr(cluster)
    monkeypatch.delenv("HF_HOME")
    (problem,) = cluster.preflight()
    assert "HF_HOME" in problem
    with pytest.raises(TrainingError, match="export it"):
        cluster.environment()


def test_ray_gets_its_runtime_environment_from_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"working_dir": None, "pip": None, "excludes": ["*.log"], "env_vars": {"A": "1"}}
    monkeypatch.setenv("REARANK_RUNTIME_ENV_working_dir", '"s3://key:password@place"')
    monkeypatch.setenv("REARANK_RUNTIME_ENV_pip", '{"packages": ["a", "b"]}')
    expected = {"working_dir": "s3://key:password@place", "pip": {"packages": ["a", "b"]}, "excludes": ["*.log"]}
    assert runtime_of(given) == expected
    monkeypatch.delenv("REARANK_RUNTIME_ENV_pip")
    assert runtime_of(given)["pip"] is None


@pytest.mark.parametrize("key", ["sk-fifth-secret-value", "hf_Fifthsecretvalue00000"])
def test_a_key_in_place_of_its_variable_s_name_is_neither_repeated_nor_kept(key: str, tmp_path: Path) -> None:
    """Hydra names the overrides of a job that fails: the command ends before."""
    command = [sys.executable, str(ROOT / "run.py"), *SMALL, f"paths.outputs={tmp_path}", f"serve.key_variable={key}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("rearank: serve.key_variable must be the name of an environment variable")
    assert key not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"env": {"NCCL_IB_DISABLE": True}}, r"env\.NCCL_IB_DISABLE must be a text, a number or null"),
        ({"env": {"A": ["secret"]}}, r"env\.A must be a text"),
        ({"env": {"no name": "secret"}}, "'no name' is no name"),
        ({"env": {"WORLD_SIZE": "2"}}, r"env\.WORLD_SIZE: .* set it themselves"),
        ({"env": {"A": "x"}, "runtime_env": {"env_vars": {"A": "y"}}}, r"env\.A: runtime_env\.env_vars has it, too"),
        ({"runtime_env": {"env_vars": ["secret"]}}, r"runtime_env\.env_vars must be a mapping"),
    ],
)
def test_what_is_no_variable_is_refused_without_its_value(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        Cluster(**settings)  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


def test_a_sweep_over_values_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "-m", *SMALL, f"paths.outputs={tmp_path}"]
    done = subprocess.run(
        [*command, "+cluster.env.HF_TOKEN=first-secret-value,second-secret-value"],
        cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cluster.env.HF_TOKEN can't be swept" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_variable_is_added_with_a_plus(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), *SMALL, f"paths.outputs={tmp_path}"]
    done = subprocess.run(
        [*command, "cluster.env.HF_TOKEN=first-secret-value"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("write +cluster.env.HF_TOKEN=... to add one")
    assert "secret" not in done.stderr


@given(st.lists(st.text(min_size=6), max_size=4), st.lists(st.text(), max_size=4))
def test_no_value_of_six_characters_stays_in_a_text(values: list[str], words: list[str]) -> None:
    text = " ".join([*words, *values, *words])
    hidden = without_values(text, values)
    assert not any(value in hidden for value in values if "*" not in value)
    assert without_values(text, []) == text
