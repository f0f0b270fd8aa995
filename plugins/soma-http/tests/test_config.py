"""A configuration that is not valid is refused with file, line and field."""

from __future__ import annotations

import pytest
from soma_http.server.command import run
from soma_http.server.config_file import ConfigError, read_settings
from soma_http.server.tokens import Tokens


@pytest.fixture
def read(tmp_path):
    def read(text: str, **variables: str):
        path = tmp_path / "models.toml"
        path.write_text(text)
        return read_settings(path, variables)

    return read


def test_without_anything_this_machine_is_served_and_pickles_are_refused(read):
    server = read("").server
    assert (server.host, server.tokens, server.allows_pickles) == ("127.0.0.1", None, False)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("[server]\nport = 70000", ["models.toml:2: server.port", "70000"]),
        ("# c\n[server]\n\nprot = 1", ["models.toml:4: server.prot: there is no such setting"]),
        ("[limits]\nbody = 'big'\n[workers]\nmost = -1", [":2: limits.body", ":4: workers.most"]),
        ("workers.grace = inf", [":1: workers.grace"]),
        ("[server\n", ["models.toml:1: Expected ']'", "column 8"]),
        ("[models.'..']\nfilter = 'f'", [":1: models."]),
        ("models.a = {filter = 'f', version = '1/2'}", [":1: models.a.version"]),
        ("models = 3", [":1: models: a table is expected, got 3"]),
        ('[models."a b"]\nfilter = "x"', [":1: models.a b.[key]: a name has letters"]),
        (
            "[models.a]\nfilter = 'f'\n[[models.a.inputs]]\nname = 'x'\ndatatype = 'FP64'\n"
            "shape = []\n[[models.a.inputs]]\nname = 'y'\ndatatype = 'FP65'\nshape = []",
            ["models.toml:9: models.a.inputs.1.datatype"],
        ),
        (
            "[models.a]\nfilter = 'f'\noutputs = [{name = 'x', datatype = 'FP64', shape = []}, "
            "{name = 'x', datatype = 'FP64', shape = []}]",
            [":3: models.a.outputs: two are called 'x'"],
        ),
        ("[server]\npickle = 'same-user'", [":2: server.pickle", "any code as this user"]),
        ("[server]\nhost = '0.0.0.0'", [":1: server: host = '0.0.0.0'", "tokens"]),
        (
            "[server]\npickle = 'clients may run any code as this user'",
            [":1: server: pickle lets clients run code", "every user of this machine"],
        ),
        (
            "[server]\ncertificate = 'models.toml'\nkey = 'models.toml'",
            [":1: server: ", "models.toml are no certificate chain and its key"],
        ),
        ("[server]\ntokens = 'none.txt'", [":2: server.tokens: cannot read", "none.txt"]),
    ],
)
def test_a_mistake_is_named_with_its_place(read, text, places):
    with pytest.raises(ConfigError) as caught:
        read(text)
    for place in places:
        assert place in str(caught.value)


def test_variables_go_before_the_file(read):
    settings = read(
        "\ufeff[server]\nport = 1\n[models.Digits]\nfilter = 'f'\nenv = {THREADS = 2}",
        SOMA_HTTP_MODELS__DIGITS__VERSION="7",
        SOMA_HTTP_SERVER__PORT="9000",
        SOMA_HTTP_SERVER__HOST="localhost",
        SOMA_HTTP_WORKERS__ALLOW_MODULES='["numpy"]',
    )
    assert (settings.server.port, settings.server.host) == (9000, "localhost")
    assert settings.workers.allow_modules == ("numpy",)
    model = settings.models["Digits"]
    assert (model.version, model.env) == ("7", {"THREADS": "2"})


def test_a_variable_that_is_wrong_is_named(read):
    with pytest.raises(ConfigError, match=r"SOMA_HTTP_SERVER__PORT: server\.port"):
        read("", SOMA_HTTP_SERVER__PORT="none")


def test_paths_are_relative_to_the_file(read, tmp_path):
    (tmp_path / "tokens.txt").write_text("x" * 20)
    settings = read("[server]\ntokens = 'tokens.txt'\nhost = '0.0.0.0'")
    assert settings.server.tokens == tmp_path / "tokens.txt"


def test_check_says_what_is_wrong_and_serves_nothing(tmp_path, capfd):
    path = tmp_path / "models.toml"
    path.write_text("[server]\nport = 'http'")
    assert run(["--config", str(path), "--check"]) == 1
    assert f"{path}:2: server.port" in capfd.readouterr().err
    path.write_text("[models.a]\nchain.b = {filter = 'none.Such'}")
    assert run(["--config", str(path), "--check"]) == 1
    assert f"{path}:2: models.a.chain.b.filter: unknown filter" in capfd.readouterr().err
    path.write_text("[models.a]\nfilter = 'none.Such'\n[models.b]\nworkers = 0\nfilter = 'f'")
    assert run(["--config", str(path), "--check"]) == 1
    said = capfd.readouterr().err
    assert f"{path}:4: models.b.workers" in said
    assert f"{path}:2: models.a.filter: unknown filter" in said
    path.write_text("[server]\nport = 80")
    assert run(["--config", str(path), "--check"]) == 0


def test_tokens_let_in_whoever_has_one():
    tokens = Tokens(["first-token-of-two", "second-token-of-two"])
    assert tokens.holder("Bearer second-token-of-two")
    assert tokens.holder("bearer first-token-of-two")
    for header in ("", "Bearer", "Bearer first", "Basic first-token-of-two", "Bearer \udcff"):
        assert not tokens.holder(header)


def test_tokens_are_read_as_editors_write_them(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_bytes(b"\xef\xbb\xbffirst-token-of-two  # of curl\r\n\n#\r\nsecond-token/of+two==\n")
    tokens = Tokens.of(path)
    assert tokens.holder("Bearer first-token-of-two")
    assert tokens.holder("Bearer second-token/of+two==")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"# nothing",
        b"short",
        b"\xff",
        b"begins-like-a-token#and-goes-on",
        b"two tokens in one line",
        "größer-als-sechzehn".encode(),
    ],
)
def test_a_file_without_a_good_token_is_refused(tmp_path, text):
    path = tmp_path / "tokens.txt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"tokens\.txt"):
        Tokens.of(path)
