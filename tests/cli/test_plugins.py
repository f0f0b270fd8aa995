import json
import subprocess
import sys

import pytest

from soma_core.cli.plugins import PluginReport
from soma_core.plugins.catalog import PluginInfo, installed_transports


def test_transports_are_listed_with_where_they_come_from(soma):
    result = soma("transports")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("  stdio"))
    assert lines[row].split() == ["stdio", "soma_transport_stdio:StdioTransport"]
    owner = next(line for line in reversed(lines[:row]) if not line.startswith(" "))
    assert owner.split() == ["soma-core", "0.1.0"]


def test_a_listing_can_be_had_as_json(soma):
    (stdio,) = json.loads(soma("transports", "stdio", "--json").stdout)
    assert stdio == {
        "name": "stdio",
        "target": "soma_transport_stdio:StdioTransport",
        "distribution": "soma-core",
        "version": "0.1.0",
        "conflict": [],
    }


def test_the_options_of_a_transport_are_listed_with_type_default_and_meaning(soma):
    shown = soma("transports", "stdio", "--options", "--json")
    options = {option["name"]: option for option in json.loads(shown.stdout)["stdio"]}
    assert set(options) == set(installed_transports().load("stdio").Options.model_fields)
    assert options["cwd"] == {
        "name": "cwd",
        "type": "str | Path | None",
        "default": "None",
        "meaning": "The worker's working directory.",
    }
    assert options["pickle"]["type"] == "'same-user' | 'never'"
    assert options["threads"]["meaning"].startswith("How many threads each numerical library")


def test_every_option_of_our_transports_says_what_it_means(soma):
    shown = json.loads(soma("transports", "--options", "--json").stdout)
    unsaid = [option for options in shown.values() for option in options if not option["meaning"]]
    assert {"stdio", "socket", "inline"} <= shown.keys()
    assert unsaid == []


def test_the_listing_of_options_has_a_line_for_each(soma):
    lines = soma("transports", "socket", "--options").stdout.splitlines()
    assert lines[0].split() == ["transport", "option", "type", "default", "meaning"]
    assert {line.split()[1] for line in lines[1:]} >= {"path", "session", "threads", "pickle"}


def test_filters_are_narrowed_by_part_of_a_name_in_any_case(soma, install):
    install("acme", "soma.filters", **{"acme.Median": "acme:Median", "acme.Mean": "acme:Mean"})
    assert _names(soma("filters", "acme.MED", "--json")) == ["acme.Median"]


def test_filters_are_narrowed_by_a_glob(soma, install):
    install("acme", "soma.filters", **{"acme.Median": "acme:Median", "acme.Mean": "acme:Mean"})
    assert _names(soma("filters", "acme.M*n", "--json")) == ["acme.Mean", "acme.Median"]
    assert _names(soma("filters", "M*n", "--json")) == []


def test_filters_are_narrowed_by_the_name_of_their_distribution(soma, install):
    install("acme-robust", "soma.filters", **{"acme.Median": "acme:Median"})
    assert _names(soma("filters", "acme-rob", "--json")) == ["acme.Median"]


MANY = {f"acme.F{number:02}": "acme:F" for number in range(30)}


def test_a_long_list_is_folded_unless_all_of_it_is_asked_for(soma, install):
    install("acme", "soma.filters", **MANY)
    install("bolt", "soma.filters", **{"bolt.Bolt": "bolt:Bolt"})
    folded = soma("filters").stdout
    assert folded.count("acme.F") == 8
    assert "… and 22 more (--all)" in folded
    assert "bolt.Bolt" in folded
    assert soma("filters", "--all").stdout.count("acme.F") == 30
    assert len(_names(soma("filters", "acme", "--json"))) == 30


def test_lines_for_a_program_are_neither_wrapped_nor_padded(soma, install):
    install("acme", "soma.filters", **{"acme.Median": "acme:Median", "acme.B": f"acme:{'B' * 300}"})
    lines = soma("filters", "acme").stdout.splitlines()
    assert max(map(len, lines)) > 300
    assert [line for line in lines if line != line.rstrip()] == []


def test_what_a_plugin_adds_is_cut_short_unless_all_of_it_is_asked_for():
    info = PluginInfo("acme", "acme", "acme", "1.0")
    report = PluginReport("soma.plugins", info, None, ("A", "B"), tuple("cdefgh"))
    assert report.summary(show_all=False) == "ok; commands A, B; codecs c, d, e and 3 more"
    assert report.summary(show_all=True) == "ok; commands A, B; codecs c, d, e, f, g, h"


