"""Tables (Markdown) and a figure of the learning curves from `benchmarks/results/`.

.venv/bin/python benchmarks/summarize.py > benchmarks/results/README.md
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

import against_baselines
import normalized_table
import plants
import process_control

matplotlib.use("Agg")
from matplotlib import pyplot

RESULTS = Path("benchmarks/results")
Runs = dict[tuple[str, str, str], list[dict]]


def load(folder: str) -> Runs:
    """Runs by (environment, algorithm, library)."""
    runs: Runs = defaultdict(list)
    for path in sorted((RESULTS / folder).glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["env"], run["algorithm"], run["library"]].append(run)
    return dict(sorted(runs.items()))


def spread(values: list[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


def learning_table(runs: Runs) -> list[str]:
    lines = [
        "| environment | algorithm | library | seeds | last agent, each run | best along the way, each run |",
        "|---|---|---|---|---|---|",
    ]
    for (env, algorithm, library), group in runs.items():
        last = spread([run["last"] for run in group])
        best = spread([run["best"] for run in group])
        seeds = ", ".join(str(run["seed"]) for run in group)
        lines.append(f"| {env} | {algorithm} | {library} | {seeds} | {last} | {best} |")
    return lines


def cells_table() -> list[str]:
    """The cells of `normalized_cells.txt` that ran, by the returns along the way."""
    looks, tasks = (25_000, 50_000), ("HalfCheetah-v4", "Hopper-v4")
    cells: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for path in sorted((RESULTS / "normalized").glob("*.json")):
        run = json.loads(path.read_text())
        task = run["config"]["env"]
        returns = {point["step"]: point["eval_mean"] for point in run["curve"]}
        cells[path.stem.split(f"-{task}-")[0]].update(
            {(task, look): returns[look] for look in looks if look in returns}
        )
    columns = [(task, look) for task in tasks for look in looks]
    lines = ["| cell | " + " | ".join(f"{task}, {look:,}" for task, look in columns) + " |", "|---" * 5 + "|"]
    for name, found in cells.items():
        values = " | ".join(f"{found[column]:,.0f}" if column in found else "–" for column in columns)
        lines.append(f"| {name} | {values} |")
    return lines


def pendulum_table(runs: Runs) -> list[str]:
    lines = ["| algorithm | seeds | mean return of the last agent, each seed | above −200 |", "|---|---|---|---|"]
    for (_, algorithm, _), group in runs.items():
        good = sum(run["last"] > -200 for run in group)
        lines.append(
            f"| {algorithm} | {len(group)} | {spread([run['last'] for run in group])} | {good} of {len(group)} |"
        )
    return lines


def last_agents_table() -> list[str]:
    """Every seed that ran: of an algorithm on Pendulum, and of a controller from a plant's log."""
    folder = RESULTS / "last_agents"
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    lines = ["| method | settings | seed: mean return at 7,000 and 8,000 steps | above −200 at the end |"]
    lines += ["|---|---|---|---|"]
    online: dict[str, list[dict]] = {}
    for run in runs.values():
        if "curve" in run:
            online.setdefault(run["config"]["algorithm"], []).append(run)
    for algorithm, group in online.items():
        words = group[0]["command"].split(" --set ")[1:]
        ends = [[point["eval_mean"] for point in run["curve"][-2:]] for run in group]
        each = "; ".join(
            f"{run['config']['seed']}: {pair[0]:.0f}, {pair[1]:.0f}" for run, pair in zip(group, ends, strict=True)
        )
        good = sum(pair[-1] > -200 for pair in ends)
        lines.append(f"| {algorithm} | {', '.join(words)} | {each} | {good} of {len(group)} |")
    lines += ["", "| plant, method | seed | settled | steady error, mean / worst |", "|---|---|---|---|"]
    for run in runs.values():
        for plant, held in run.items() if "curve" not in run else ():
            for result in (row for part in held["parts"].values() for row in part["results"]):
                error = result["steady_error"]
                lines.append(
                    f"| {plant}, {result['method']} | {result['seed']} | {result['settled']} of {result['runs']} | "
                    f"{error['mean']:.3f} / {error['worst']:.3f} {held['units']} |"
                )
    return lines


