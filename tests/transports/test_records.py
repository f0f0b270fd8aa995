"""What a filter logs and warns is logged and warned in the host, as if it had run there."""

from __future__ import annotations

import logging
import threading
import warnings

import numpy as np
import pytest

import soma_core as soma
from soma_core.client.records import WorkerRecords
from soma_core.engine.records import Host, RecordForwarder
from soma_core.protocol.loggers import MOST_LOGGERS

from ..support import either, run_python
from ..support import filters as f

pytestmark = pytest.mark.filterwarnings("default")


def logs(level, name="acme.filters", **options):
    """A filter that logs its input."""

    def forward(x, state):
        logging.getLogger(name).log(level, x, **options)

    return f.Apply(forward)


@either
def test_a_record_reaches_the_logger_of_its_name_before_the_call_returns(
    connect, transport, caplog, capsys
):
    worker = connect(transport, filters={"logs": logs(logging.WARNING)})
    worker.forward("logs", "a message with 100 %")
    (record,) = caplog.records
    assert record.name == "acme.filters"
    assert record.levelname == "WARNING"
    assert record.getMessage() == "a message with 100 %"
    assert (record.filename, record.funcName) == ("test_records.py", "forward")
    assert record.process == worker.ping().pid
    assert record.node_id == "logs"
    assert capsys.readouterr().err == ""


@either
def test_a_record_keeps_what_was_added_to_it(connect, transport, caplog):
    extra = {"step": 3, "metrics": {"loss": np.float32(0.5), "at": [1, None]}, "of": object}
    logging.addLevelName(35, "NOTICE")
    worker = connect(transport, filters={"logs": logs(35, extra=extra, stack_info=True)})
    worker.forward("logs", "a message")
    (record,) = caplog.records
    assert (record.step, record.metrics) == (3, {"loss": 0.5, "at": [1, None]})
    assert (record.levelname, record.of) == ("NOTICE", "<class 'object'>")
    assert "Stack (most recent call last)" in record.stack_info


SAID = {
    "level": 30, "message": "m", "pathname": "x.py", "lineno": 1, "created": 1.0, "function": "f",
    "thread": "t", "process": 1, "categories": ["builtins:UserWarning"],
}  # fmt: skip


def test_a_worker_that_names_ever_more_loggers_makes_but_some(caplog):
    records = WorkerRecords(most=4)
    known = set(logging.root.manager.loggerDict)
    for number in range(20):
        name = f"of_a_worker.{'x.' * (number * 100)}{number}"
        records.hand_over("log", SAID | {"name": name}, None)
    assert len(caplog.records) == 20
    assert len(set(logging.root.manager.loggerDict) - known) <= 4


def test_so_does_a_host_that_names_ever_more_in_its_worker():
    records, host = RecordForwarder(), Host()
    host.log_level = logging.WARNING
    known = set(logging.root.manager.loggerDict)
    for number in range(20):
        name = f"of_a_host.{'x.' * (number * 100)}"
        records.note_levels(host, {f"{name}{n}": logging.ERROR for n in range(99)})
    assert len(set(logging.root.manager.loggerDict) - known) <= MOST_LOGGERS


def test_a_warning_is_shown_once_until_other_files_have_warned_without_end(recwarn):
    records = WorkerRecords(most=4)
    warnings.simplefilter("default")
    for filename in ("a", "a", "b", "c", "d", "a", "e", "a"):
        records.hand_over("warning", SAID | {"filename": filename}, None)
    assert [warning.filename for warning in recwarn] == ["a", "b", "c", "d", "e", "a"]


@pytest.mark.nightly
@either
def test_the_host_chooses_the_level(connect, transport, caplog):
    caplog.set_level("DEBUG", "acme")
    for level, expected in (("ERROR", 0), ("info", 1), (logging.DEBUG, 1)):
        worker = connect(transport, filters={"logs": logs(logging.INFO)}, log_level=level)
        worker.forward("logs", "hello")
        assert len(caplog.records) == expected
        caplog.clear()


@either
def test_without_a_choice_it_is_that_of_the_hosts_loggers_when_it_calls(connect, transport, caplog):
    worker = connect(transport, filters={"logs": logs(logging.INFO), "more": logs(logging.DEBUG)})
    worker.forward("logs", "not yet")
    with caplog.at_level("INFO"):
        worker.forward("logs", "hello")
        worker.forward("more", "details")
    with caplog.at_level("DEBUG", "acme"):
        worker.forward("more", "details of it")
    worker.forward("logs", "no more")
    assert [record.getMessage() for record in caplog.records] == ["hello", "details of it"]


def test_a_logger_of_the_host_that_is_quieter_keeps_to_its_own_level(connect, caplog):
    caplog.set_level("CRITICAL", "acme")
    connect("stdio", filters={"logs": logs(logging.ERROR)}).forward("logs", "hello")
    assert caplog.records == []


@pytest.mark.parametrize("level", ["LOUD", 1.5, "  "])
def test_another_level_is_refused(level):
    with pytest.raises(ValueError, match="log_level"):
        soma.connect("stdio", log_level=level)


