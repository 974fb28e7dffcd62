"""A run that is killed at any moment goes on, and comes to what it would have come to."""

import contextlib
import json
import math
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import COMMAND, Done, comparison_of, environment, finish, spawn, write_topics
from tunewright import files
from tunewright.api import compare
from tunewright.errors import RunError
from tunewright.tuning import finals, search
from tunewright.tuning.progress import Clock, Start


def lines(path: Path, *, without: tuple[str, ...]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in without} for line in found]


def assert_same(run: Path, other: Path) -> None:
    """Everything but measured seconds and bytes of memory."""
    assert comparison_of(run) == comparison_of(other)
    measured = ("seconds", "peak_memory_bytes")
    for name in ("trials.jsonl", "finalists.jsonl"):
        assert lines(run / name, without=measured) == lines(other / name, without=measured)
    for path in (other / "predictions").rglob("*.jsonl"):
        assert (run / path.relative_to(other)).read_bytes() == path.read_bytes()
    names = [{p.relative_to(r) for p in r.rglob("*")} for r in (run, other)]
    assert names[0] == names[1]  # so no temporary file is left


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("data") / "topics.csv", 45)


@pytest.fixture(scope="module")
def given(data: Path, tiny_folder: Callable[[str], Path]) -> list[str]:
    """Arguments of every run here but for the effort."""
    return ["compare", str(data), "--model", str(tiny_folder("bert")), "--seeds", "2", "--folds", "1"]


# --- killed -----------------------------------------------------------------------------------------------------------


def killed_at_work(process: "subprocess.Popen[str]", delay_s: float) -> bool:
    """Kills a process some time after it has said where its folder is; whether it was still at work."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Run folder: "):
            break
    return killed_after(process, delay_s)


def killed_at_the_beginning(process: "subprocess.Popen[str]", folder: Path) -> bool:
    """Kills a process as soon as its folder is there."""
    while not folder.exists() and process.poll() is None:
        time.sleep(0.001)
    return killed_after(process, 0)


def killed_after(process: "subprocess.Popen[str]", delay_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_s)
    process.send_signal(signal.SIGKILL)  # nothing, if it has ended
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_ten_kills_at_random_moments(given: list[str], tmp_path: Path) -> None:
    """The first as the folder is made, nine more after a random time of work; the last session ends by itself."""
    effort = ["--trials", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(spawn(*given, *effort, "--out", whole)).code == 0
    ledger = json.loads((whole / "comparison.json").read_text(encoding="utf-8"))["ledger"]
    working_s = ledger["tuning_s"] + ledger["refits_s"] + ledger["test_s"]
    rng = np.random.default_rng(11)
    seen: set[tuple[int, int]] = set()
    kills = 0
    while kills < 10:
        process = spawn(*given, *effort, "--out", killed, *(["--resume"] if killed.exists() else []))
        if not killed.exists():
            assert killed_at_the_beginning(process, killed)
        elif not killed_at_work(process, float(rng.uniform(0.0, working_s / 5))):
            assert (killed / "report.html").exists()
            shutil.rmtree(killed)  # done before the kill: begin again
            continue
        kills += 1
        names = ("trials.jsonl", "finalists.jsonl")
        trials, refits = (len(files.read_lines(killed / name)) for name in names)
        seen.add((trials, refits))
    assert len(seen) >= 3  # the kills fell on different moments
    done = finish(spawn(*given, *effort, "--out", killed, "--resume"))
    assert done.code == 0, done.out
    assert_same(killed, whole)


@pytest.mark.slow
def test_a_budget_is_kept_over_kills(given: list[str], tmp_path: Path) -> None:
    """Three kills; time of all sessions stays within the budget but for what a kill leaves unwritten."""
    folder, budget_s = tmp_path / "run", 75.0
    rng = np.random.default_rng(5)
    sessions = []
    for kill in range(3):
        start = time.monotonic()
        resume = ["--resume"] if kill else []
        process = spawn(*given, "--budget", str(budget_s), "--out", folder, *resume)
        assert killed_at_work(process, float(rng.uniform(1.0, 5.0)))
        sessions.append(time.monotonic() - start)
    kept = json.loads((folder / "elapsed.json").read_text(encoding="utf-8"))["elapsed_s"]
    assert 0 < kept <= sum(sessions)
    start = time.monotonic()
    done = finish(spawn(*given, "--budget", str(budget_s), "--out", folder, "--resume"))
    last_s = time.monotonic() - start
    assert done.code == 0, done.out
    elapsed = json.loads((folder / "elapsed.json").read_text(encoding="utf-8"))["elapsed_s"]
    assert kept < elapsed <= kept + last_s
    # The last session had what was left, not the whole. The imports of all four count.
    assert elapsed <= budget_s + 10
    found = comparison_of(folder)
    assert found["decision"] is not None
    finished = [c for c in found["candidates"] if c["status"] == "ok"]
    assert {c["family"] for c in finished} == {"no training", "soft prompts", "fine-tuning"}
    best = {r["candidate"]: r["params"] for r in lines(folder / "finalists.jsonl", without=())}
    for refit in lines(folder / "finalists.jsonl", without=()):
        assert refit["params"] == best[refit["candidate"]]  # one setting for all seeds of a candidate


# --- what a kill can leave --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(data: Path, tiny_folder: Callable[[str], Path]) -> dict[str, Any]:
    methods = "majority,linear-probe,soft-prompt"
    return {
        "data": str(data),
        "model": str(tiny_folder("bert")),
        "methods": methods,
        "trials": 3,
        "seeds": 2,
        "folds": 1,
    }


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare(**settings, out=str(tmp_path_factory.mktemp("whole") / "run")).folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """To be damaged as by a kill."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def cut(path: Path, keep_lines: int, torn: int) -> None:
    """Keeps some lines and the first bytes of the next."""
    content = path.read_bytes().splitlines(keepends=True)
    assert len(content) > keep_lines
    path.write_bytes(b"".join(content[:keep_lines]) + content[keep_lines][:torn])


