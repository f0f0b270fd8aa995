"""What plugins add to the command line."""

from __future__ import annotations

import json

MODULE = '''
def greet(arguments):
    """Greet somebody."""
    print("hello", *arguments)
    return len(arguments)
'''


def test_a_plugin_adds_a_subcommand_which_reads_its_own_arguments(soma, install, tmp_path):
    (tmp_path / "site" / "acme_greeting.py").write_text(MODULE)
    install("acme", "soma.subcommands", greet="acme_greeting:greet")
    assert "Greet somebody." in soma("--help").stdout
    done = soma("greet", "--help", "a")
    assert (done.stdout, done.exit_code) == ("hello --help a\n", 2)


def test_one_that_is_broken_says_why_and_leaves_the_others(soma, install):
    install("acme", "soma.subcommands", greet="acme_is_not_there:greet", validate="acme:greet")
    assert "transports" in soma("--help").stdout
    done = soma("greet")
    assert done.exit_code == 1
    assert "acme_is_not_there" in done.stderr
    assert "Check messages" in soma("validate", "--help").stdout  # soma's own goes first


def test_the_settings_of_a_filter_are_shown_as_a_schema(soma):
    shown = json.loads(soma("filters", "sklearn.SVC", "--schema").stdout)
    assert shown["sklearn.SVC"]["properties"]["kernel"]["default"] == "rbf"