@either
def test_the_traceback_of_an_exception_comes_along(connect, transport, caplog):
    def forward(x, state):
        try:
            x / 0
        except ZeroDivisionError:
            logging.getLogger("acme").exception("it failed")

    connect(transport, filters={"fails": f.Apply(forward)}).forward("fails", 1)
    assert "ZeroDivisionError: division by zero" in caplog.text


@either
def test_logging_without_a_logger_is_not_printed_as_well(connect, transport, caplog, capsys):
    """Python would set up a handler that prints, at the first of these."""
    worker = connect(transport, filters={"logs": f.Apply(lambda x, s: logging.error("hello"))})
    worker.forward("logs", None)
    worker.forward("logs", None)
    assert [(record.name, record.levelname) for record in caplog.records] == [("root", "ERROR")] * 2
    assert capsys.readouterr().err == ""


@either
def test_a_filter_that_sets_up_logging_itself_has_its_way_and_is_shown_once(
    connect, transport, caplog, tmp_path
):
    def forward(x, state):
        logging.basicConfig(filename=x, format="%(levelname)s of mine: %(message)s", force=True)
        logging.getLogger("acme").error("to a file")
        logging.basicConfig(format="%(message)s on stderr", force=True)
        logging.getLogger("acme").error("printed")

    lines: list[str] = []
    path = tmp_path / "log"
    worker = connect(transport, filters={"own": f.Apply(forward)}, output=lines.append)
    worker.forward("own", str(path))
    assert path.read_text() == "ERROR of mine: to a file\n"
    assert lines == ["printed on stderr"]
    assert [record.getMessage() for record in caplog.records] == ["to a file"]


