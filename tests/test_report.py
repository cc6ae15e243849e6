"""The report: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from experiments.report import render_report, write_front_picture, write_report, write_tables
from experiments.report.recommending import recommended

HOSTILE = "<script>alert(\"$x_{1}$\")</script> & 'quoted'"


def point(name: str, latency: float, accuracy: float, rng: np.random.Generator, tested: bool = True) -> dict[str, Any]:
    return {
        "id": name,
        "label": "r28 [e4k3 e3k5] [e2k3]",
        "values": {"latency": latency, "accuracy": accuracy, "macs": latency * 5e9, "parameters": latency * 2e8},
        "intervals": {"latency": [latency * 0.98, latency * 1.02]},
        "validation": accuracy + float(rng.normal(0, 0.005)),
        "test": accuracy if tested else None,
        "predicted": {
            "latency": latency * float(rng.normal(1, 0.04)),
            "accuracy": accuracy + float(rng.normal(0, 0.01)),
        },
    }


def session(purpose: str, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "id": "0123456789abcdef", "purpose": purpose, "began": 1.7e9, "n_networks": 12, "n_turns": 31,
        "n_discarded": 1, "is_level": False, "started": [None, *np.linspace(0, 3, 29).tolist()],
        "speed": rng.lognormal(0, 0.05, 30).tolist(), "latencies": np.geomspace(3e-5, 2e-4, 12).tolist(),
        "half_widths": rng.uniform(0.004, 0.02, 12).tolist(), "slower": 1.1, "change": 0.006, "notes": [HOSTILE],
    }  # fmt: skip


def told(name: str, kind: str, unit: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "unit": unit, "words": kind, "scored": kind == "accuracy"}


def renamed(points: list[dict[str, Any]], at: str) -> list[dict[str, Any]]:
    """The latency of points as that of a device."""
    return [
        point | {what: {at if key == "latency" else key: value for key, value in point[what].items()}
                 for what in ("values", "intervals", "predicted")}
        for point in points
    ]  # fmt: skip


def goal(name: str, batch_size: int, rng: np.random.Generator) -> dict[str, Any]:
    def accuracy(latency: float, lost: float) -> float:
        return 0.89 - 0.18 * float(np.exp(-latency / batch_size**0.7 / 6e-5)) - lost

    def points(label: str, n: int, lost: float, tested: bool = True) -> list[dict[str, Any]]:
        latencies = np.geomspace(3e-5, 2.4e-4, n) * batch_size**0.7
        losses = rng.uniform(0, lost, n)
        return [
            point(f"{label}{i:02}", float(t), accuracy(t, x), rng, tested)
            for i, (t, x) in enumerate(zip(latencies, losses, strict=True))
        ]

    front = points("f", 9, 0.0)
    front[3]["label"] = HOSTILE
    models = points("t", 2, 0.06)
    smallest, largest = front[0] | {"id": "small"}, front[-1] | {"id": "large", "test": 0.885}
    series = {
        "searched front": front,
        "measured sub-networks": points("m", 60, 0.12, tested=False),
        "random search": points("r", 6, 0.03),
        "uniform scaling": points("u", 5, 0.05),
        "smallest": [smallest],
        "largest": [largest],
        "timm: mobilenetv3_small_050": [models[0] | {"id": "", "predicted": {}}],
        f"timm: {HOSTILE}": [models[1] | {"predicted": {}}],
    }
    card = {
        "n_train": 80, "n_test": 20, "kendall_tau": 0.912, "mape": 0.031, "median_error": 0.02,
        "within_10_percent": 0.97, "coverage": 0.9, "interval_coverage": None,
    }  # fmt: skip
    latency, accuracy_told = told(f"latency@{name}", "latency", "s"), told("accuracy", "accuracy", "")
    return {
        "name": name,
        "objectives": [accuracy_told, latency],
        "limits": [],
        "quality": "accuracy",
        "costs": [latency],
        "shown": [told("macs", "macs", ""), told("parameters", "parameters", ""), told("energy", "energy", "J")],
        "devices": [name],
        "series": [{"name": one, "points": renamed(points, latency["name"])} for one, points in series.items()],
        "hypervolume": [{"series": "searched front", "value": 3.2e-5, "interval": [3.1e-5, 3.3e-5], "relative": 1.0,
                         "relative_interval": None, "front_is_larger": None},
                        {"series": "random search", "value": 2.9e-5, "interval": [2.8e-5, 3.0e-5], "relative": 0.906,
                         "relative_interval": [0.871, 0.942], "front_is_larger": 0.998}],
        "optimism": [{"series": "searched front", "n": 9, "mean": 0.004, "interval": [-0.001, 0.009]}],
        "reference": {latency["name"]: 3e-4, "accuracy": 0.6},
        "error_cards": {latency["name"]: card, "accuracy": card},
        "front_within_10_percent": 0.93,
    }  # fmt: skip


def device(name: str, batch_size: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"ONNX Runtime on the CPU, 1 thread, batches of {batch_size}",
        "fingerprint": {"cpu": "A processor", "runtime": "onnxruntime 1.32", "threads": 1, "batch_size": batch_size},
        "batch_size": batch_size,
        "sessions": [session("planned", rng), session("final", rng) | {"is_level": True, "slower": 1.0}],
        "doubts": [f"{name}: everything was 1.8 times slower {HOSTILE}"],
    }


@pytest.fixture(scope="module")
def comparison() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    phases = ["largest"] * 6 + ["sandwich"] * 24
    losses = [2.3 * np.exp(-i / 9) + 0.6 for i in range(len(phases))]
    return {
        "title": "Demo: digits among clutter",
        "provenance": {"recipe": "0123456789abcdef", "seed": 0, "commit": None, "uncommitted_changes": False,
                       "libraries": {"torch": "2.15.0", "timm": HOSTILE}},
        "data": {"name": "digits", "n_classes": 10, "train": 20_000, "validation": 2_000, "test": 4_000},
        "space": {"size": "1.2e+09", "text": "Stages of 1 to 3 blocks, kernels 3 and 5, expansions 2, 3 and 4."},
        "training": [
            {"epoch": i, "phase": phase,
             "loss": {"largest": x} if phase == "largest" else {"largest": x, "smallest": x + 0.5, "random": x + 0.3}}
            for i, (phase, x) in enumerate(zip(phases, losses, strict=True))
        ],
        "spread": {"smallest": 0.712, "largest": 0.885},
        "goals": [goal("cpu-batch1", 1, rng), goal("cpu-batch32", 32, rng)],
        "devices": [device("cpu-batch1", 1, rng), device("cpu-batch32", 32, rng)],
        "notes": ["The machine was busy.", HOSTILE],
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(comparison) -> str:
    return render_report(comparison)


class Outline(HTMLParser):
    """Collects what the tests ask of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def test_nothing_is_asked_from_outside(page):
    outline = Outline(page)
    for attributes in (attributes for _, attributes in outline.tags):
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not outline.all("link", "iframe", "img", "object")
    assert [attributes.get("type") for attributes in outline.all("script")] == ["application/json", None]
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon", page)
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_hostile_names_stay_text(page):
    assert page.count("<script") == 2 and page.count("</script") == 2 and "&lt;script&gt;" in page


