"""Command lines as users write them, in processes of their own where a process is what matters."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rearank.arguments import ArgumentError, accepted
from rearank.choices import CONF, choose
from rearank.cli.errors import explain
from rearank.cli.running import guarded
from rearank.config import ConfigError
from tests.end_to_end.pipeline import ROOT, environment

TINY = ROOT / "src/rearank/training/assets/tiny"


def value(argument: str, *before: str) -> Any:
    """What Hydra makes of it."""
    overrides = [one for one in accepted([*before, argument]) if not one.startswith("-")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["experiment=quickstart", *overrides])
    return OmegaConf.select(config, argument.partition("=")[0].lstrip("+"))


def test_options_may_stand_anywhere() -> None:
    given = ["seed=1", "-m", "reward=ndcg,absolute", "--cfg", "job", "name=a=b"]
    assert accepted(given) == ["-m", "--cfg", "job", "seed=1", "reward=ndcg,absolute", 'name="a=b"']


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("model.path=ckpt/epoch=3-step=100", "ckpt/epoch=3-step=100"),
        ("model.path=out/x-sweep/reward=ndcg,seed=1/training/best", "out/x-sweep/reward=ndcg,seed=1/training/best"),
        ("name=测试", "测试"),
        ("name=naïve café", "naïve café"),
        ("name=run(1)", "run(1)"),
        ("name=a[1]", "a[1]"),
        ("name=a#b!c&d;e<f>g", "a#b!c&d;e<f>g"),
        ("name=a:b", "a:b"),
        ('report.title=It\'s "mine" \\', 'It\'s "mine" \\'),
        ("report.title=two\nlines", "two\nlines"),
        ("paths.data=~/d.tsv", str(Path.home() / "d.tsv")),
        ("compare.runs=[out/x-sweep/seed=1]", ["out/x-sweep/seed=1"]),
        ("compare.runs=[out/a,out/x-sweep/seed=1]", ["out/a", "out/x-sweep/seed=1"]),
        ("compare.runs=[base=out/a, grpo=out/b]", ["base=out/a", "grpo=out/b"]),
        ("compare.runs=[~/a,x=~/b]", [str(Path.home() / "a"), f"x={Path.home()}/b"]),
        ("compare.runs=['out/a,b',out/seed=1]", ["out/a,b", "out/seed=1"]),
        ("report.runs=[输出/甲,输出/乙]", ["输出/甲", "输出/乙"]),
        # What Hydra reads as it is stays as it is.
        ("seed=3", 3),
        ("model.path=null", None),
        ("name='quoted = text'", "quoted = text"),
        ("compare.runs=[]", []),
        ("evaluation.steps=[10,20]", [10, 20]),
        ("paths.data=${paths.outputs}/d", "outputs/d"),
        ("+cluster.env.A=b=c", "b=c"),
    ],
)
def test_values_mean_what_they_say(argument: str, expected: Any) -> None:
    assert value(argument) == expected


def test_a_path_with_commas_is_recognised_where_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = ["x-sweep/reward=ndcg,seed=1", "x-sweep/reward=ndcg,seed=2"]
    for job in (*jobs, "plain,comma"):
        (tmp_path / job).mkdir(parents=True)
    assert value(f"compare.runs=[{','.join(jobs)}]") == jobs
    assert value(f"compare.runs=[first={jobs[0]}, {jobs[1]}]") == [f"first={jobs[0]}", jobs[1]]
    assert value("model.path=plain,comma") == "plain,comma"
    assert accepted(["-m", "model.path=plain,comma"])[1] == "model.path=plain,comma"  # a sweep
    assert accepted(["-m", f"model.path={jobs[0]}"])[1] == f'model.path="{jobs[0]}"'
    assert accepted(["-m", "model.path=a/e=1,a/e=2"])[1] == 'model.path="a/e=1","a/e=2"'
    assert accepted(["-m", "name=测试,試験"])[1] == 'name="测试","試験"'


@pytest.mark.parametrize(
    ("arguments", "form", "expected"),
    [
        (
            ["compare.runs=[out/r=a,seed=1]"],
            """'compare.runs=["out/r=a,seed=1"]'""",
            ["out/r=a,seed=1"],
        ),
        (["compare.runs=[out/r=a,seed=1]"], """'compare.runs=["out/r=a","seed=1"]'""", ["out/r=a", "seed=1"]),
        (["compare.runs=[a,b"], """'compare.runs=["a","b"]'""", ["a", "b"]),
        (["compare.runs=[a],b]"], """'compare.runs=["a","b"]'""", ["a", "b"]),
        (["compare.runs=[out/(a]"], """'compare.runs=["a","b"]'""", ["a", "b"]),
        (["name='unfinished"], shlex.quote("""name="'unfinished\""""), "'unfinished"),
        (['name="unfinished'], shlex.quote(r'name="\"unfinished"'), '"unfinished'),
        (["name={a"], """'name="{a"'""", "{a"),
        (["name=range(1,"], """'name="range(1,"'""", "range(1,"),
        (["-m", "model.path=out/r=a,seed=1"], """'model.path="out/r=a,seed=1"'""", "out/r=a,seed=1"),
    ],
)
def test_what_has_no_single_meaning_is_named_with_forms_that_work(
    arguments: list[str], form: str, expected: object
) -> None:
    with pytest.raises(ArgumentError, match=rf"^{arguments[-1].partition('=')[0]}: ") as refused:
        accepted(arguments)
    assert form in str(refused.value)
    assert "\n" not in str(refused.value)
    assert value(*shlex.split(form)) == expected