def offline_table() -> list[str]:
    """Swing-up from a log: returns and seconds of each method and kind of data."""
    groups = defaultdict(list)
    for path in sorted((RESULTS / "offline_pendulum").glob("*.json")):
        run = json.loads(path.read_text())
        groups[run["method"], run["data"]].append(run)
    lines = ["| method | data | mean return, each seed | above −300 | median seconds |", "|---|---|---|---|---|"]
    for (method, data), group in sorted(groups.items()):
        means = [run["mean_return"] for run in group]
        good, seconds = sum(mean > -300 for mean in means), np.median([run["train_seconds"] for run in group])
        lines.append(f"| {method} | {data} | {spread(means)} | {good} of {len(group)} | {seconds:.0f} |")
    return lines if groups else []


IMITATION = """
Five seeds do not tell which labels are better. Swing-up from 6 000 rows is learned to the same return either way. From
20 000 rows of HalfCheetah-v5, 40 iterations reach more with the solver's labels for four of five seeds, and on average;
the seeds differ by more than the versions. Twelve iterations are too few to learn from. The budget of the 200 000 rows
above was not spent here. What is tested is that the labels are the solver's.""".strip()


def imitation_table() -> list[str]:
    """What amortized FQI's policy imitates: returns of each log and version."""
    groups = defaultdict(list)
    for path in sorted((RESULTS / "imitation").glob("*.json")):
        run = json.loads(path.read_text())
        groups[run["task"], run["iterations"], run["commit"]].append(run)
    lines = ["| log | iterations | version | mean return, each seed | their mean |", "|---|---|---|---|---|"]
    for (task, iterations, commit), group in sorted(groups.items()):
        means = [run["mean_return"] for run in group]
        lines.append(f"| {task} | {iterations} | {commit} | {spread(means)} | {np.mean(means):,.0f} |")
    return lines if groups else []


def draw(runs: Runs, path: Path) -> None:
    envs = sorted({key[0] for key in runs})
    algorithms = sorted({key[1] for key in runs})
    figure, grid = pyplot.subplots(
        len(algorithms), len(envs), figsize=(4 * len(envs), 3 * len(algorithms)), layout="constrained", squeeze=False
    )
    for (env, algorithm, library), group in runs.items():
        axes = grid[algorithms.index(algorithm)][envs.index(env)]
        for index, run in enumerate(group):
            steps = [point["step"] for point in run["curve"]]
            means = [np.mean(point["returns"]) for point in run["curve"]]
            color = "C0" if library == "fittedq" else "C1"
            axes.plot(steps, means, color=color, label=library if index == 0 else None)
        axes.set(title=f"{algorithm} on {env}", xlabel="environment steps", ylabel="return, 10 episodes")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def svg_table() -> list[str]:
    """Steps to −200 and the last return per method and seed; draws the mean curves beside it."""
    curves: dict[str, list[dict]] = {}
    for path in sorted((RESULTS / "svg").glob("*-Pendulum-*.json")):
        curves.setdefault(path.stem.split("-Pendulum")[0], []).append(json.loads(path.read_text()))
    lines = ["| method | steps per seed | last return per seed | seconds of training, median |", "|---|---|---|---|"]
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, runs in curves.items():
        means = [[(point["step"], float(np.mean(point["returns"]))) for point in run["curve"]] for run in runs]
        first = [next((step for step, mean in curve if mean > -200), None) for curve in means]
        seconds = float(np.median([run["train_seconds"] for run in runs]))
        lasts = ", ".join(f"{run['last']:.0f}" for run in runs)
        lines.append(f"| {name} | {', '.join(map(str, first))} | {lasts} | {seconds:.0f} |")
        axes.plot(
            [step for step, _ in means[0]], np.mean([[m for _, m in curve] for curve in means], axis=0), label=name
        )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return, mean of the seeds")
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "svg_pendulum.png", dpi=110)
    return lines