def test_every_network_of_the_fronts_is_in_a_table(page, comparison):
    rows = re.findall(r'<th scope="row"><code>(\w+)</code>', page)
    for one in comparison["goals"]:
        ids = [p["id"] for series in one["series"] if series["name"] == "searched front" for p in series["points"]]
        assert ids and set(ids) <= set(rows)


def test_it_can_be_read_without_seeing(page):
    outline = Outline(page)
    assert all(attributes.get("aria-label") for attributes in outline.all("svg"))
    assert len(outline.all("svg")) == 7
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in outline.all("th"))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in outline.all("a")} <= set(ids)


def test_numbers_are_shown_in_readable_units(page):
    assert "30.0 µs" in page and "88.5 %" in page and "+" in page
    assert "predicted latency was within 10 %" in page and "93.0 %" in page
    assert "87.1 % to 94.2 %" in page and "over 99 % sure" in page


def test_the_same_comparison_gives_the_same_page(page, comparison):
    assert render_report(comparison) == page


def test_a_comparison_without_front_or_predictions_still_renders(comparison):
    bare = {"series": [{"name": "searched front", "points": []}], "hypervolume": [], "error_cards": {}}
    empty = comparison["goals"][0] | bare | {"front_within_10_percent": None}
    page = render_report(comparison | {"goals": [empty], "training": [], "notes": []})
    assert "no front" in page and "no predictions" in page