AFTER = ("comparison.json", "report.html", "report.md", "predictions", "adapters", "finalists.jsonl")
"""What comes after the search, the last first."""


def remove(run: Path, *names: str) -> None:
    for name in names:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def in_the_search(run: Path) -> None:
    remove(run, *AFTER)
    cut(run / "trials.jsonl", 3, torn=40)


def at_a_whole_line_without_newline(run: Path) -> None:
    remove(run, *AFTER)
    line = (run / "trials.jsonl").read_bytes().splitlines()[4]
    cut(run / "trials.jsonl", 4, torn=len(line))


def in_the_refits(run: Path) -> None:
    remove(run, *AFTER[:3])
    cut(run / "finalists.jsonl", 2, torn=25)
    adapters = run / "adapters" / "soft-prompt"
    half = adapters / ".seed-1.tmp"
    half.mkdir()
    (half / "adapter.json").write_text("{", encoding="utf-8")
    shutil.rmtree(adapters / "seed-1")


def between_adapter_and_line(run: Path) -> None:
    remove(run, *AFTER[:3])
    cut(run / "finalists.jsonl", 2, torn=0)


def in_the_test_pass(run: Path) -> None:
    remove(run, *AFTER[:2])
    shutil.rmtree(run / "predictions" / "soft-prompt")
    (run / "predictions" / "linear-probe" / "seed-1.jsonl").unlink()
    (run / "predictions" / "linear-probe" / ".seed-1.jsonl.4711.tmp").write_bytes(b'{"id": "to')


def before_the_report(run: Path) -> None:
    remove(run, "report.html", "report.md")
    (run / ".comparison.json.4711.tmp").write_bytes(b"{")


def as_it_began(run: Path) -> None:
    """Killed before `run.yaml`, the last of the files that say what the run is about."""
    remove(run, *AFTER, "trials.jsonl", "run.yaml", "log.txt", "elapsed.json", "data.json")
    (run / ".data.json.4711.tmp").write_bytes(b"{")


def nothing_missing(run: Path) -> None:
    """A finished run that is resumed says the same again."""
    assert (run / "report.html").exists()


@pytest.mark.parametrize(
    "damage",
    [
        in_the_search,
        at_a_whole_line_without_newline,
        in_the_refits,
        between_adapter_and_line,
        in_the_test_pass,
        before_the_report,
        as_it_began,
        nothing_missing,
    ],
)
def test_it_goes_on_from_what_is_there(
    damage: Callable[[Path], None], copy: Path, whole: Path, settings: dict[str, Any]
) -> None:
    damage(copy)
    compare(**settings, out=str(copy), resume=True)
    assert_same(copy, whole)


class Killed(BaseException):
    """The process is gone."""


def killed_at(moment: float, settings: dict[str, Any], run: Path) -> list[str]:
    """Kills a run when the adapter or line of this number has reached the disk; half before it: just before.

    Returns:
        What has.
    """
    done: list[str] = []

    def counted(real: Callable[[], object], name: str) -> None:
        if len(done) + 0.5 == moment:
            raise Killed
        real()
        done.append(name)
        if len(done) == moment:
            raise Killed

    def replace(path: Path, target: Path, plain: Callable[[Path, Path], Path] = Path.replace) -> None:
        if Path(target).parent.parent.name == "adapters":
            counted(lambda: plain(path, target), "adapter")
        else:
            plain(path, target)

    def append_line(path: Path, record: Any) -> None:
        counted(lambda: files.append_line(path, record), path.stem)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Path, "replace", replace)
        for module in (search, finals):
            patch.setattr(module, "append_line", append_line)
        compare(**settings, out=str(run))
    return done


