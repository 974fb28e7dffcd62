"""Queries judged by what they find, against SQLite itself; and those that must not be run."""

import hashlib
import sqlite3
import tracemalloc
from pathlib import Path

import pytest

from tunewright.data.database import MOST_ROWS, Database, Refused
from tunewright.errors import ConfigError
from tunewright.evaluation.metrics import Metric, Scorer
from tunewright.evaluation.named import find_metric

ENDLESS = "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states") / "states?.sqlite"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE state (name TEXT, area REAL, people INTEGER)")
        rows = [("ohio", 0.1, 11), ("iowa", 0.2, 3), ("utah", 0.3, 3), ("guam", None, 0)]
        made.executemany("INSERT INTO state VALUES (?, ?, ?)", rows)
    made.close()
    return path


@pytest.fixture(scope="module")
def metric(states: Path) -> Metric:
    return find_metric("sql-execution", "generate", database=str(states))


def right(metric: Metric, given: str, reference: str) -> bool:
    scorer = Scorer(metric=metric, references=[(reference,)])
    return bool(scorer.stats([given])[0, 0])


def many(num_rows: int, num_bytes: int) -> str:
    """Rows of blobs."""
    numbers = f"SELECT 1 UNION ALL SELECT k + 1 FROM n LIMIT {num_rows}"
    return f"WITH RECURSIVE n(k) AS ({numbers}) SELECT zeroblob({num_bytes} + 0 * k) FROM n"


SAME = [
    ("SELECT name FROM state WHERE people = 3", "select name from state where name in ('utah', 'iowa')", True),
    ("SELECT name FROM state", "SELECT name FROM state WHERE people > 0", False),
    # A multiset: how often counts, order does not.
    ("SELECT people FROM state", "SELECT DISTINCT people FROM state", False),
    ("SELECT people FROM state ORDER BY people", "SELECT people FROM state", True),
    # Order counts where the reference sorts, at its outermost.
    ("SELECT people FROM state", "SELECT people FROM state ORDER BY people DESC", True),
    ("SELECT people FROM state", "SELECT people FROM state ORDER BY people", False),
    ("SELECT people FROM state", "SELECT people FROM (SELECT people FROM state ORDER BY people)", True),
    ("SELECT people FROM state", "SELECT people FROM state WHERE name <> 'order by'", True),
    # Columns by position, whatever their names.
    ("SELECT people AS p, name AS n FROM state", "SELECT people, name FROM state", True),
    ("SELECT name, people FROM state", "SELECT people, name FROM state", False),
    # Numbers as numbers.
    ("SELECT 0.1 + 0.2", "SELECT sum(area) FROM state WHERE area < 0.25", True),
    ("SELECT 3.0", "SELECT 3", True),
    ("SELECT '3'", "SELECT 3", False),
    ("SELECT NULL", "SELECT area FROM state WHERE name = 'guam'", True),
    ("SELECT name FROM nothing", "SELECT name FROM state", False),
    ("SELECT 1e400, -0.0, 1e17", "SELECT 2e400, 0, 100000000000000000", True),
    ("SELECT 12345678901", "SELECT 12345678902", False),
    ("SELECT x'33'", "SELECT '3'", False),
    ("SELECT 'a', 'b'", "SELECT 'a'', ''b'", False),
    ("SELECT name FROM state", "SELECT name FROM state ORDER BY name DESC", False),
    ("", "SELECT name FROM state WHERE people > 99", False),
    ("-- only said", "SELECT name FROM state WHERE people > 99", False),
    ("no query at all", "also none", False),
]


@pytest.mark.parametrize(("given", "reference", "same"), SAME)
def test_what_is_found_is_compared(metric: Metric, given: str, reference: str, same: bool) -> None:
    assert right(metric, given, reference) is same


NOT_READING = [
    "DELETE FROM state",
    "DROP TABLE state",
    "INSERT INTO state VALUES ('ruin', 0, 0)",
    "UPDATE state SET people = 0",
    "CREATE TABLE other (x)",
    "CREATE TEMP TABLE other (x)",
    "ATTACH DATABASE '{other}' AS other",
    "VACUUM INTO '{other}'",
    "PRAGMA writable_schema = 1",
    "PRAGMA query_only = 0",
    "BEGIN IMMEDIATE",
    "SELECT load_extension('nothing')",
]


@pytest.mark.parametrize("query", NOT_READING)
def test_only_reading_is_allowed(states: Path, tmp_path: Path, query: str) -> None:
    """The file is the same to the byte, and no other one is made."""
    before, other = hashlib.sha256(states.read_bytes()).hexdigest(), tmp_path / "other.sqlite"
    with pytest.raises(Refused, match="did more than read"):
        Database(str(states)).rows(query.format(other=other))
    assert hashlib.sha256(states.read_bytes()).hexdigest() == before
    assert not other.exists()
    assert [path.name for path in states.parent.iterdir()] == [states.name]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (ENDLESS, "did not end in time"),
        ("WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) SELECT k FROM n", f"than {MOST_ROWS} rows"),
        (many(40, 900_000), "found more than 16 MiB"),
        (f"SELECT {', '.join(['zeroblob(900000)'] * 400)}", "could not be run"),
        ("SELECT 1; SELECT 2", "could not be run"),
        ("SELECT zeroblob(2000000000)", "could not be run"),
        ("SELECT '\ud800'", "could not be run"),
    ],
)
def test_what_ends_badly_is_refused_and_the_next_is_answered(states: Path, query: str, why: str) -> None:
    database = Database(str(states))
    with pytest.raises(Refused, match=why):
        database.rows(query)
    assert database.rows("SELECT count(*) FROM state") == ((4,),)


def test_what_queries_find_is_not_kept(metric: Metric) -> None:
    """Eight queries of 9 MB each, which are asked once and remembered."""
    asked = [many(10, 900_000 + k) for k in range(8)]
    tracemalloc.start()
    try:
        assert [right(metric, each, each) for each in asked] == [True] * 8
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2e6
    assert 9e6 < most < 60e6


def test_bad_queries_are_counted(metric: Metric) -> None:
    assert metric.remarks is not None
    asked = [ENDLESS, "DELETE FROM state", "SELECT 1", "DROP TABLE state", "nonsense"]
    assert metric.remarks(asked) == (
        "2 of 5 queries did more than read and were refused",
        "1 of 5 queries did not end in time",
        "1 of 5 queries could not be run",
    )
    assert not right(metric, ENDLESS, ENDLESS)
    assert not right(metric, "DELETE FROM state", "DELETE FROM state")


def test_the_database_is_asked_for_and_checked(tmp_path: Path, states: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sql-execution' needs `database`.*--database"):
        find_metric("sql-execution", "generate")
    with pytest.raises(ConfigError, match="`database` must be a file"):
        find_metric("sql-execution", "generate", database=str(tmp_path / "absent.sqlite"))
    text = tmp_path / "notes.txt"
    text.write_text("not a database, though it is long enough to have a header " * 20)
    with pytest.raises(ConfigError, match="must be a SQLite database"):
        find_metric("sql-execution", "generate", database=str(text))
    with pytest.raises(ConfigError, match="`database` has no effect with metric 'bleu'"):
        find_metric("bleu", "generate", database=str(states))
    with pytest.raises(ConfigError, match="unknown metric 'sql-execution'"):
        find_metric("sql-execution", "classify", database=str(states))