def svg_mujoco_table() -> list[str]:
    """Returns at 50 000 steps of SVG(3) with a learned model, and of SAC at the same steps of its longer runs."""
    lines = [
        "| environment | method | seed | 30 000 steps | 40 000 | 50 000 | best until then |",
        "|---|---|---|---|---|---|---|",
    ]
    files = [*(RESULTS / "svg").glob("svg-3-*.json"), *(RESULTS / "learning").glob("*-sac-*.json")]
    runs = [json.loads(path.read_text()) for path in files]
    compared = {run["env"] for run in runs if run["algorithm"] == "svg"} - {"Pendulum-v1"}
    for run in sorted(runs, key=lambda run: (run["env"], run["algorithm"], run["library"], run["seed"])):
        if run["env"] in compared:
            means = {
                point["step"]: float(np.mean(point["returns"])) for point in run["curve"] if point["step"] <= 50_000
            }
            at = " | ".join(f"{means[step]:.0f}" for step in (30_000, 40_000, 50_000))
            method = "SVG(3), learned model" if run["algorithm"] == "svg" else f"SAC ({run['library']})"
            lines.append(f"| {run['env']} | {method} | {run['seed']} | {at} | {max(means.values()):.0f} |")
    return lines


def mjx_table() -> list[str]:
    """When 20 episodes first averaged above the goal, in steps and seconds, compiling included."""
    data = json.loads((RESULTS / "mjx_cart_pole.json").read_text())
    lines = ["| method | seed | solved | steps | seconds | of them until step 500 |", "|---|---|---|---|---|---|"]
    for run in data["runs"]:
        first, last = run["curve"][0], run["curve"][-1]
        cells = (run["name"], run["seed"], "yes" if run["solved"] else "no", last["step"])
        lines.append(f"| {' | '.join(map(str, cells))} | {last['seconds']:.0f} | {first['seconds']:.0f} |")
    return lines


