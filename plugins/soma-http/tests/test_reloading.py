"""A configuration that changes while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from soma_http.server.config import BatchingConfig, ModelConfig, ServerConfig, Settings
from soma_http.server.config_file import ConfigError
from soma_http.server.models import Models, ServedModel
from soma_http.server.reloading import Reloading
from soma_http.server.tokens import Tokens

FIRST, SECOND, BROKEN = (ModelConfig(filter=f"acme.{name}") for name in ("A", "B", "Broken"))


class Pretended(ServedModel):
    """A model without workers, whose life is noted."""

    def __init__(self, name: str, config: ModelConfig) -> None:
        super().__init__(name, config)
        self.life: list[str] = []

    @property
    def ready(self) -> bool:
        return self.life == ["started"]

    async def start(self) -> None:
        if self.config == BROKEN:
            raise ImportError("no such filter")
        self.life.append("started")

    async def stop(self, grace: float = 0.0) -> None:
        self.life.append("stopped")


def after(configs: dict[str, ModelConfig], then: dict[str, ModelConfig]) -> tuple[Any, Any]:
    """The models before and after a change, by name."""

    async def change() -> tuple[Any, Any]:
        models = Models(configs, Pretended)
        await models.start()
        before = {model.name: model for model in models}
        await models.become(then)
        return before, {model.name: model for model in models}

    return asyncio.run(change())


def test_only_what_has_changed_is_started_and_ended():
    before, now = after(
        {"kept": FIRST, "changed": FIRST, "gone": FIRST},
        {"kept": FIRST, "changed": SECOND, "new": SECOND},
    )
    assert list(now) == ["kept", "changed", "new"]
    assert now["kept"] is before["kept"]
    assert all(model.ready for model in now.values())
    assert before["changed"].life == before["gone"].life == ["started", "stopped"]


def test_a_model_that_cannot_be_started_leaves_the_one_of_now_in_place():
    before, now = after({"a": FIRST}, {"a": BROKEN, "b": BROKEN})
    assert now["a"] is before["a"]
    assert now["a"].ready
    assert "no such filter" in now["b"].failure


@pytest.mark.nightly  # a worker that imports scikit-learn
def test_joining_rows_that_depend_on_each_other_is_refused_with_the_reason():
    pytest.importorskip("soma_filters_sklearn.estimators", exc_type=ImportError)
    config = ModelConfig(filter="sklearn.MinMaxScaler", batching=BatchingConfig())
    models = Models({"scaler": config})
    asyncio.run(models.start())
    [model] = models
    assert not model.ready
    assert "does not say that its rows are independent" in model.failure


def test_a_checkpoint_that_was_replaced_is_a_change(tmp_path):
    path = tmp_path / "model.soma"
    path.write_bytes(b"one")
    config = ModelConfig(filter="acme.A", checkpoint=path)
    model = Pretended("a", config)
    assert model.is_made_of(config)
    path.write_bytes(b"another")
    assert not model.is_made_of(config)


def reload(read: Callable[[], Settings], settings: Settings, tokens: Tokens) -> list[str]:
    """Reload once; the names of the models afterwards."""

    async def once() -> list[str]:
        models = Models(settings.models, Pretended)
        await models.start()
        await Reloading(read, settings, models, tokens).reload()
        return [model.name for model in models]

    return asyncio.run(once())


def test_tokens_are_those_of_the_file_as_it_is_now(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("the-first-token-here")
    settings = Settings(server=ServerConfig(tokens=path))
    tokens = Tokens.of(path)
    path.write_text("the-second-token-here")
    reload(lambda: settings, settings, tokens)
    assert tokens.holder("Bearer the-second-token-here")
    assert not tokens.holder("Bearer the-first-token-here")


def test_a_configuration_that_is_wrong_changes_nothing(caplog):
    def read() -> Settings:
        raise ConfigError("models.toml:3: server.port: wrong")

    settings = Settings(models={"a": FIRST})
    assert reload(read, settings, Tokens(None)) == ["a"]
    assert "models.toml:3" in caplog.text


def test_what_takes_a_restart_is_named(caplog):
    caplog.set_level(logging.INFO)
    changed = Settings(server=ServerConfig(port=9), models={"b": FIRST})
    assert reload(lambda: changed, Settings(), Tokens(None)) == ["b"]
    assert "[server] has changed" in caplog.text
    assert "[limits]" not in caplog.text


def test_a_server_does_not_begin_to_want_tokens_while_it_runs(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("the-first-token-here")
    now = Tokens(None)
    reload(lambda: Settings(server=ServerConfig(tokens=path)), Settings(), now)
    assert not now.wanted
