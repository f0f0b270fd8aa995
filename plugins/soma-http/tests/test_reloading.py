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

FIRST, SECOND, BROKEN, ENDLESS = (
    ModelConfig(filter=f"acme.{name}") for name in ("A", "B", "Broken", "Endless")
)


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
        if self.config == ENDLESS:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.life.append("given up")
                raise
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


def test_a_model_whose_load_hangs_holds_up_neither_another_nor_the_change_that_mends_it():
    async def change() -> None:
        models = Models({"a": FIRST, "b": ENDLESS}, Pretended)
        starting = asyncio.create_task(models.start())
        while not models.get("a").ready:
            await asyncio.sleep(0)
        first = models.become({"a": ENDLESS, "b": SECOND, "c": FIRST})
        before = list(models)
        waiting = asyncio.create_task(first)
        while models.get("c") is None:
            await asyncio.sleep(0)
        assert models.ready
        assert models.get("a").config == FIRST
        assert models.get("b").config == SECOND
        assert await models.become({"a": FIRST, "c": FIRST})
        assert not await waiting
        assert {model.name: model.config for model in models} == {"a": FIRST, "c": FIRST}
        assert before[1].life == ["given up"]
        assert models.get("a") is before[0]
        await starting
        await models.stop()

    asyncio.run(asyncio.wait_for(change(), 20.0))


def test_a_model_that_is_still_loaded_is_not_loaded_twice_and_ends_with_the_server():
    async def change() -> None:
        models = Models({"a": FIRST, "b": ENDLESS}, Pretended)
        starting = asyncio.create_task(models.start())
        await asyncio.sleep(0)
        before = list(models)
        waiting = asyncio.create_task(models.become({"a": FIRST, "b": ENDLESS, "c": ENDLESS}))
        assert await models.become({"b": ENDLESS, "a": FIRST})
        assert [models.get("a"), models.get("b")] == before
        assert not await waiting
        await models.stop()
        await starting
        assert before[1].life == ["given up", "stopped"]

    asyncio.run(asyncio.wait_for(change(), 20.0))


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


def test_a_configuration_that_has_lost_all_models_changes_nothing(caplog):
    settings = Settings(models={"a": FIRST})
    assert reload(Settings, settings, Tokens(None)) == ["a"]
    assert "it has no models any more" in caplog.text


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