def main() -> None:
    print("# Results\n\nMade by `benchmarks/summarize.py` from the JSON files beside it; each names its command,")
    print("versions, machine and date. Machines are noisy: read the ratios, measured in turn in one run.\n")
    speed = RESULTS / "learner_speed.json"
    if speed.exists():
        data = json.loads(speed.read_text())
        print(f"## Learner\n\n{data['machine']['cpu']}, {data['machine']['cores']} cores, {data['date'][:10]}.\n")
        names = list(data["results"][0]["updates_per_second"])
        print("| algorithm | " + " | ".join(names) + " | ours / SBX's best | ours / SB3 | share of sgemm |")
        print("|---" * (len(names) + 4) + "|")
        for row in data["results"]:
            rates = " | ".join(f"{row['updates_per_second'][name]:.0f}" for name in names)
            print(
                f"| {row['algorithm']} | {rates} | {row['ratio_to_sbx_best']:.2f} | {row['ratio_to_sb3']:.2f} | "
                f"{row['share_of_sgemm']:.0%} |"
            )
        print("\nUpdates per second; batch 256, layers 256–256, observation 17, action 6.\n")
    steps = RESULTS / "end_to_end.json"
    if steps.exists():
        data = json.loads(steps.read_text())
        print("## End to end\n\nEnvironment steps per second on HalfCheetah-v5, one update per step.\n")
        names = list(data["results"][0]["steps_per_second"])
        print("| algorithm | " + " | ".join(names) + " | ours / SBX | ours / SB3 |")
        print("|---" * (len(names) + 3) + "|")
        for row in data["results"]:
            rates = " | ".join(f"{row['steps_per_second'][name]:.0f}" for name in names)
            print(f"| {row['algorithm']} | {rates} | {row['ratio_to_sbx']:.2f} | {row['ratio_to_sb3']:.2f} |")
        print("\n`fittedq-chunk` acts with a policy up to 16 steps old; the others never do.\n")
    learning = load("learning")
    if learning:
        print("## Learning, 100 000 steps\n\nMean return over 10 deterministic episodes, every 10 000 steps.")
        print("A seed that stands twice was run again with a later learner on another machine (2026-11-25).\n")
        print("\n".join(learning_table(learning)) + "\n\n![learning curves](learning.png)\n")
        draw(learning, RESULTS / "learning.png")
    if (RESULTS / "normalized").is_dir():
        print("\n## XQC by width, updates a step and rates, 50 000 steps, one seed\n")
        print("\n".join(cells_table()))
        print("\n`w128-2` is four layers of 128 and two updates a step; `steady` has rates that do not fall.\n")
    if (RESULTS / "method_speed.json").exists() and (RESULTS / "auto").is_dir():
        print("\n## `auto` beside published means of ten seeds, MuJoCo v4\n")
        print(normalized_table.table(normalized_table.cells(), normalized_table.cost_of_auto()))
        print("\nReturns of the last agents, each seed that ran; normalized is (return − random) / (TD3's − random).\n")
    if (RESULTS / "svg").is_dir():
        print("\n## SVG on Pendulum-v1: steps until 20 evaluation episodes average above −200 (looked at every 500)\n")
        print("\n".join(svg_table()) + "\n\n![SVG on Pendulum](svg_pendulum.png)\n")
        print(
            "\n## SVG(3) with a learned model beside SAC, 50 000 steps\n\nMean return over 10 deterministic episodes.\n"
        )
        print("\n".join(svg_mujoco_table()) + "\n")
    if (RESULTS / "mjx_cart_pole.json").exists():
        print("\n## Swing-up in MJX: SVG(∞) through the known physics beside SAC\n")
        print("\n".join(mjx_table()))
        print("\nTo a mean return of 130 over 20 episodes, looked at every 500 steps; one core, compiling included.\n")
    pendulum = load("pendulum")
    if pendulum:
        print("## Pendulum-v1, 10 000 steps\n\nMean return over 20 deterministic episodes.\n")
        print("\n".join(pendulum_table(pendulum)))
    if (RESULTS / "last_agents").exists():
        print("\n## What the last agent is worth\n\nPendulum-v1, mean returns of 20 episodes, each seed that ran.\n")
        print("\n".join(last_agents_table()))
        print(
            "\nEach file names its commit; 0a575d9 is bdb7688 before it was rebased. What is not there has not run yet."
        )
    offline = offline_table()
    if offline:
        print("\n## Pendulum-v1 from 20 000 logged transitions\n")
        print("\n".join(offline))
        print("\nMean return of the last agent over 20 fresh episodes, after the default 40 iterations. `random`: even")
        print("actions; `mixed`: half from a TD3 agent after 2 000 steps. Two runs at a time, one core each, on a busy")
        print("machine: read the seconds so.")
    cheetah = sorted((RESULTS / "offline_halfcheetah").glob("*.json"))
    if cheetah:
        print("\n## HalfCheetah-v5 from 200 000 logged transitions\n")
        print(
            "| method | seed | mean return of 10 episodes | each | training seconds, one core |\n|---|---|---|---|---|"
        )
        for path in cheetah:
            run = json.loads(path.read_text())
            print(
                f"| {run['method']} | {run['seed']} | {run['mean_return']:,.0f} | {spread(run['returns'])} | "
                f"{run['train_seconds']:.0f} |"
            )
        print(
            f"\nThe log: both replays of our SAC runs, mean return {run['data_mean_return']:,.0f}, best episode "
            f"{run['data_best_return']:,.0f}."
        )
    imitation = imitation_table()
    if imitation:
        print("\n## What amortized FQI imitates: small logs\n")
        print("\n".join(imitation))
        print("\nIn d0e9124 labels of age 1 to 5 were the policy's own actions, in 2fdd009 they are the solver's.")
        print(IMITATION)
    rows = RESULTS / "million_rows.json"
    if rows.exists():
        data = json.loads(rows.read_text())
        print(
            f"\n## One iteration of explicit FQI on {data['rows']:,} rows\n\n{data['seconds']:.0f} s, "
            f"{data['peak_memory_gib']:.2f} GiB at most, {data['reports']} reports of progress, at most "
            f"{data['longest_silence_seconds']:.1f} s apart.\n"
        )
    logged = RESULTS / "process_control.json"
    if logged.exists():
        print("\n## Process control: 20 000 logged rows, 20 starts\n")
        print(process_control.table(json.loads(logged.read_text())))
    set_points()
    proofs()


