"""A cache that is full, damaged or out of reach is a miss, and never another result."""

from __future__ import annotations

import os
import pickle
import random
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soma_cache import CacheOptions, installed
from soma_cache.entries import encode
from soma_cache.plugin import Caching
from soma_cache.settings import CacheSettings, settings_from
from soma_cache.store import MISSING, Store

KEY = bytes(range(32))
RESULT = {"a": np.arange(3000.0), "b": ["text", (1, None)], "c": b"bytes" * 9000}


def store(directory: Path, size: int = 64 << 20) -> Store:
    return Store(CacheSettings(directory, size))


def filled(directory: Path) -> Path:
    """A cache of one entry; the entry's file."""
    full = store(directory)
    assert full.put(KEY, RESULT) is None
    (file,) = directory.rglob("*.val")
    return file


def is_result(found: Any) -> bool:
    return found["a"].tolist() == RESULT["a"].tolist() and found["b"] == RESULT["b"]


def test_what_was_put_is_found_by_another_process_and_is_writable(directory) -> None:
    file = filled(directory)
    found = store(directory).get(KEY)
    assert is_result(found)
    found["a"][0] = 1.0
    assert store(directory).get(bytes(32)) is MISSING
    assert pickle.PROTO not in file.read_bytes()[:2]
    assert directory.stat().st_mode & 0o777 == 0o700


def test_an_entry_that_was_changed_anywhere_is_a_miss_and_is_removed(directory, caplog) -> None:
    file = filled(directory)
    whole = file.read_bytes()
    places = [*range(130), *random.Random(1).sample(range(len(whole)), 60), len(whole) - 1]
    damaged = store(directory)
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 0x55
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(changed)
        assert damaged.get(KEY) is MISSING, place
        assert damaged.put(KEY, RESULT) is None
        (file,) = directory.rglob("*.val")
    assert is_result(damaged.get(KEY))
    assert len([r for r in caplog.records if "damaged" in r.message]) == 1


@pytest.mark.parametrize("length", [0, 1, 40, 80, 1000, -1])
def test_an_entry_that_was_cut_short_is_a_miss(directory, length) -> None:
    file = filled(directory)
    file.write_bytes(file.read_bytes()[:length])
    assert store(directory).get(KEY) is MISSING


def test_a_file_larger_than_any_that_is_kept_is_a_miss_and_is_not_read(directory) -> None:
    file = filled(directory)
    os.truncate(file, 1 << 40)
    assert store(directory).get(KEY) is MISSING
    assert not file.exists()


def test_an_entry_with_more_after_it_or_of_another_key_or_gone_is_a_miss(directory) -> None:
    file = filled(directory)
    whole = file.read_bytes()
    file.write_bytes(whole + b"\0")
    assert store(directory).get(KEY) is MISSING
    file = filled(directory)
    file.write_bytes(b"".join(map(bytes, encode(bytes(32), RESULT))))
    assert store(directory).get(KEY) is MISSING
    filled(directory).unlink()
    assert store(directory).get(KEY) is MISSING


