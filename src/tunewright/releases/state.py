"""What a server has to remember: tasks, versions, which one is live and why, feedback, answers given in shadow.

Every method is one transaction and may be called from any thread; what returned is on disk.
"""

import contextlib
import dataclasses
import getpass
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from tunewright.errors import RegistryError, unknown
from tunewright.releases import rows, tables
from tunewright.releases.database import Database
from tunewright.releases.entries import (
    DEFAULT_STATE,
    NAME,
    VERDICTS,
    Feedback,
    Promotion,
    ShadowPair,
    TaskEntry,
    Version,
)
from tunewright.releases.tables import changes, feedback, promotions, shadow_pairs, tasks, versions

_ROWS = 500
"""Read at a time: ten thousand at once leave their memory behind."""


class State:
    """The registry's memory.

    Args:
        database: Where it is kept.

    Every method raises StateError where the database is locked or gone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, where: str = DEFAULT_STATE) -> "State":
        """From a file, made where there is none, or from a URL.

        Raises:
            StateError: It cannot be used, or was written by a newer version.
        """
        return cls(Database(where, tables.prepare))

    @property
    def name(self) -> str:
        """The file, or the URL without its password."""
        return self._database.name

    def close(self) -> None:
        """Ends all connections."""
        self._database.close()

    def secret(self) -> bytes:
        """What signs the ids of requests."""
        with self._database.reading() as connection:
            return bytes.fromhex(connection.execute(select(tables.secret.c.value)).scalar_one())

    def change_counter(self) -> int:
        """Grows with every change of tasks, versions, what is live and what is shadowed; not with feedback."""
        with self._database.reading() as connection:
            return int(connection.execute(select(changes.c.counter)).scalar_one())

    def tasks(self) -> tuple[TaskEntry, ...]:
        """The tasks that have a version, by name."""
        with self._database.reading() as connection:
            chosen = select(versions).where(versions.c.removed_at.is_(None)).execution_options(yield_per=_ROWS)
            found: dict[str, dict[int, Version]] = {}
            for row in connection.execute(chosen):
                found.setdefault(row.task, {})[row.version] = rows.to_version(row)
            entries = connection.execute(select(tasks).order_by(tasks.c.name)).all()
        return tuple(
            TaskEntry(
                name=row.name,
                live=found[row.name].get(row.live),
                shadow=found[row.name].get(row.shadow),
                shadow_share=row.shadow_share,
                num_versions=len(found[row.name]),
            )
            for row in entries
            if row.name in found
        )

    def live(self, task: str) -> Version | None:
        """The version that answers; None where none was promoted.

        Raises:
            RegistryError: No such task.
        """
        with self._database.reading() as connection:
            number = rows.find_task(connection, task).live
            return None if number is None else rows.find_version(connection, task, number)

    def versions(self, task: str) -> tuple[Version, ...]:
        """All versions that were not removed, oldest first.

        Raises:
            RegistryError: No such task.
        """
        with self._database.reading() as connection:
            rows.find_task(connection, task)
            return tuple(rows.to_version(row) for row in rows.present(connection, task))

    def version(self, task: str, number: int) -> Version:
        """One version.

        Raises:
            RegistryError: No such task or version.
        """
        with self._database.reading() as connection:
            return rows.find_version(connection, task, number)

    def promotions(self, task: str) -> tuple[Promotion, ...]:
        """All changes of what is live, oldest first."""
        chosen = select(promotions).where(promotions.c.task == task).order_by(promotions.c.id)
        with self._database.reading() as connection:
            return rows.to_records(connection, Promotion, chosen)

    def add(self, task: str, adapter_folder: Path, run: Path | None = None, *, who: str | None = None) -> Version:
        """A new version of a task, not live yet; the task is made where there is none.

        Args:
            task: Its name: letters, digits, `.`, `_`, `-`.
            adapter_folder: Read whole, and its hash kept.
            run: Folder of the comparison it comes from; found by itself where the adapter lies in it.
            who: The user of this process when absent.

        Raises:
            RegistryError: The name cannot be one.
            AdapterError: No adapter there, or a broken one.
            RunError: The run did not ship this adapter.
        """
        from tunewright.releases.adding import identify, measured_by  # torch

        if not NAME.fullmatch(task):
            allowed = "Allowed: up to 64 letters, digits, `.`, `_`, `-`, the first a letter or digit"
            raise RegistryError(f"{task!r:.80} is no name of a task. {allowed}.")
        adapter = identify(adapter_folder)
        found = measured_by(adapter_folder, adapter.adapter_sha256, run)
        measured = {} if found is None else dataclasses.asdict(found) | dataclasses.asdict(found.test)
        with self._changing() as connection:
            row = connection.execute(select(tasks).where(tasks.c.name == task).with_for_update()).one_or_none()
            if row is None:
                connection.execute(insert(tasks).values(name=task, last_version=0, shadow_share=0.0))
            number = 1 if row is None else row.last_version + 1
            connection.execute(update(tasks).where(tasks.c.name == task).values(last_version=number))
            connection.execute(
                insert(versions).values(
                    task=task,
                    version=number,
                    added_at=rows.now(),
                    added_by=_user(who),
                    **dataclasses.asdict(adapter),
                    **{name: value for name, value in measured.items() if name != "test"},
                )
            )
            return rows.find_version(connection, task, number)

    def promote(
        self,
        task: str,
        version: int,
        *,
        reason: str,
        expected: int | None,
        forced: bool = False,
        who: str | None = None,
    ) -> Promotion:
        """Makes a version the one that answers. Whether it may is judged before, in `promotion`.

        Args:
            task: The task.
            version: Its version.
            reason: On which comparison, or why without.
            expected: The live version that it was judged against, None for none.
            forced: Whether against the judgement.
            who: The user of this process when absent.

        Raises:
            RegistryError: No such version, it is live already, or another one became live meanwhile.
        """
        with self._changing() as connection:
            live = rows.find_task(connection, task, locked=True).live
            rows.find_version(connection, task, version)
            if live == version:
                raise RegistryError(f"{task}@{version} is live already.")
            if live != expected:
                raise RegistryError(f"{task}@{live} became live meanwhile. Judge {task}@{version} again.")
            said = {"who": _user(who), "reason": reason, "forced": forced}
            return rows.make_live(connection, task, version, previous=live, action="promote", **said)

    def rollback(self, task: str, *, reason: str = "", who: str | None = None) -> Promotion:
        """Makes the version live again that was so before the present one.

        Raises:
            RegistryError: No such task, or nothing to go back to.
        """
        with self._changing() as connection:
            live = rows.find_task(connection, task, locked=True).live
            chosen = select(promotions).where(promotions.c.task == task).order_by(promotions.c.id)
            there = {row.version for row in rows.present(connection, task)}
            earlier = [number for number in rows.lived(connection.execute(chosen).all())[:-1] if number in there]
            if not earlier:
                raise RegistryError(f"{task} has no earlier live version to go back to.")
            said = {"who": _user(who), "reason": reason, "forced": False}
            return rows.make_live(connection, task, earlier[-1], previous=live, action="rollback", **said)

    def remove(self, task: str, version: int | None = None) -> None:
        """Forgets a version, or all of a task; adapter folders, promotions and feedback stay.

        Raises:
            RegistryError: No such version, or it is live.
        """
        with self._changing() as connection:
            row = rows.find_task(connection, task, locked=True)
            if version is not None:
                rows.find_version(connection, task, version)
                if row.live == version:
                    raise RegistryError(f"{task}@{version} is live. Promote another one, or remove the whole task.")
            gone = versions.c.task == task if version is None else rows.is_version(task, version)
            connection.execute(
                update(versions).where(gone, versions.c.removed_at.is_(None)).values(removed_at=rows.now())
            )
            if version in (None, row.shadow):
                connection.execute(update(tasks).where(tasks.c.name == task).values(shadow=None, shadow_share=0.0))
            if version is None:
                connection.execute(update(tasks).where(tasks.c.name == task).values(live=None))

    def set_shadow(self, task: str, version: int | None, share: float = 0.0) -> None:
        """Lets a version answer silently beside the live one, on a share of the requests; None ends it.

        Raises:
            RegistryError: No such version, it is the live one, or the share is none.
        """
        if version is not None and not 0 < share <= 1:
            raise RegistryError(f"`share` must be above 0 and at most 1. Got {share:g}.")
        with self._changing() as connection:
            live = rows.find_task(connection, task, locked=True).live
            if version is not None:
                rows.find_version(connection, task, version)
                if live is None or live == version:
                    raise RegistryError(f"{task}@{version} has no other live version to answer beside. Promote one.")
            values = {"shadow": version, "shadow_share": 0.0 if version is None else share}
            connection.execute(update(tasks).where(tasks.c.name == task).values(values))

    def add_feedback(self, given: Feedback) -> Feedback:
        """Stores what somebody said of an answer, also of a version that was removed since.

        Raises:
            RegistryError: No such version, or the verdict is none or does not go with the correction.
        """
        if given.verdict not in VERDICTS:
            raise RegistryError(unknown("verdict", given.verdict, VERDICTS))
        if (given.corrected is not None) != (given.verdict == "corrected"):
            raise RegistryError("`corrected` is the right answer: give it with the verdict `corrected` and no other.")
        stored = dataclasses.replace(given, at=rows.now())
        with self._database.writing() as connection:
            last = connection.execute(select(tasks.c.last_version).where(tasks.c.name == given.task)).scalar()
            if last is None or not 1 <= given.version <= last:
                raise RegistryError(f"{given.task}@{given.version} never answered: there is no such version.")
            connection.execute(insert(feedback).values(dataclasses.asdict(stored)))
        return stored

    def feedback(self, task: str, *, limit: int | None = None) -> tuple[Feedback, ...]:
        """All that was said of a task's answers, oldest first; with `limit` the last so many."""
        chosen = select(feedback).where(feedback.c.task == task).order_by(feedback.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return rows.to_records(connection, Feedback, chosen)[::-1]

    def add_shadow_pairs(self, pairs: Sequence[ShadowPair]) -> None:
        """Stores what two versions answered to the same requests."""
        with self._database.writing() as connection:
            connection.execute(insert(shadow_pairs), [dataclasses.asdict(pair) | {"at": rows.now()} for pair in pairs])

    def shadow_pairs(self, task: str, version: int, shadow: int) -> tuple[ShadowPair, ...]:
        """Requests that both versions answered, oldest first."""
        of = shadow_pairs.c
        chosen = select(shadow_pairs).where(of.task == task, of.version == version, of.shadow == shadow).order_by(of.id)
        with self._database.reading() as connection:
            return rows.to_records(connection, ShadowPair, chosen)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Connection]:
        """A transaction that the change counter tells of."""
        with self._database.writing() as connection:
            connection.execute(update(changes).values(counter=changes.c.counter + 1))
            yield connection


def _user(who: str | None) -> str:
    """Whoever runs this process; a container may have no name for it."""
    if who is not None:
        return who
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