def set_points() -> None:
    """Plants beside their PID and MPC, and our two beside PID and LQR; `docs/set_points.md` says what they mean."""
    held = RESULTS / "plants.json"
    if held.exists():
        results = json.loads(held.read_text())
        print("\n## Plants of target-gym beside their PID and MPC")
        for entry in ("plant", "plant, short", "svg, long", "svg, horizon 16", "svg, normalized"):
            _, steps, _ = plants.ENTRIES[entry]
            print(f"\n`{entry}`, {steps:,} steps:\n\n{plants.table(results, entry)}")
    held = RESULTS / "against_baselines.json"
    if held.exists():
        print("\n## Our two plants beside PID and LQR\n")
        ours = json.loads(held.read_text())
        print("\n\n".join(against_baselines.table(name, result) for name, result in ours.items()))


def proofs() -> None:
    """Certified maxima, the gap along training, refinement, limits and trees."""
    proven = RESULTS / "certified.json"
    if proven.exists():
        rows = json.loads(proven.read_text())["rows"]
        print(
            "\n## Certified maxima\n\nProcessor milliseconds per state on one thread, states one by one; `first` is one"
        )
        print("critic, `min` the least of two. 1e-2 and 1e-3 are relative to max(1, |value|).\n")
        print(
            "| critic | to 1e-2, median / worst | to 1e-3, median / worst | within 1 s, 10 s at 1e-3 |\n"
            "|---|---|---|---|"
        )
        for name, row in rows.items():
            if not all("cpu_ms_median" in row.get(tol, {}) for tol in ("1e-2", "1e-3")):
                continue
            loose, tight = row["1e-2"], row["1e-3"]
            print(
                f"| {name} | {loose['cpu_ms_median']:.0f} / {loose['cpu_ms_worst']:.0f} | "
                f"{tight['cpu_ms_median']:.0f} / {tight['cpu_ms_worst']:.0f} | "
                f"{tight['within_1s']:.0%}, {tight['within_10s']:.0%} |"
            )
        print("\nMany states in one call, one thread, at most 60 s; `range`: relative to q's range over the actions.\n")
        print("| critic | states | relative gap | certified | seconds |\n|---|---|---|---|---|")
        for name, row in rows.items():
            if name.startswith("pooled"):
                print(
                    f"| {name.removeprefix('pooled ')} | {row['states']:,} | {row['tol']:g} | {row['certified']:.0%} | "
                    f"{row['cpu_s']:.1f} |"
                )
        print(
            "\nBeside HiGHS and SCIP, to 1e-3, at most 10 s a state: seconds, and how many times ours takes; ours one"
        )
        print("state in a call and 256 in a call (the others take one program at a time). `>`: no proof by then.\n")
        print("| critic | ours, one | ours, of many | HiGHS | times one, many | SCIP | times one, many |")
        print("|---|---|---|---|---|---|---|")
        for name, row in rows.items():
            if name.startswith("beside"):
                cells = [f"{row['certified_cpu_s']:.4f}", f"{row['certified_pooled_cpu_s']:.5f}"]
                for solver in ("highs", "scip"):
                    if f"{solver}_cpu_s" not in row:
                        cells += ["–", "–"]
                        continue
                    mark = "" if row[f"{solver}_proves"] else "> "
                    cells.append(f"{mark}{row[f'{solver}_cpu_s']:.3f}")
                    cells.append(f"{mark}{row[f'{solver}_ratio']:,.0f}, {row[f'{solver}_ratio_pooled']:,.0f}")
                print(f"| {name.removeprefix('beside ')} | {' | '.join(cells)} |")
    misses = RESULTS / "local_misses.json"
    if misses.exists():
        print("\n## Local solvers against the certified maximum\n")
        print(
            "200 states of the SAC agents, the least of both critics; a miss is worse by more than 1e-3 of q's range.\n"
        )
        print("| solver | misses on Hopper, HalfCheetah | 95th percentile of the shortfall | ms per state |")
        print("|---|---|---|---|")
        hopper, cheetah = (json.loads(misses.read_text())["critics"][env] for env in ("Hopper-v5", "HalfCheetah-v5"))
        entries = {"the policy": (hopper["policy"], cheetah["policy"])}
        entries |= {name: (hopper["solvers"][name], cheetah["solvers"][name]) for name in hopper["solvers"]}
        for name, pair in entries.items():
            missed = ", ".join(f"{one['missed']:.0%}" for one in pair)
            short = ", ".join(f"{one['p95_shortfall']:.1%}" for one in pair)
            cost = ", ".join(f"{one['cpu_ms_per_state']:.2f}" for one in pair) if "cpu_ms_per_state" in pair[0] else "–"
            print(f"| {name} | {missed} | {short} | {cost} |")
    gaps = [json.loads(path.read_text()) for path in sorted((RESULTS / "gap").glob("*.json"))]
    if gaps:
        draw_gaps(gaps, RESULTS / "gap.png")
        print("\n## The amortization gap along training\n\n![amortization gap](gap.png)\n")
        print("At the end, proven intervals on 40 states of the agent's own, as shares of the range of q:\n")
        print(
            "| agent | median | 95th percentile | worst | policy within 5 % | certainly not |\n"
            "|---|---|---|---|---|---|"
        )
        for run in gaps:
            last = run["curve"][-1]
            spans = " | ".join(
                f"{last[f'relative_lower_{part}']:.1%} to {last[f'relative_upper_{part}']:.1%}"
                for part in ("median", "p95", "worst")
            )
            print(
                f"| {run['algorithm']} on {run['env']}, {last['step']:,} steps | {spans} | {last['policy_good']:.0%} | "
                f"{last['actor_fails']:.0%} |"
            )
        print("\nMean return over 10 episodes when each action is refined by 10 solver steps within a trust region:\n")
        print("| agent | as it is | trust 0.05 | 0.1 | 0.3 |\n|---|---|---|---|---|")
        for run in gaps:
            means = " | ".join(f"{entry['mean']:,.1f}" for entry in run["refined"])
            print(f"| {run['algorithm']} on {run['env']} | {means} |")
    limits = sorted((RESULTS / "constrained").glob("hopper-*.json"))
    if limits:
        print(
            "\n## Limits on the action\n\nTD3 on Hopper-v5, Σ|a_i| ≤ 1.2, 50 000 steps, mean return over 20 episodes:\n"
        )
        print("| how | seed | return |\n|---|---|---|")
        for path in limits:
            run = json.loads(path.read_text())
            print(f"| {run['way']} | {run['seed']} | {run['mean_return']:.0f} |")
    valve = RESULTS / "constrained" / "valve.json"
    if valve.exists():
        print(
            "\nA pump and a three-way valve (explicit FQI from 4 000 rows), loss against value iteration on a grid:\n"
        )
        print("| how | seed | share of the best value lost | worst state |\n|---|---|---|---|")
        for row in json.loads(valve.read_text())["results"]:
            print(f"| {row['way']} | {row['seed']} | {row['share_of_best']:.1%} | {row['worst_loss']:.3f} |")
    trees = RESULTS / "tree_argmax.json"
    if trees.exists():
        print("\n## Exact maxima of 100 trees\n\n| | median seconds | worst | proven in 10 s |\n|---|---|---|---|")
        for name, row in json.loads(trees.read_text())["rows"].items():
            print(f"| {name} | {row['median_seconds']:.3f} | {row['worst_seconds']:.2f} | {row['proven']:.0%} |")


def draw_gaps(gaps: list[dict], path: Path) -> None:
    envs = sorted({run["env"] for run in gaps})
    figure, grid = pyplot.subplots(1, len(envs), figsize=(4 * len(envs), 3), layout="constrained", squeeze=False)
    for run in gaps:
        axes = grid[0][envs.index(run["env"])]
        share = np.array([point["step"] for point in run["curve"]]) / run["curve"][-1]["step"]
        lower, upper = ([point[f"relative_{end}_median"] for point in run["curve"]] for end in ("lower", "upper"))
        (line,) = axes.plot(share, upper, marker="o", label=run["algorithm"])
        axes.fill_between(share, lower, upper, color=line.get_color(), alpha=0.3)
        axes.set(title=run["env"], xlabel="share of training", ylabel="median gap / range of q", ylim=(0, None))
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