def _link(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def _pipe(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def _directory(place: Path, outside: Path) -> None:
    place.mkdir()


def _socket(place: Path, outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(place.parent)
        server.bind(place.name[-40:])
        os.rename(place.name[-40:], place.name)


@pytest.mark.parametrize("odd", [_link, _pipe, _directory, _socket])
def test_what_is_no_file_of_the_cache_is_a_miss_and_nothing_outside_is_touched(
    directory, tmp_path, odd, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside"
    file = filled(directory)
    file.rename(outside)
    whole = outside.read_bytes()
    odd(file, outside)
    used = store(directory)
    assert used.get(KEY) is MISSING
    assert outside.read_bytes() == whole
    used.put(bytes(32), RESULT)
    used.clear()
    assert outside.read_bytes() == whole


def test_a_directory_that_leads_elsewhere_is_neither_counted_nor_cleared(
    directory, tmp_path
) -> None:
    file = filled(directory)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.val").write_text("mine")
    (directory / "fe").symlink_to(elsewhere)
    used = store(directory, 1 << 20)
    for number in range(12):
        used.put(bytes([number]) * 32, np.zeros(200_000, np.uint8))
    assert used.clear() <= 6
    assert used.repair() == 0
    assert (elsewhere / "precious.val").read_text() == "mine"
    assert not file.exists()


def test_only_a_key_has_a_place(directory) -> None:
    used = store(directory)
    for wrong in (b"", b"../" * 8, bytes(33)):
        assert used.get(wrong) is MISSING
        assert "a key has 32 bytes" in (used.put(wrong, 1) or "")


def test_a_directory_that_cannot_be_one_or_that_others_may_write_is_not_used(tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for directory in (file, shared):
        lost = store(directory)
        assert lost.get(KEY) is MISSING
        assert str(directory) in (lost.put(KEY, RESULT) or "")
    assert list(shared.iterdir()) == []


def test_a_full_disk_keeps_nothing_and_leaves_nothing_behind(directory) -> None:
    full = store(directory)
    assert full.put(bytes(32), 1) is None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (51_000, before[1]))  # within its last piece
    try:
        assert "File too large" in (full.put(KEY, RESULT) or "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.suffix for file in directory.rglob("*.*")] == [".val"]
    assert full.get(KEY) is MISSING


def test_the_least_recently_used_make_room_and_what_is_too_large_is_not_kept(directory) -> None:
    small = store(directory, 2 << 20)
    keys = [bytes([number]) * 32 for number in range(60)]
    for key in keys:
        assert small.put(key, np.zeros(100_000, np.uint8)) is None
    taken = sum(path.stat().st_size for path in directory.rglob("*.val"))
    assert taken < 2.2 * (1 << 20)
    assert small.get(keys[0]) is MISSING
    assert small.get(keys[-1]) is not MISSING
    assert "more than half" in (small.put(KEY, np.zeros(3 << 20, np.uint8)) or "")


SHARED = """
import sys, random
from pathlib import Path
import numpy as np
from soma_cache.settings import CacheSettings
from soma_cache.store import MISSING, Store

store = Store(CacheSettings(Path(sys.argv[1]), 4 << 20))
order = random.Random(int(sys.argv[2]))
hits = 0
for _ in range(150):
    number = order.randrange(20)
    found = store.get(bytes([number]) * 32)
    if found is MISSING:
        store.put(bytes([number]) * 32, np.full(30_000, number))
    else:
        hits += 1
        assert (found == number).all() and len(found) == 30_000
print(hits, store.trouble)
"""


@pytest.mark.nightly
def test_processes_share_a_cache_and_one_that_is_killed_harms_none(directory) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(directory), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    first = processes.pop(0)
    assert processes[0].stdout is not None
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    first.kill()
    first.communicate()
    assert all(int(hits) > 0 and trouble == "None" for hits, trouble in said), said
    again = store(directory, 4 << 20)
    assert again.put(KEY, RESULT) is None
    assert is_result(again.get(KEY))


def test_files_of_a_killed_process_are_found_by_repairing_or_after_an_hour(directory) -> None:
    file = filled(directory)
    for age, repair in ((0, True), (7200, False)):
        left = file.with_name("left.part")
        left.write_bytes(b"half an entry")
        os.utime(left, (time.time() - age,) * 2)
        used = store(directory)
        if repair:
            assert used.repair() == 1
        used.put(bytes(32), 1)
        assert not left.exists()
        assert is_result(used.get(KEY))


def test_what_another_process_is_writing_is_left_alone(directory) -> None:
    left = filled(directory).with_name("now.part")
    left.write_bytes(b"half an entry")
    store(directory).put(bytes(32), 1)
    assert left.exists()


@pytest.mark.parametrize(
    ("text", "size"), [("1M", 1 << 20), ("4g", 4 << 30), ("1.5 GiB", 3 << 29), ("2000000", 2000000)]
)
def test_a_size_is_a_number_with_a_unit(text, size) -> None:
    settings = settings_from({"SOMA_CACHE_DIR": "/x", "SOMA_CACHE_SIZE": text})
    assert settings == CacheSettings(Path("/x"), size)


def test_options_go_before_the_environment() -> None:
    environment = {"SOMA_CACHE_DIR": "/x", "SOMA_CACHE_SIZE": "1M"}
    options = CacheOptions(directory="/y", size="4G")
    assert settings_from(environment, options) == CacheSettings(Path("/y"), 4 << 30)
    assert settings_from(environment, CacheOptions()) == CacheSettings(Path("/x"), 1 << 20)


@pytest.mark.parametrize("text", ["lots", "-1G", "10", "1 GiBs"])
def test_what_is_no_size_is_refused_with_an_example(text) -> None:
    with pytest.raises(ValueError, match="such as 500M or 4G"):
        settings_from({"SOMA_CACHE_DIR": "/x", "SOMA_CACHE_SIZE": text})


def test_without_a_directory_the_plugin_has_no_hooks_and_imports_nothing(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("SOMA_CACHE_DIR", raising=False)
    assert not hasattr(installed(CacheOptions()), "soma_execute")
    assert isinstance(installed(CacheOptions(directory=tmp_path)), Caching)
    light = "import sys, soma_cache; print({'xxhash', 'blake3', 'numpy'} & set(sys.modules))"
    environment = {name: text for name, text in os.environ.items() if name != "SOMA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", light], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.nightly
def test_the_command_tells_what_is_kept_and_clears_it(directory) -> None:
    filled(directory)

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "soma_cache", *arguments],
            env={**os.environ, "SOMA_CACHE_DIR": str(directory)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stderr
        return done.stdout or done.stderr

    assert "1 results" in run()
    assert "removed 1 results" in run("--clear")
    assert store(directory).get(KEY) is MISSING
    directory.chmod(0o777)
    assert run(status=1).startswith("error: ")
