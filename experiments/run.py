"""The small studies, one after another: a sweep that goes on where it stopped, then results.json, table and figure.

    python experiments/run.py                          # all of them, hours on two cores
    python experiments/run.py rewards filter           # some
    python experiments/run.py --only report            # what is finished: results.json, tables and figures alone
    python experiments/run.py --only render            # tables and figures from results.json; no sweep is needed

Jobs that two studies have in common are done once. Further words go to every sweep:
    python experiments/run.py sft -- hydra.launcher.n_jobs=8 trainer.threads=2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from figures import draw
from results import results_of
from studies import HERE, ROOT, STUDIES, Study, named
from tables import effects_table, index_table, put, stored, study_table

from rearank.runs.layout import write_json


def main() -> int:
    """The exit status: 1 where a sweep failed."""
    words, more = sys.argv[1:], []
    if "--" in words:
        words, more = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="study", help=", ".join(study.name for study in STUDIES))
    parser.add_argument("--only", choices=("run", "report", "render"), help="one part alone")
    parser.add_argument(
        "--outputs", type=_absolute, default=ROOT / "outputs", help="where sweeps lie (default: outputs)"
    )
    chosen = parser.parse_args(words)
    try:
        studies = [named(name) for name in chosen.studies] or list(STUDIES)
    except KeyError as error:
        parser.error(error.args[0])
    failed = []
    if chosen.only in (None, "run"):
        failed = [study.name for study in studies if not _sweep(study, chosen.outputs, more)]
    if chosen.only in (None, "report"):
        for study in (one for one in studies if one.name not in failed):
            try:
                write_json(study.folder / "results.json", results_of(study, study.sweep(chosen.outputs)))
            except ValueError as error:
                print(error, file=sys.stderr)
                failed.append(study.name)
    if chosen.only != "run":
        render([study for study in studies if (study.folder / "results.json").is_file()])
    if failed:
        print(
            f"not finished: {', '.join(failed)}; the same command goes on. Tables of an earlier run stay",
            file=sys.stderr,
        )
    return 1 if failed else 0


def render(studies: Sequence[Study]) -> None:
    """Tables and figures of ``studies``, then the tables that are about all of them."""
    for study in studies:
        results = stored(study)
        put(study.folder / "README.md", study_table(study, results))
        draw(study, results)
    put(HERE / "README.md", index_table())
    put(ROOT / "README.md", effects_table())


def _absolute(path: str) -> Path:
    return Path(path).resolve()  # the sweeps run in the project's root


def _sweep(study: Study, outputs: Path, more: list[str]) -> bool:
    command = [sys.executable, str(ROOT / "run.py"), "-m", f"experiment=small/{study.name}", f"paths.outputs={outputs}"]
    print(f"== {study.title}: {' '.join(command[1:])}", flush=True)
    return subprocess.run([*command, *more], cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
