"""`examples/cluster/` and the SLURM launcher, as far as a machine without SLURM, Kubernetes and a cloud can check them.

`tests/cluster/test_slurm.py` runs the SLURM script.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.pipeline import ROOT

EXAMPLES = ROOT / "examples" / "cluster"
# The fields of ray.io/v1 (KubeRay 1.5) that may be there; those of Kubernetes itself below a pod's template.
RAY_JOB = {
    *("entrypoint", "backoffLimit", "activeDeadlineSeconds", "runtimeEnvYAML", "shutdownAfterJobFinishes", "suspend"),
    *("ttlSecondsAfterFinished", "submissionMode", "submitterPodTemplate", "submitterConfig", "rayClusterSpec"),
}
RAY_CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"}
GROUP = {"rayStartParams", "template", "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"}
CONTAINER = {"name", "image", "env", "resources", "volumeMounts", "command", "args"}
# The fields of a task and of its resources in SkyPilot 0.14's own schema.
SKY_TASK = {
    *("name", "workdir", "num_nodes", "resources", "file_mounts", "setup", "run", "envs", "secrets", "volumes"),
}
SKY_RESOURCES = {"accelerators", "cpus", "memory", "use_spot", "job_recovery", "disk_size", "infra", "image_id"}


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.sh")))
def test_scripts_are_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(EXAMPLES / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if (linter := shutil.which("shellcheck")) is not None:
        done = subprocess.run([linter, "-S", "warning", str(EXAMPLES / script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_example_is_in_the_readme() -> None:
    said = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and f"`{path.name}`" not in said] == [
        "README.md"
    ]


def test_the_slurm_script_asks_for_what_a_run_takes() -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", (EXAMPLES / "slurm.sh").read_text(), re.MULTILINE))
    assert int(asked["cpus-per-task"]) >= 8 + 8 + 16, "trainers, rollout engines and workers"
    assert {"mem", "time", "requeue"} <= asked.keys()
    signal, before = re.fullmatch(r"B:(\w+)@(\d+)", asked["signal"]).groups()  # type: ignore[union-attr]
    assert signal == "USR1"
    assert int(before) >= 120, "a run is given 30 s, and Ray and the engines some more"


def test_the_rayjob_has_the_fields_of_its_kind() -> None:
    job: dict[str, Any] = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= RAY_JOB
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], workers):
        assert set(group) <= GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "texts, as the CRD has them"
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert set(container) <= CONTAINER
        assert all(set(variable) == {"name", "value"} and isinstance(variable["value"], str)
                   for variable in container["env"])  # fmt: skip
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        quantities = container["resources"]
        assert quantities["requests"] == quantities["limits"], "a pod that is killed for memory ends the run"
    gpus = int(workers["rayStartParams"]["num-gpus"])
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(gpus)
    assert f"cluster.nodes={workers['replicas']} cluster.gpus_per_node={gpus}" in spec["entrypoint"]


def test_the_skypilot_task_has_the_fields_of_one() -> None:
    task: dict[str, Any] = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
    assert set(task) <= SKY_TASK
    assert set(task["resources"]) <= SKY_RESOURCES
    assert isinstance(task["num_nodes"], int)
    assert all(value is None for value in task["secrets"].values()), "given on the command line"
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=task[part], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("submitit") is None, reason="launcher=submitit needs the extra sweeps")
def test_the_launcher_asks_slurm_for_what_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch script that submitit would send."""
    import submitit
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    (tmp_path / "srun").write_text("#!/bin/sh\n")  # submitit only looks whether it is there
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["launcher=submitit"], return_hydra_config=True)
    asked: dict[str, Any] = dict(OmegaConf.to_container(config.hydra.launcher, resolve=False))  # type: ignore[arg-type]
    for name in ("_target_", "submitit_folder", "name", "tasks_per_node", "nodes", "gpus_per_node", "stderr_to_stdout"):
        asked.pop(name)
    tries = asked.pop("max_num_timeout")
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=tries)
    common = {name: asked.pop(name) for name in ("timeout_min", "cpus_per_task", "mem_gb")}
    executor.update_parameters(**common, **{f"slurm_{name}": value for name, value in asked.items()})
    script = executor._executor._make_submission_file_text("true", "0")
    for line in ("--cpus-per-task=64", "--mem=0GB", "--time=1440", "--signal=USR2@300", "--requeue"):
        assert f"#SBATCH {line}\n" in script, script
    assert tries >= 1, "a job that ran out of time is requeued"