@given(text=st.text(min_size=1))
def test_any_text_is_read_as_it_is_or_refused_by_name(text: str) -> None:
    try:
        [argument] = accepted([f"name={text}"])
    except ArgumentError:
        return
    parsed = OverridesParser.create().parse_override(argument)  # it can be
    if argument != f"name={text}":
        assert str(parsed.value()) == str(Path(text.strip()).expanduser() if text.startswith("~/") else text.strip())


@given(parts=st.lists(st.text(alphabet="ab=/,~é.'", min_size=1), min_size=1, max_size=3))
def test_any_list_is_read_or_refused_by_name(parts: list[str]) -> None:
    try:
        [argument] = accepted([f"compare.runs=[{','.join(parts)}]"])
    except ArgumentError:
        return
    assert isinstance(OverridesParser.create().parse_override(argument).value(), list)


def test_what_is_no_value_is_left_to_hydra() -> None:
    for argument in ("quickstart", "--cfg", "~tracking", "=a", "a b=c"):
        assert accepted([argument]) == [argument]
    assert accepted(["--config-dir", "a=b=c", "-cn", "x=测"]) == ["--config-dir", "a=b=c", "-cn", "x=测"]
    with pytest.raises(ArgumentError, match=r"^name: its value is not valid UTF-8"):
        accepted(["name=\udcff"])


def test_a_secret_is_not_repeated() -> None:
    for argument in ("serve.key_variable='s3cret", "serve.key_variable={s3cret", "+engine.api_key=[s3cret"):
        with pytest.raises(ArgumentError) as refused:
            accepted([argument])
        assert "s3cret" not in str(refused.value)


def test_the_library_takes_the_same_values() -> None:
    assert choose(["model"], {"model": "tiny"}, ["model.path=ckpt/epoch=3"]).nodes["model"]["path"] == "ckpt/epoch=3"
    with pytest.raises(ConfigError, match=r"model\.path"):
        choose(["model"], {"model": "tiny"}, ["model.path='open"])


def test_names_that_are_too_long_are_named_by_their_key() -> None:
    for name, given_as in (("a" * 300, "name=" + "a" * 300), ("测" * 90, f'name="{"测" * 90}"')):
        error = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), f"/outputs/{name}")
        message = explain(error, ["seed=1", given_as]) or ""
        assert message.startswith("name: ")
        assert message.endswith("choose a shorter name=...")
        assert f"({len(name.encode())} bytes" in message
        assert len(message) < 250
    error = OSError(errno.ENAMETOOLONG, "", "/out/" + "b" * 300 + "/run")
    for given_as, key in (
        ("paths.outputs=/out/" + "b" * 300, "paths.outputs"),
        (f"report.runs=[a,{'b' * 300}]", "report.runs"),
    ):
        assert f"choose a shorter {key}=..." in (explain(error, [given_as]) or "")