def test_three_objectives_have_a_panel_for_each_cost_and_columns_for_all(comparison):
    one = comparison["goals"][0]
    more = told("parameters", "parameters", "")
    three = one | {"objectives": [*one["objectives"], more], "costs": [*one["costs"], more], "shown": one["shown"][:1],
                   "reference": one["reference"] | {"parameters": 1e5}, "limits": ["size <= 5.00 MB"]}  # fmt: skip
    page = render_report(comparison | {"goals": [three]})
    assert f"Every network of the front of {one['name']} as a line over 3 axes" in page
    assert "Every panel shows two of the 3 quantities" in page and "size &lt;= 5.00 MB" in page
    heads = re.findall(r'<th scope="col" class="number">([^<]*)</th>', page)
    assert heads[2:5] == [f"latency on {one['name']}", "parameters", "macs"]


def repeated(comparison):
    """With a second search, for the first goal."""
    series = ("searched front", "random search")
    volumes = [
        {"series": name, "values": [3e-5, 3.1e-5], "mean": 3.05e-5, "interval": [2.9e-5, 3.2e-5], "share": share,
         "share_interval": [share - 0.02, share + 0.02], "front_is_larger": sure, "front_is_larger_on_average": sure}
        for name, share, sure in zip(series, (1.0, 0.9), (None, 0.975), strict=True)
    ]  # fmt: skip
    points = [[0.7, 4e-5], [0.8, 9e-5], [0.85, 2e-4]]
    one = comparison["goals"][0]
    attained = [{"series": name, "share": share, "points": points} for name in series for share in (0.0, 0.5, 1.0)]
    goal = {"name": one["name"], "traded": ["accuracy", f"latency@{one['name']}"], "reference": one["reference"],
            "hypervolume": volumes, "attained": attained}  # fmt: skip
    return comparison | {"repeats": {"seeds": [0, 1], "goals": [goal]}}


def test_repeated_searches_are_shown_where_there_are_any(comparison, page):
    shown = render_report(repeated(comparison))
    assert "made 2 times with other seeds" in shown and "97.5 %" in shown and "What searches with other seeds" in shown
    assert "with other seeds" not in page
    assert "Optimism" in page and "+0.4" in page


