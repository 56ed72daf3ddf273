"""A study that several workers share: optuna's storage in a file or a data base, and what makes sharing it safe.

Workers may start, be killed and start again at any time, on any machine. What they must agree on is settled by the
study's own order of trials, the one thing that every storage numbers without gaps or doubles: the lowest number wins.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from denoisezoo.errors import UserError

WORKER, SEEN, RETRY, FINGERPRINT = "worker", "seen", "retry_of", "problem"
GAVE_NAN = "gave_nan"
GRACE = 5
"""Seconds after which the lock of a study, or a trial without its worker's name, is taken for that of a dead worker;
writing takes milliseconds."""
RENEWAL = 60
"""Seconds between two signs of life of a worker that evaluates."""
LEASE = 600
"""Seconds without a sign of life after which a worker counts as dead; clocks of machines should agree to minutes."""


def require_optuna() -> None:
    """Refuse an evolution where there is nothing to run it.

    Raises:
        UserError: optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        cure = "pip install 'denoisezoo[search]', or search without evolution"
        raise UserError("optuna is not installed", cure) from None


def open_storage(text: str) -> Any:
    """optuna's storage: a data base for an URL such as sqlite:///study.db, otherwise a journal file.

    Raises:
        UserError: optuna is not installed, or the file is not a study.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if "://" in text:
            # SQLite locks the whole file while one worker writes: others wait for their turn.
            patience = {"connect_args": {"timeout": 60}} if text.startswith("sqlite") else None
            return optuna.storages.RDBStorage(text, engine_kwargs=patience)
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        # A worker that was killed while it wrote leaves its lock behind, which others break after the grace period.
        lock = JournalFileSymlinkLock(text, grace_period=GRACE)
        return optuna.storages.JournalStorage(JournalFileBackend(text, lock_obj=lock))
    except Exception as error:  # optuna, SQLAlchemy and json each have their own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the study {text} cannot be read: {first}", "delete it, or give another `storage`") from error


class SharedStudy:
    """One worker's view of a study of two objectives, both to be small.

    Args:
        storage: Journal file or URL of a data base.
        name: Name of the study in it.
        fingerprint: What the study is about; a study about something else is refused.

    Attributes:
        study: optuna's.
        rank: How many workers had joined before this one.

    Raises:
        UserError: The study is damaged or about something else, or optuna is missing.
    """

    def __init__(self, storage: str, name: str, fingerprint: str) -> None:
        self.storage = storage
        opened = open_storage(storage)
        import optuna

        try:
            self.study = optuna.create_study(
                storage=opened, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
            )
            found = self.study.user_attrs.get(FINGERPRINT)
            if found is None:
                self.study.set_user_attr(FINGERPRINT, fingerprint)
        except Exception as error:
            raise self.damaged(type(error).__name__) from error
        if found not in (None, fingerprint):
            raise UserError(f"the study {storage} is about another search ({found})", "give another `storage`")
        me = f"{worker_name()}:{time.time_ns()}"
        self._note("joined", me)
        self.rank = self._noted("joined").index(me)
        self._bury_the_nameless()
        self.bury_the_dead()

    def damaged(self, what: str) -> UserError:
        """The error of a study whose content is not what a search writes."""
        return UserError(f"the study {self.storage} is damaged: {what}", "delete it, or give another `storage`")

    # What workers agree on

    def agree(self, key: str, propose: Callable[[], Any]) -> Any:
        """What the first worker that came here proposed; all workers get the same.

        Args:
            key: What it is about.
            propose: Makes this worker's proposal, of numbers and texts; not called where there is one already.
        """
        if not self._noted(key):
            self._note(key, propose())
        return self._noted(key)[0]

    def _note(self, key: str, value: Any) -> None:
        """Write down a note, as a trial that counts for nothing."""
        from optuna.trial import TrialState, create_trial

        self.study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={key: value}))

    def _noted(self, key: str) -> list[Any]:
        """All notes under a key, the first first."""
        return [t.user_attrs[key] for t in self.trials("FAIL") if key in t.user_attrs]

    # Trials

    def trials(self, *states: str) -> list[Any]:
        """Trials in some of optuna's states (all unless given), in their order."""
        from optuna.trial import TrialState

        wanted = tuple(TrialState[state] for state in states) or None
        found = self.study.get_trials(deepcopy=False, states=wanted)
        return sorted(found, key=lambda trial: trial.number)

    def begun(self) -> int:
        """Evaluations that are done or under way. One that gave NaN is done: it would do so again."""
        failed = [trial for trial in self.trials("FAIL") if GAVE_NAN in trial.user_attrs]
        return len(self.trials("COMPLETE", "RUNNING")) + len(failed)

    def take(self) -> Any:
        """A trial to evaluate; None if this one was in other hands already, and there may be more."""
        from optuna.exceptions import UpdateFinishedTrialError

        trial = self.study.ask()
        try:
            trial.set_user_attr(SEEN, time.time())
            trial.set_user_attr(WORKER, worker_name())
        except UpdateFinishedTrialError:
            return None
        if self._superfluous(trial):
            self.give_up(trial)
            return None
        return trial

    @contextlib.contextmanager
    def working(self, trial: Any) -> Iterator[None]:
        """Give signs of life while a trial is evaluated and told.

        Should others take this worker for dead, or have ended the trial, what it still writes about it is dropped.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError), _signs_of_life(trial):
            yield

    def tell(self, trial: Any, values: tuple[float, float]) -> None:
        """End a trial with its values. optuna takes no NaN; then it fails, once and for all."""
        if any(map(math.isnan, values)):
            trial.set_user_attr(GAVE_NAN, True)
            self.give_up(trial)
        else:
            self.study.tell(trial, values, skip_if_finished=True)

    def give_up(self, trial: Any) -> None:
        """End a trial without a result, unless it has ended meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with contextlib.suppress(UpdateFinishedTrialError):
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _superfluous(self, trial: Any) -> bool:
        """Whether a trial repeats that of a dead worker, and an earlier one does so already."""
        origin = trial.user_attrs.get(RETRY)
        if origin is None:
            return False
        return any(t.user_attrs.get(RETRY) == origin and t.number < trial.number for t in self.trials())

    # Workers that were killed

    def bury_the_dead(self) -> None:
        """End trials of workers that were killed, on this machine or another; what they were at is queued again."""
        for trial in self.trials("RUNNING"):
            if WORKER in trial.user_attrs and _dead(trial.user_attrs):
                self._bury(trial)

    def _bury_the_nameless(self) -> None:
        """End trials of workers that were killed before they said who they are, which living ones do at once."""
        before = {trial.number for trial in self.trials("RUNNING") if WORKER not in trial.user_attrs}
        if before:
            time.sleep(GRACE)
        for trial in self.trials("RUNNING"):
            if trial.number in before and WORKER not in trial.user_attrs:
                self._bury(trial)

    def _bury(self, trial: Any) -> None:
        """Queue a trial again, then end it: in this order, so that none is lost if the gravedigger is killed between.

        Several may do so at once. Repeats of a trial but the first are thrown away by whoever gets them. A worker may
        have been killed before it had written down all genes of a candidate that was queued for it.
        """
        genes = trial.system_attrs.get("fixed_params", {}) | trial.params
        done = self._superfluous(trial) or any(t.user_attrs.get(RETRY) == trial.number for t in self.trials())
        if genes and not done:
            self.study.enqueue_trial(genes, user_attrs={RETRY: trial.number})
        self.give_up(trial)


def worker_name() -> str:
    """This process, among all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _dead(said: dict[str, Any]) -> bool:
    """Whether the worker that said this is gone: its process, if it is of this machine, or its signs of life."""
    host, _, pid = str(said[WORKER]).rpartition(":")
    if host == socket.gethostname() and pid.isdecimal() and not _alive(int(pid)):
        return True
    seen = said.get(SEEN)
    return isinstance(seen, float) and time.time() - seen > LEASE


def _alive(pid: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _signs_of_life(trial: Any) -> Iterator[None]:
    """Write down the time now and then, until the end."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL):
            # A trial that was ended by others, or a storage out of reach: the next sign may get through.
            with contextlib.suppress(Exception):
                trial.set_user_attr(SEEN, time.time())

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
