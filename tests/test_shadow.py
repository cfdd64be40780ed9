"""A controller beside the one in charge: what is told of the differences, against what was put there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from exported import AGENTS, MEMORY, agent_in
from fittedq.acting.shadow import Shadow
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError


def test_the_report_finds_the_bias_and_the_blow_that_were_put_there() -> None:
    agent, rng = agent_in(), np.random.default_rng(0)
    shadow = agent.shadow(["valve", "pump"])
    for at in range(50):
        obs = rng.normal(size=3).astype(np.float32)
        present = agent.act(obs) - np.float32([0.25, 0.0])
        present[1] += 0.5 * (at == 17)
        shadow.step(np.full(3, np.nan) if at in (30, 31) else obs, present)
    told = shadow.report()
    valve, pump = told["actions"]
    assert told["statuses"] == {"OK": 48, "NOT_FINITE": 2} and told["samples"] == 50
    assert told["fallback"] == [{"episode": 0, "sample": 30, "samples": 2, "status": "NOT_FINITE"}]
    good = np.delete(shadow.would - shadow.present, [30, 31], axis=0)
    np.testing.assert_allclose(good[:, 0], 0.25, atol=1e-5)
    assert next(one["sample"] for one in pump["largest"] if one["sample"] not in (30, 31)) == 17
    assert valve["name"] == "valve" and valve["bias_in_half_widths"] == pytest.approx(valve["bias"] / 2)
    with pytest.raises(UserError, match="found no samples"):
        Shadow(agent.loop(), ["a"], np.zeros(1), np.ones(1)).report()
    with pytest.raises(UserError, match="found 3 numbers, expected 2"):
        shadow.step(obs, [0.0, 0.0, 0.0])


def test_it_remembers_what_was_executed_and_not_what_it_would_have_done() -> None:
    """Beside itself one sample behind, it decides as the agent that has seen those actions."""
    agent, rng = agent_in(added=MEMORY), np.random.default_rng(1)
    shadow, loop = agent.shadow(), agent.loop()
    for _ in range(12):
        obs = rng.normal(size=3).astype(np.float32)
        ours = loop.step(obs)[0]
        np.testing.assert_allclose(shadow.step(obs, ours)[0], ours)
    elsewhere = agent.shadow()
    far = [elsewhere.step(obs, [-2.0, -1.0])[0] for _ in range(12)]
    assert np.abs(far[-1] - [-2.0, -1.0]).max() <= 1.0 + 1e-5  # its changes are a quarter and half of a unit at most
    assert not np.allclose(far[-1], ours)


def test_a_log_is_read_beside_a_run_and_an_export_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent, rng = agent_in(**AGENTS["memory"]), np.random.default_rng(2)
    obs, action = rng.normal(size=(30, 3)).astype(np.float32), rng.uniform([-2, -1], [2, 3], (30, 2))
    ends = np.arange(30) % 10 == 9
    data = {"obs": obs, "action": action.astype(np.float32), "reward": np.zeros(30), "next_obs": obs}
    Dataset.from_arrays(**data, terminated=ends, action_low=[-2.0, -1.0], action_high=[2.0, 3.0]).save(tmp_path / "log")
    agent.save(tmp_path / "agent")
    agent.export(tmp_path / "numpy", "numpy", samples=100)
    told = []
    for name in ("agent", "numpy"):
        words = ["shadow", str(tmp_path / name), "--data", str(tmp_path / "log"), "--json"]
        assert main([*words, "--out", str(tmp_path / f"{name}.csv")]) == 0
        told.append(json.loads(capsys.readouterr().out))
    for ours, theirs in zip(*(one["actions"] for one in told), strict=True):
        assert ours["bias"] == pytest.approx(theirs["bias"], abs=1e-5)
    rows = list(csv.DictReader((tmp_path / "agent.csv").read_text().splitlines()))
    assert len(rows) == told[0]["samples"] == 30
    assert float(rows[3]["present action[1]"]) == pytest.approx(action[3, 1])
    assert main(["shadow", str(tmp_path / "agent"), "--data", str(tmp_path / "log")]) == 0
    assert "would − present" in capsys.readouterr().out
    assert main(["shadow", str(tmp_path / "agent"), "--data", str(tmp_path / "log"), "--out", "x.txt"]) == 2
    assert "ends with .csv" in capsys.readouterr().err


def test_a_table_needs_no_reward_and_is_told_of_what_shadow_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `data import` asks for on its command line, this command is told by the plant's description alone."""
    agent, rng = agent_in(), np.random.default_rng(3)
    agent.save(tmp_path / "agent")
    log, plant = tmp_path / "log.csv", tmp_path / "plant.toml"
    rows = rng.normal(size=(8, 5)).clip(-1, 1)
    log.write_text("t,a,b,c,u,v\n" + "".join(f"{at},{','.join(map(str, row))}\n" for at, row in enumerate(rows)))
    words = ["shadow", str(tmp_path / "agent"), "--data", str(log)]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "fittedq data describe" in told and "--plant" in told and "--obs" not in told
    seen = "".join(f'{name} = {{ role = "measured" }}\n' for name in "abc")
    plant.write_text(f'time = "t"\n[columns]\n{seen}')
    assert main([*words, "--plant", str(plant)]) == 2
    assert f"no column for action; its columns are a, b, c, t, u, v; say in {plant}" in capsys.readouterr().err
    acts = "".join(f'{name} = {{ role = "action", low = -2, high = 3 }}\n' for name in "uv")
    plant.write_text(f'time = "t"\n[columns]\n{seen}{acts}')
    assert main([*words, "--plant", str(plant), "--out", str(tmp_path / "beside.csv"), "--json"]) == 0
    beside = list(csv.DictReader((tmp_path / "beside.csv").read_text().splitlines()))
    np.testing.assert_allclose([float(row["present u"]) for row in beside], rows[:-1, 3], rtol=1e-6)
    would = np.array([[float(row[f"would {name}"]) for name in "uv"] for row in beside])
    np.testing.assert_allclose(would, agent.act(rows[:-1, :3].astype(np.float32)), atol=1e-6)


def test_an_export_is_told_of_by_the_names_of_the_log_and_never_beside_signals_in_another_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, rng, log = agent_in(), np.random.default_rng(4), tmp_path / "log.csv"
    rows = rng.normal(size=(8, 5)).clip(-1, 1)
    log.write_text("t,a,b,c,u,v\n" + "".join(f"{at},{','.join(map(str, row))}\n" for at, row in enumerate(rows)))
    roles = dict.fromkeys("abc", '{ role = "measured" }') | dict.fromkeys(
        "uv", '{ role = "action", low = -2, high = 3 }'
    )
    plant = tmp_path / "plant.toml"
    plant.write_text('time = "t"\n[columns]\n' + "".join(f"{name} = {role}\n" for name, role in roles.items()))
    told = {}
    for name, names in {"nameless": None, "same": [*"abcuv"], "turned": [*"abcvu"], "strange": [*"bacuv"]}.items():
        agent.export(tmp_path / name, "numpy", samples=100, names=names)
        code = main(["shadow", str(tmp_path / name), "--data", str(log), "--plant", str(plant)])
        told[name] = (code, *capsys.readouterr())
    for name in ("nameless", "same"):
        assert told[name][0] == 0 and [line.split()[0] for line in told[name][1].splitlines()[2:4]] == ["u", "v"]
    assert told["turned"][0] == 2 and "found the signals u, v, the controller's are v, u" in told["turned"][2]
    assert told["strange"][0] == 2 and "found the signals a, b, c, the controller's are b, a, c" in told["strange"][2]