def test_tables_hold_every_digit_and_the_command_that_makes_them_again(comparison, tmp_path):
    comparison = repeated(comparison)
    write_tables(comparison, tmp_path, "'runs/a b'")
    names = {"hypervolume", "networks", "optimism", "repeats", "attained"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{end}" for name in names for end in ("csv", "md", "tex")
    }
    with (tmp_path / "networks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tested = [
        p for goal in comparison["goals"] for one in goal["series"] for p in one["points"] if p["test"] is not None
    ]
    assert [float(row["test"]) for row in rows] == [point["test"] for point in tested]
    assert {row["command"] for row in rows} == {"supernet compare 'runs/a b'"}
    assert any(row["series"] == f"timm: {HOSTILE}" for row in rows)
    latex = (tmp_path / "networks.tex").read_text(encoding="utf-8")
    assert r"\$x\_\{1\}\$" in latex and latex.count(r"\\") == len(rows) + 1
    assert "--seeds 2" in (tmp_path / "repeats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_for_a_readme(comparison, tmp_path, suffix):
    path = tmp_path / "docs" / f"front.{suffix}"
    write_front_picture(comparison, path)
    assert path.stat().st_size > 10_000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_writing_leaves_one_whole_file(comparison, page, tmp_path):
    write_report(comparison, tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert written == render_report(comparison, str(tmp_path)) and f"supernet export {tmp_path} --arch " in written
    assert written.replace(str(tmp_path), "RUN") == page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_knee_is_recommended_or_the_best_within_the_limit():
    def point(name, cost, score):
        return {"id": name, "values": {"macs": cost}, "validation": score, "test": score}

    goal = {"quality": "accuracy", "objectives": [1, 2], "costs": [{"name": "macs"}], "limits": []}
    front = [point("a", 1, 0.5), point("b", 2, 0.85), point("c", 10, 0.88), point("d", 100, 0.9)]
    found = recommended(goal, front, maximize=True)
    assert found is not None and found["point"]["id"] == "b" and "knee" in found["reason"]
    asked = recommended(goal | {"limits": ["macs <= 50"]}, front[:3], maximize=True)
    assert asked is not None and asked["point"]["id"] == "c" and "macs <= 50" in asked["reason"]
    errors = [point(p["id"], p["values"]["macs"], 1 - p["validation"]) for p in front]
    assert recommended(goal, errors, maximize=False)["point"]["id"] == "b"  # type: ignore[index]
    assert recommended(goal | {"quality": None}, front, maximize=True) is None
    assert recommended(goal, [], maximize=True) is None


ASKED = """
const wait = () => new Promise((done) => setTimeout(done, 0));
addEventListener("load", async () => {
  const told = {}, place = document.getElementById("explore-1"), tip = place.querySelector(".tip");
  told.hidden = place.hidden;
  const dot = place.querySelector(".series.front circle");
  dot.dispatchEvent(new Event("mouseenter")); told.hover = tip.textContent; told.id = dot.dataset.id;
  dot.dispatchEvent(new Event("click")); await wait(); await wait(); told.click = tip.textContent;
  const slider = place.querySelector("input[type=range]"), answer = place.querySelector(".answer");
  told.all = answer.textContent;
  slider.value = 500; slider.dispatchEvent(new Event("input")); told.half = answer.textContent;
  const box = place.querySelector(".legend input"), group = place.querySelector(".series");
  box.checked = false; box.dispatchEvent(new Event("change")); told.off = getComputedStyle(group).display;
  const foretold = place.querySelector(".predicted");
  told.before = getComputedStyle(place.querySelectorAll(".predicted")[1]).display;
  const last = [...place.querySelectorAll(".legend input")].at(-1);
  last.checked = true; last.dispatchEvent(new Event("change"));
  told.after = getComputedStyle(place.querySelectorAll(".predicted")[1]).display;
  const table = document.querySelector("main table"), heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent.includes("latency"));
  const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
  table.tHead.rows[0].cells[column].click(); told.rising = read();
  table.tHead.rows[0].cells[column].click(); told.falling = read();
  const made = []; URL.createObjectURL = (blob) => { made.push(blob); return "blob:x"; };
  document.querySelector(".download").click(); told.csv = await made[0].text();
  const out = document.createElement("pre"); out.id = "told"; out.textContent = JSON.stringify(told);
  document.body.append(out);
});
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it (Debian: apt-get install chromium)")
def test_a_browser_shows_answers_sorts_and_copies(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{ASKED}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path}/page.html"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text is not None, done.stdout[-2000:] + done.stderr[-2000:]
    told = json.loads(html.unescape(text[1]))
    assert told["hidden"] is False and told["off"] == "none"
    assert told["hover"].startswith(f"{told['id']}, searched front: ") and "95 % interval" in told["hover"]
    assert "r28 [e4k3 e3k5] [e2k3]" in told["hover"] and "predicted before" in told["hover"]
    assert f"supernet export RUN --arch {told['id']}" in told["click"]
    assert "is the best on validation" in told["all"] and told["half"] != told["all"]
    assert told["before"] == "none" and told["after"] != "none"
    assert sorted(told["rising"]) == sorted(told["falling"]) and told["rising"] == told["falling"][::-1]
    assert told["csv"].splitlines()[0].startswith('"id","test"') and len(told["csv"].splitlines()) > 3
