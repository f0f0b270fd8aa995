"""Modules beside a script are imported by its workers, with all that an import brings."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import zipapp
from collections.abc import Callable
from pathlib import Path

import numpy  # noqa: F401  (partly compiled)
import pytest

import soma_core as soma
from soma_core.client.missing_modules import missing_module
from soma_core.engine.host_path import HostPath

from ..support import PROCESSES, gate_runs, nightly, socket_daemon

Run = Callable[..., str]
over_processes = pytest.mark.parametrize("transport", gate_runs("socket", of=PROCESSES))

PACKAGE = {
    "pack/__init__.py": "",
    "pack/data/words.txt": "from a resource",
    "pack/helping.py": "def helper(x): return x + 1\n",
    "pack/filters.py": """
        from functools import lru_cache, singledispatch
        from importlib import resources
        import soma_core as soma

        COUNT = [0]

        @lru_cache
        def table(n):
            COUNT[0] += 1
            return n * n

        @singledispatch
        def describe(value):
            return "object"

        @describe.register
        def _(value: int):
            return "int"

        class Kept:
            pass

        class Imports(soma.Filter):
            def forward(self, x, state):
                from .helping import helper
                import beside
                words = (resources.files("pack") / "data" / "words.txt").read_text()
                return [helper(x), beside.double(x), words, table(3), describe(3), COUNT[0], Kept()]
        """,
    "beside.py": "def double(x): return x * 2\n",
}


@over_processes
def test_late_relative_and_resource_imports_work_in_a_filter(run: Run, transport: str) -> None:
    source = """
    from pack import filters
    if __name__ == "__main__":
        with connect(filters={"i": filters.Imports()}) as worker:
            for _ in range(2):
                *found, kept = worker.forward("i", 3)
                print(found, type(kept) is filters.Kept)
        print(filters.COUNT)
    """
    expected = "[4, 6, 'from a resource', 9, 'int', 1] True\n"
    assert run(transport, source, PACKAGE) == expected * 2 + "[0]\n"


@over_processes
def test_a_late_import_of_a_filter_of_the_script_itself_works(run: Run, transport: str) -> None:
    source = """
    class Late(soma.Filter):
        def forward(self, x, state):
            from pack.helping import helper
            return helper(x)
    if __name__ == "__main__":
        with connect(filters={"late": Late()}) as worker:
            print(worker.forward("late", 3))
    """
    assert run(transport, source, PACKAGE) == "4\n"


@nightly
def test_modules_in_the_archive_that_runs_are_found(tmp_path: Path) -> None:
    program = tmp_path / "program"
    files = {
        "__main__.py": """
            import soma_core as soma
            import beside
            class Late(soma.Filter):
                def forward(self, x, state):
                    import later
                    return later.triple(beside.double(x))
            if __name__ == "__main__":
                with soma.connect("stdio", filters={"late": Late()}) as worker:
                    print(worker.forward("late", 1))
            """,
        "beside.py": "def double(x): return x * 2\n",
        "later.py": "def triple(x): return x * 3\n",
    }
    program.mkdir()
    for name, text in files.items():
        (program / name).write_text(textwrap.dedent(text))
    zipapp.create_archive(program, tmp_path / "program.pyz")
    command = [sys.executable, tmp_path / "program.pyz"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.stdout == "6\n", done.stderr


@pytest.mark.nightly
def test_a_folder_that_the_host_looks_into_later_is_known_with_the_next_filter(run: Run) -> None:
    source = """
    import os, sys
    if __name__ == "__main__":
        with connect() as worker:
            sys.path.append(os.path.join(os.path.dirname(__file__), "lib"))
            import apart
            worker.load({"a": apart.Apart()})
            print(worker.forward("a", 1))
    """
    apart = """
    import soma_core as soma
    class Apart(soma.Filter):
        def forward(self, x, state):
            import further
            return further.NAME
    """
    files = {"lib/apart.py": apart, "lib/further.py": "NAME = 'further'"}
    assert run("stdio", source, files) == "further\n"


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["colorsys", "threadpoolctl"])
def test_nothing_installed_is_hidden_by_a_file_beside_the_script(run: Run, name: str) -> None:
    source = f"""
    import sys
    class Find(soma.Filter):
        def forward(self, x, state):
            import importlib
            return importlib.import_module("{name}").__file__
    if __name__ == "__main__":
        with connect(filters={{"find": Find()}}) as worker:
            print(worker.forward("find", 1) == __file__.replace("script.py", "{name}.py"))
    """
    # The host would find the file, so that it must not be there when the host starts.
    text = f"open(__file__.replace('script', '{name}'), 'w').write('')\n"
    assert run("stdio", f"\n    {text}" + source) == "False\n"


@pytest.mark.nightly
def test_a_module_beside_the_script_is_used_though_an_installed_one_has_its_name(run: Run) -> None:
    source = """
    import sys
    from iniconfig import own
    class Uses(soma.Filter):
        def forward(self, x, state):
            return own(x)
    if __name__ == "__main__":
        with connect(filters={"uses": Uses()}) as worker:
            print(worker.forward("uses", 20))
    """
    assert run("stdio", source, {"iniconfig.py": "def own(x): return x + 1\n"}) == "21\n"


@nightly
def test_so_is_one_that_is_imported_after_the_worker_started(run: Run) -> None:
    source = """
    if __name__ == "__main__":
        with connect() as worker:
            from iniconfig import IniConfig
            worker.load({"uses": IniConfig()})
            print(worker.forward("uses", 20))
    """
    own = """
    class IniConfig:
        def fit(self, x, y=None): pass
        def forward(self, x, state): return x + 1
    """
    assert run("stdio", source, {"iniconfig.py": own}) == "21\n"


@pytest.mark.nightly
def test_a_module_that_the_script_makes_of_a_file_needs_no_name_to_import(run: Run) -> None:
    source = """
    import importlib.util, pathlib
    path = pathlib.Path(__file__).parent / "exp.py"
    spec = importlib.util.spec_from_file_location("configs.exp", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if __name__ == "__main__":
        with connect(filters={"made": module.Made()}) as worker:
            print(worker.forward("made", 2))
    """
    made = """
    class Made:
        def forward(self, x, state): return double(x)
    def double(x): return x * 2
    """
    assert run("stdio", source, {"exp.py": made}) == "4\n"


@nightly
def test_without_pickles_and_through_a_launcher_the_worker_keeps_to_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "script.py").write_text(
        "import sys, soma_core as soma\n"
        "from soma_core.engine.host_path import HostPath\n"
        "command = [sys.executable, '-P', '-m', 'soma_transport_stdio']\n"
        "class Path(soma.Filter):\n"
        "    def forward(self, x, state):\n"
        "        import sys; return list(sys.path)\n"
        "if __name__ == '__main__':\n"
        "    with soma.connect('stdio', filters={'p': Path()}) as worker:\n"
        "        print(sys.path[0] in worker.forward('p', 1))\n"
        "    with soma.connect('stdio', command=command, filters={'p': Path()}) as worker:\n"
        "        print(sys.path[0] in worker.forward('p', 1))\n"
    )
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\nFalse\n", done.stderr


EDITED = """
import sys
import soma_core as soma, mine
if __name__ == "__main__":
    with soma.connect("socket", path=sys.argv[1], session="kept") as worker:
        worker.load({"f": mine.F()})
        print(worker.forward("f", 1))
"""


EDITED_MODULE = """
import soma_core as soma
class F(soma.Filter):
    def forward(self, x, state): return {}
"""


@nightly
def test_an_environment_beside_the_script_is_installed_and_never_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / ".venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "soma_test_installed.py").touch()
    (tmp_path / "soma_test_beside.py").touch()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    modules = HostPath()
    modules.add([str(tmp_path)])
    for name, folder in {"soma_test_installed": site, "soma_test_beside": tmp_path}.items():
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
        os.utime(folder / f"{name}.py", (0.0, 1.0))
    modules.look()
    for name, folder in {"soma_test_installed": site, "soma_test_beside": tmp_path}.items():
        os.utime(folder / f"{name}.py", (0.0, 2.0))
    modules.refresh()
    assert "soma_test_beside" not in sys.modules
    assert "soma_test_installed" in sys.modules


@pytest.mark.nightly
def test_a_session_reads_a_module_anew_after_it_was_edited(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(EDITED)
    module = tmp_path / "mine.py"
    text = EDITED_MODULE

    def edited(result: str, second: int) -> str:
        module.write_text(text.format(result))
        os.utime(module, (second, second))
        command = [sys.executable, "script.py", str(tmp_path / "s.sock")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    with socket_daemon(tmp_path / "s.sock"):
        assert edited("'first'", 1_000_000) == "first\n"
        assert edited("'second'", 1_000_100) == "second\n"
        assert edited("'second'", 1_000_100) == "second\n"


PARALLEL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

RATE = 3

def square(x):
    return x * x * RATE

class Item:
    def __init__(self, v): self.v = v

def unwrap(item):
    return type(item).__name__, item.v, isinstance(item, Item)

class Parallel(soma.Filter):
    def forward(self, x, state):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(x)) as executor:
            return list(executor.map(square, range(3))), list(executor.map(unwrap, [Item(3)]))

if __name__ == "__main__":
    with connect(filters={"parallel": Parallel()}) as worker:
        print(worker.forward("parallel", METHOD, timeout=60))
"""


@over_processes
@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=nightly)])
def test_a_filter_of_a_script_starts_processes_that_run_the_script_s_functions(
    run: Run, transport: str, method: str
) -> None:
    expected = "([0, 3, 12], [('Item', 3, True)])\n"
    assert run(transport, PARALLEL.replace("METHOD", repr(method))) == expected