def test_a_path_that_is_too_long_is_named_by_the_key_that_most_of_it_is_from() -> None:
    for long, short in (("name", "paths.outputs"), ("paths.outputs", "name")):
        deep = "/".join(["ab"] * 1500)
        error = OSError(errno.ENAMETOOLONG, "", f"/out/{deep}/trial/training")
        message = explain(error, ["seed=1", f"{short}=trial", f"{long}='{deep}'"]) or ""
        assert message.startswith(f"{long}: /out/ab/ab/")
        assert f"is too long for a path ({5 + 4499 + 15} bytes; 4096 are usual); choose a shorter {long}=..." in message
    error = OSError(errno.ENAMETOOLONG, "", "/out/" + "b" * 200 + "/run")  # some file systems take less
    assert "too long for the name of a file or folder (200 bytes" in (explain(error, [f"name={'b' * 200}"]) or "")


def run(*arguments: str, to: int | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=ROOT,
        env={**environment(), **variables},
        stdout=subprocess.PIPE if to is None else to,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job"), ("--info", "searchpath")])
def test_a_pipe_that_nobody_reads_is_no_failure_of_ours(arguments: tuple[str, ...], buffered: str) -> None:
    unread, pipe = os.pipe()
    os.close(unread)
    try:
        done = run(*arguments, to=pipe, PYTHONUNBUFFERED=buffered)
    finally:
        os.close(pipe)
    assert done.returncode in ((0, 141) if arguments[0] == "--info" else (141,))  # it logs
    assert done.stderr == ""


@pytest.mark.slow
def test_what_a_user_writes_wrong_is_one_line(tmp_path: Path) -> None:
    common = ("experiment=quickstart", "task=preflight", "tracking=none", f"paths.outputs={tmp_path}")
    for argument, said in (
        ("name=" + "a" * 300, "rearank: name: aaaa"),
        ("serve.key_variable=sk-s3cret/1=", "rearank: serve.key_variable must be the name of an environment variable"),
        ("reward=ndcg,absolute", "rearank: reward: 'ndcg,absolute' has a comma; to sweep over its parts add -m"),
        ("compare.runs=[a", "rearank: compare.runs: '[a' can't be read"),
        ("quickstart", "rearank: quickstart: this is no argument; write key=value"),
    ):
        done = run(*common, argument)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(said)
        assert "s3cret" not in done.stderr + done.stdout
    model = shutil.copytree(TINY, tmp_path / "epoch=3-step=100")
    assert run(*common, f"model.path={model}", "name=测试").returncode == 0
    assert f"path: {model}" in (tmp_path / "测试" / ".hydra" / "config.yaml").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text(errors="replace")]


@pytest.mark.slow
def test_a_folder_or_a_broken_link_in_a_files_place_is_one_line(tmp_path: Path) -> None:
    """Logging opens the first, before any code of ours runs; the others appear under another name first."""
    folder = tmp_path / "quickstart"
    common = ("experiment=quickstart", "task=preflight", "tracking=none", f"paths.outputs={tmp_path}")
    for name in ("run.log", ".hydra/config.yaml"):
        place = folder / name
        place.mkdir(parents=True)
        done = run(*common)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(f"rearank: {place}: Is a directory; this is a folder, and a file is needed there")
        place.rmdir()
    place = folder / "run.log"
    place.unlink()
    place.symlink_to(place)
    done = run(*common)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "this is a link that leads to itself; move it away" in done.stderr


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py"])

    def main() -> None:
        raise BrokenPipeError(errno.EPIPE, "a server's, not our reader's")

    with pytest.raises(BrokenPipeError):
        guarded(main)
