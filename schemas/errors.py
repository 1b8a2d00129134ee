"""Every error pairsieve raises on purpose.

    PairsieveError                  exit code 1
    ├── UserError                   exit code 2: something the user wrote or gave
    │   ├── RecipeError             the recipe cannot be run: file:line, cause, next step
    │   ├── PoolError               the input cannot be read: file, cause, next step
    │   ├── MissingExtraError       a filter needs packages that are not installed
    │   ├── AccessError             a directory, bucket or object that may not be read or written
    │   └── QueryError              SQL that DuckDB refuses
    ├── StorageError                a full disk, an object store that does not answer; the run resumes
    │   └── ServerDownError         a model server that a filter asks does not answer; the run resumes
    ├── RunBusyError                another process works in the run directory
    ├── ShardError                  shards failed; the others are done and the run resumes
    ├── IncompleteError         samples that were asked for are in no shard
    ├── DamagedFileError            a file of the run is not as it was written; it is made again
    └── AccountingError             kept + dropped is not the pool

A broken *pair* is never an error: it is a verdict with a reason.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends: one list for the code, ``--help`` and docs/cli.md."""

    DONE = 0
    FAILED = 1
    MISTAKE = 2
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "something failed and is named; what is done stays, the same command continues",
    ExitCode.MISTAKE: "a mistake in the command, the recipe or the input",
    ExitCode.INTERRUPTED: "Ctrl-C; the same command continues",
    ExitCode.TERMINATED: "SIGTERM; the same command continues",
}
"""What each exit code means."""


class PairsieveError(Exception):
    """Base of all errors; its text is one line a user can act on."""

    exit_code = ExitCode.FAILED


class UserError(PairsieveError):
    """Something the user wrote or gave cannot be used."""

    exit_code = ExitCode.MISTAKE


class RecipeError(UserError):
    """The recipe cannot be run; the text begins with ``file:line:``."""


class PoolError(UserError):
    """The input pool cannot be read; the text names the file."""


class MissingExtraError(UserError):
    """A filter needs packages that are not installed; the text is the pip command."""


class AccessError(UserError):
    """A directory, bucket or object may not be read or written, or is not there; the text names it."""


class QueryError(UserError):
    """DuckDB refused the SQL or the expression."""


class StorageError(PairsieveError):
    """A disk is full or broken, or an object store does not answer; the same command resumes."""


class ServerDownError(StorageError):
    """A model server that a filter asks does not answer, or answers nothing of use; the same command resumes."""


class RunBusyError(PairsieveError):
    """Another process holds the run directory."""


class ShardError(PairsieveError):
    """Some shards failed; all others are done, and the same command resumes."""


class IncompleteError(PairsieveError):
    """Samples that were asked for are in no shard that can be read; nothing smaller was written."""


class DamagedFileError(PairsieveError):
    """A file of the run is not as it was written; runs make such files again."""


class AccountingError(PairsieveError):
    """A candidate has no verdict, or two: a defect of pairsieve, never of the data."""