@nightly
def test_a_script_without_a_main_guard_starts_no_workers_without_end(run: Run) -> None:
    source = PARALLEL.replace("METHOD", "'spawn'").replace('if __name__ == "__main__":', "if True:")
    source = source.replace(
        "print(worker",
        "print('started', flush=True); print(worker",
    )
    with pytest.raises(AssertionError, match="under `if __name__ == '__main__':`") as caught:
        run("stdio", source)
    assert str(caught.value).count("started\n") == 1


@nightly
@over_processes
def test_a_data_loader_of_torch_works_in_a_filter_of_a_script(run: Run, transport: str) -> None:
    pytest.importorskip("torch")
    source = """
    class Numbers:
        def __len__(self): return 4
        def __getitem__(self, i): return float(i)

    class Load(soma.Filter):
        def forward(self, x, state):
            from torch.utils.data import DataLoader
            loader = DataLoader(Numbers(), batch_size=2, num_workers=1)
            return [float(batch.sum()) for batch in loader]

    if __name__ == "__main__":
        with connect(filters={"load": Load()}) as worker:
            print(worker.forward("load", 1, timeout=60))
    """
    assert run(transport, source) == "[1.0, 5.0]\n"


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("No module named 'pytest.sub'", "pytest"),
        ("Can't get attribute 'Gone' on <module 'pytest' from '/x/pytest.py'>", "pytest"),
        ("module 'pytest' has no attribute 'gone'", "pytest"),
        ("cannot import name 'gone' from 'pytest.sub' (/x/pytest.py)", "pytest"),
        ("type object 'pytest.storage.Storage' has no attribute 'dtype'", None),
        ("'pytest' object has no attribute 'pytest'", None),
        ("No module named 'numpy'", None),
        ("No module named 'json.sub'", None),
        ("No module named 'not_imported_here'", None),
    ],
)
def test_a_module_travels_whole_if_the_worker_lacks_it_and_it_is_all_python(
    text: str, module: str | None
) -> None:
    error = soma.RemoteError(
        f"unpickling failed: {text}",
        code=soma.ErrorCode.INVALID_COMMAND,
        remote_type="AttributeError",
    )
    assert missing_module(error) is sys.modules.get(module or "")