@either
def test_threads_log_too_while_their_command_runs(connect, transport, caplog):
    def forward(x, state):
        threads = [
            threading.Thread(target=logging.getLogger("acme").warning, args=[str(n)])
            for n in range(x)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    worker = connect(transport, filters={"threads": f.Apply(forward)})
    worker.forward("threads", 20)
    assert sorted(int(record.getMessage()) for record in caplog.records) == list(range(20))


@either
def test_children_and_what_runs_between_commands_log_to_stderr(connect, transport, caplog):
    def forward(x, state):
        import multiprocessing

        log = logging.getLogger("acme").warning
        child = multiprocessing.get_context("fork").Process(target=log, args=["of a child"])
        child.start()
        child.join()

    lines: list[str] = []
    worker = connect(transport, filters={"forks": f.Apply(forward)}, output=lines.append)
    worker.forward("forks", None)
    assert "WARNING:acme:of a child" in lines
    assert caplog.records == []


@either
def test_a_handler_of_the_host_that_raises_costs_nothing(connect, transport, capsys):
    class Raises(logging.Handler):
        def emit(self, record):
            raise ConnectionError("the log server is away")

    handler = Raises()
    logging.getLogger().addHandler(handler)
    try:
        worker = connect(transport, filters={"logs": logs(logging.ERROR)})
        assert worker.forward("logs", "hello") is None
        assert worker.forward("logs", "hello") is None
    finally:
        logging.getLogger().removeHandler(handler)
    assert "the log server is away" in capsys.readouterr().err


@either
def test_prints_and_records_come_in_their_order(connect, transport, caplog):
    seen: list[str] = []

    class Notes(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    def forward(x, state):
        for n in range(x):
            print(f"print {n}")  # noqa: T201
            logging.getLogger("acme").warning(f"record {n}")

    handler = Notes()
    logging.getLogger("acme").addHandler(handler)
    try:
        worker = connect(transport, filters={"both": f.Apply(forward)}, output=seen.append)
        worker.forward("both", 5)
    finally:
        logging.getLogger("acme").removeHandler(handler)
    for n in range(5):
        assert seen.index(f"print {n}") < seen.index(f"record {n}")


def test_in_a_session_records_go_to_the_client_whose_command_runs(connect, caplog):
    quiet = connect(
        "socket", session="records", filters={"logs": logs(logging.INFO)}, log_level="ERROR"
    )
    loud = connect("socket", session="records", log_level="INFO")
    caplog.set_level("INFO")
    quiet.forward("logs", "to the quiet one")
    loud.forward("logs", "to the loud one")
    quiet.shutdown()
    assert [record.getMessage() for record in caplog.records] == ["to the loud one"]


# Warnings


class OddWarning(UserWarning):
    """Takes more than a text."""

    def __init__(self, *, estimator: str, version: str) -> None:
        self.estimator, self.version = estimator, version

    def __str__(self) -> str:
        return f"{self.estimator} is of version {self.version}"


def warns(x, state):
    for _ in range(3):
        warnings.warn("mind the gap", x or RuntimeWarning, stacklevel=1)


@either
def test_a_warning_is_warned_here_with_its_class_file_and_line(connect, transport):
    worker = connect(transport, filters={"warns": f.Apply(warns)})
    for kind in (RuntimeWarning, DeprecationWarning, RuntimeWarning):  # this process decides anew
        with pytest.warns(kind, match="mind the gap") as caught:
            worker.forward("warns", kind)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert caught[0].lineno == warns.__code__.co_firstlineno + 2


@pytest.mark.nightly
def test_a_warning_of_several_workers_is_shown_once(tmp_path):
    source = """if True:
        import warnings
        import soma_core as soma
        class Warns(soma.Filter):
            def forward(self, x, state):
                warnings.warn("mind the gap")
                return x
        if __name__ == "__main__":
            for _ in range(2):
                with soma.connect("stdio", filters={"w": Warns()}) as worker:
                    worker.forward("w", 1), worker.forward("w", 2)
    """
    said = run_python(source, directory=tmp_path).stderr
    assert said.count("UserWarning: mind the gap") == 1
    assert 'warnings.warn("mind the gap")' in said


def test_a_host_that_ignores_a_warning_does_not_see_it(connect, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect("socket", filters={"warns": f.Apply(warns)}).forward("warns", None)
    assert capsys.readouterr().err == ""


SCRIPT = """if True:
    import sys, warnings
    import soma_core as soma
    warnings.filterwarnings("ignore", module="beside")
    class Warns(soma.Filter):
        def forward(self, x, state):
            import beside
            beside.warn()
            warnings.warn("of the script", DeprecationWarning)
            return x
    if __name__ == "__main__":
        with soma.connect("stdio", filters={"w": Warns()}) as worker:
            worker.forward("w", 1)
"""


@pytest.mark.nightly
def test_the_module_that_warns_is_known_to_the_filters_of_the_host(tmp_path):
    (tmp_path / "beside.py").write_text(
        "import warnings\ndef warn(): warnings.warn('of a module')\n"
    )
    said = run_python(SCRIPT, directory=tmp_path).stderr
    assert "DeprecationWarning: of the script" in said  # as Python shows it for __main__ alone
    assert "of a module" not in said


def test_a_host_that_makes_warnings_errors_sees_it_and_the_call_goes_on(connect):
    worker = connect("socket", filters={"warns": f.Apply(warns), "echo": f.Echo()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        worker.forward("warns", None)
    assert [str(one.message) for one in caught] == ["mind the gap"]
    assert worker.forward("echo", 1) == 1


def test_a_class_that_the_host_lacks_is_named(connect):
    def forward(x, state):
        class GapWarning(DeprecationWarning):
            pass

        warnings.simplefilter("always")
        warnings.warn("mind the gap", GapWarning, stacklevel=1)

    worker = connect("socket", filters={"warns": f.Apply(forward)})
    with pytest.warns(DeprecationWarning, match="GapWarning: mind the gap"):
        worker.forward("warns", None)


def test_a_class_that_takes_more_than_a_text_is_still_that_class(connect):
    def forward(x, state):
        warnings.warn(OddWarning(estimator=x, version="1"), stacklevel=1)

    worker = connect("socket", filters={"warns": f.Apply(forward)})
    with pytest.warns(OddWarning, match="PCA is of version 1"):
        worker.forward("warns", "PCA")


# The part


def test_forwarding_leaves_the_process_as_it_was():
    root = logging.getLogger()
    patched = (logging.basicConfig, warnings.showwarning)
    before = (list(root.handlers), list(warnings.filters), *patched)
    with RecordForwarder().installed():
        assert list(root.handlers) != before[0]
    patched = (logging.basicConfig, warnings.showwarning)
    assert (list(root.handlers), list(warnings.filters), *patched) == before


def test_what_no_host_takes_is_shown_as_python_shows_it():
    with warnings.catch_warnings(record=True) as shown, RecordForwarder().installed():
        for kind in (DeprecationWarning, PendingDeprecationWarning, UserWarning):
            warnings.showwarning(kind("old"), kind, __file__, 1)
    assert [one.category for one in shown] == [UserWarning]


def test_a_record_whose_arguments_do_not_fit_its_message_costs_nothing(capsys):
    forwarder = RecordForwarder()
    record = logging.makeLogRecord({"msg": "no %d", "args": ("number",), "levelno": logging.INFO})
    forwarder.begin(lambda kind, fields: None, logging.INFO)
    forwarder.handle(record)
    forwarder.end()
    assert "Arguments: ('number',)" in capsys.readouterr().err


def test_what_is_logged_while_a_record_is_sent_does_not_travel(capsys):
    forwarder = RecordForwarder()
    sent: list[str] = []

    def send(kind, fields):
        sent.append(fields["message"])
        logging.getLogger("acme").error("sending")

    with forwarder.installed():
        forwarder.begin(send, logging.WARNING)
        logging.getLogger("acme").error("hello")
        forwarder.end()
        logging.getLogger("acme").error("too late")
    assert sent == ["hello"]
    said = capsys.readouterr().err
    assert "ERROR:acme:sending" in said
    assert "ERROR:acme:too late" in said