def test_the_trial_that_won_is_kept_whenever_it_is_killed(settings: dict[str, Any], tmp_path: Path) -> None:
    """With one seed: as the adapter of a better trial takes the place of another, before and after its line, and later.

    Whatever the moment, a candidate has one adapter on disk at most.
    """
    single = settings | {"seeds": 1, "methods": "majority,linear-probe", "keep_state": True}
    whole = tmp_path / "whole"
    done = killed_at(math.inf, single, whole)
    assert done[:2] == ["adapter", "trials"]  # of the floor
    assert done[-2:] == ["finalists"] * 2
    assert done.count("adapter") > 2, "no trial is better than one before it: choose others"
    last = len(done) - done[::-1].index("adapter")
    for moment in (last - 0.5, last, len(done) - 1):
        killed = tmp_path / f"{moment}"
        assert killed_at(moment, single, killed) == done[: int(moment)]
        assert {path.name for path in (killed / "adapters").glob("*/*")} <= {"seed-0"}
        compare(out=str(killed), resume=True)
        assert_same(killed, whole)
        for path in (whole / "adapters").rglob("*.*"):
            assert (killed / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_the_folder_knows_its_settings(copy: Path, whole: Path) -> None:
    """Nothing has to be repeated."""
    in_the_search(copy)
    compare(out=str(copy), resume=True)
    assert_same(copy, whole)


def test_a_folder_with_other_files_is_not_begun_again(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for resume, message in ((True, "nothing to resume in"), (False, "exists")):
        with pytest.raises(RunError, match=message):
            compare(**settings, out=str(tmp_path), resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# --- the clock --------------------------------------------------------------------------------------------------------


def test_a_resumed_clock_has_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "elapsed.json"
    files.write_json(path, {"elapsed_s": 70.5})
    clock = Clock(path, 100.0, Start(wall_s=time.monotonic() - 4.0, cpu_s=0.0))
    assert 74.5 <= clock.elapsed_s < 76
    assert clock.left_s == pytest.approx(100 - clock.elapsed_s, abs=0.1)
    clock.save()
    again = Clock(path, 100.0, Start.now())
    assert 74.5 <= again.elapsed_s < 77
    assert Clock(path, None, Start.now()).left_s == float("inf")


# --- stopped by the user or by the disk -------------------------------------------------------------------------------


@pytest.mark.slow
def test_control_c(given: list[str], tmp_path: Path) -> None:
    """After the first trial: exit code 130, a line that says what to do, and the run goes on."""
    folder = tmp_path / "run"
    process = spawn(*given, "--methods", "majority,linear-probe", "--trials", "4", "--out", folder)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if " trial 1:" in line:
            process.send_signal(signal.SIGINT)
            break
    done = finish(process)
    assert done.code == 130, done.out
    assert done.out.splitlines()[-1] == (
        "tunewright: stopped. What was finished is kept; go on with --resume and the same --out."
    )
    assert "Traceback" not in done.out
    assert any(line == f"Run folder: {folder}\n" for line in said)
    assert files.read_lines(folder / "trials.jsonl")
    assert not (folder / "comparison.json").exists()
    again = finish(spawn(*given, "--methods", "majority,linear-probe", "--trials", "4", "--out", folder, "--resume"))
    assert again.code == 0, again.out
    assert (folder / "comparison.json").exists()


FULL_DISK = """
mount -t tmpfs -o size={size}k tmpfs {disk} || exit 77
{command} --out {disk}/run >{said} 2>&1
echo $? >{code}
find {disk} -name '.*' -mindepth 1 >{left}
mount -o remount,size=60m {disk}
{command} --out {disk}/run --resume >{said}2 2>&1
echo $? >{code}2
cp -r {disk}/run {kept}
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [12, 140])
def test_disk_full(size: int, given: list[str], tmp_path: Path) -> None:
    """On a real file system of a few kilobytes, in a mount namespace that goes away with the process."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare here: cannot make a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    names = {name: tmp_path / name for name in ("said", "code", "left", "kept")}
    command = shlex.join([*COMMAND, *given, "--methods", "majority,full,lora", "--trials", "2"])
    script = FULL_DISK.format(size=size, disk=disk, command=command, **names)
    call = [unshare, "-rm", "sh", "-c", script]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment())
    if not names["said"].exists():
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    first = Done(code=int(names["code"].read_text("utf-8")), out="", err=names["said"].read_text("utf-8"))
    assert first.code == 2, first.err
    assert "Traceback" not in first.err
    assert first.err.splitlines()[-1].startswith("tunewright: disk full while writing ")
    assert "free space and use --resume" in first.err
    assert names["left"].read_text(encoding="utf-8") == ""
    resumed = (tmp_path / "code2").read_text(encoding="utf-8")
    assert resumed == "0\n", (tmp_path / "said2").read_text(encoding="utf-8")
    assert comparison_of(names["kept"])["decision"] is not None