def test_a_broken_plugin_is_never_folded_away(soma, install):
    install("acme", "soma.filters", **MANY, **{"acme.Z": "acme_is_not_there:Z"})
    shown = soma("plugins", "acme").stdout
    assert "acme.Z" in shown
    assert "acme.F29" in shown, "it is broken too: there is no module acme"


def test_a_pattern_that_matches_nothing_says_so(soma, install):
    install("acme", "soma.filters", **{"acme.Median": "acme:Median"})
    result = soma("filters", "zzz")
    assert result.exit_code == 0
    assert "matches 'zzz'" in result.stderr


def test_a_name_that_two_distributions_claim_is_marked(soma, install):
    install("acme", "soma.transports", pigeon="acme:Pigeon")
    install("bolt", "soma.transports", pigeon="bolt:Pigeon")
    lines = [line for line in soma("transports").stdout.splitlines() if "pigeon" in line]
    assert len(lines) == 2
    assert all("conflict: acme and bolt" in line for line in lines)


@pytest.mark.parametrize("command", ["transports", "filters"])
def test_listing_imports_neither_a_plugin_nor_what_it_needs(command):
    code = f"""
import sys
sys.argv = ["soma", {command!r}]
from soma_core.cli import main
try:
    main()
finally:
    heavy = {{"torch", "sklearn", "soma_transport_stdio", "soma_transport_socket",
              "soma_filters_sklearn", "soma_filters_torch"}}
    print("imported:", sorted(heavy & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "imported: []"


def test_plugins_that_work_are_ok(soma):
    result = soma("plugins", "stdio")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["soma-core", "0.1.0"]
    assert result.stdout.splitlines()[2].split() == ["stdio", "soma.transports", "ok"]


def test_a_broken_plugin_is_reported_with_its_reason_and_does_not_hide_the_others(soma, install):
    install("acme", "soma.filters", **{"acme.Median": "acme_is_not_there:Median"})
    install("bolt", "soma.filters", **{"bolt.Json": "json:loads"})
    result = soma("plugins", "*t.*n", "--json")
    assert result.exit_code == 0
    assert [row["status"] for row in json.loads(result.stdout)] == ["ok"]
    result = soma("plugins", "acme.Median")
    assert result.exit_code == 1
    assert "broken: " in result.stdout
    assert "No module named 'acme_is_not_there'" in result.stdout
    assert "1 plugin, 1 broken" in result.stderr


def test_the_schemas_and_options_of_others_are_shown_beside_a_broken_plugin(soma, install):
    install(
        "acme", "soma.filters", **{"acme.Gone": "acme_gone:Gone", "acme.Any": "soma_core:Filter"}
    )
    install("acme2", "soma.transports", gone="acme_gone:Transport")
    result = soma("filters", "acme", "--schema")
    assert json.loads(result.stdout).keys() == {"acme.Any"}
    assert "'acme.Gone' of acme 1.0 cannot be loaded" in result.stderr
    result = soma("transports", "--options", "--json")
    assert json.loads(result.stdout).keys() >= {"inline", "stdio", "socket"}
    assert "'gone' of acme2 1.0 cannot be loaded" in result.stderr


def test_a_plugin_that_does_not_fit_what_is_installed_is_not_broken(soma, install, tmp_path):
    (tmp_path / "site" / "newer.py").write_text(
        "import soma_core\nraise soma_core.PluginUnavailable('needs version 2 of acme')"
    )
    install("acme", "soma.filters", **{"acme.Newer": "newer:Newer"})
    result = soma("plugins", "acme.Newer")
    assert result.exit_code == 0
    assert "unavailable: " in result.stdout
    assert "needs version 2 of acme" in result.stdout
    assert "1 plugin, none broken, 1 unavailable" in result.stderr


def test_a_conflict_is_reported_with_both_distributions(soma, install):
    install("acme", "soma.plugins", policy="json:dumps")
    install("bolt", "soma.plugins", policy="json:loads")
    result = soma("plugins", "policy", "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert {(row["distribution"], row["status"]) for row in rows} == {
        ("acme", "conflict"),
        ("bolt", "conflict"),
    }
    assert all("both provide the plugin 'policy'" in row["reason"] for row in rows)


def test_a_plugin_of_another_interface_is_broken(soma, install, tmp_path):
    (tmp_path / "site" / "old_plugin.py").write_text("SOMA_API_VERSION = 0\n")
    install("acme", "soma.plugins", old="old_plugin")
    result = soma("plugins", "old")
    assert result.exit_code == 1
    assert "broken: the plugin 'old' was built for version 0" in result.stdout


def _names(result) -> list[str]:
    assert result.exit_code == 0
    return [row["name"] for row in json.loads(result.stdout)]
