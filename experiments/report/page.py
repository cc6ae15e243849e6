"""The report: one HTML page that needs nothing else, for somebody who has never seen the project."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.budgets import format_count, format_seconds
from experiments.quantities import Kind, kinds_with, quality
from experiments.report.attained_picture import attained_picture
from experiments.report.front_picture import front_picture, prediction_picture
from experiments.report.parallel_picture import parallel_picture
from experiments.report.pictures import training_picture
from experiments.report.recommending import points_for_script, recommended
from experiments.report.session_picture import session_picture
from supernet.files import write_text

__all__ = ["render_report", "write_report"]

Data = Mapping[str, Any]

_CARD_WORDS = {
    "n_train": "sub-networks learned from",
    "n_test": "sub-networks judged on",
    "kendall_tau": "agreement of the rankings (Kendall τ)",
    "mape": "mean error",
    "median_error": "median error",
    "within_10_percent": "predictions within 10 %",
    "coverage": "an interval promises to hold",
    "interval_coverage": "intervals did hold",
}
_FIGURES = {"n_train", "n_test"}
_COEFFICIENTS = {"kendall_tau"}


@dataclass(frozen=True)
class _Quality:
    """How the page speaks of what networks are good at: accuracy, or the metric of a task of one's own."""

    kind: Kind
    best: str  # what the best network is, and one that is better than another
    better: str
    lead_words: str  # what differences are of

    @classmethod
    def of(cls, kinds: Mapping[str, Kind]) -> _Quality:
        kind = quality(kinds).kind
        if kind.name == "accuracy":
            return cls(kind, "most accurate", "more accurate", "percentage points of test accuracy")
        return cls(kind, "best", "better", f"{kind.words} on test, positive where the front is better")

    @property
    def words(self) -> str:
        return self.kind.words

    @property
    def higher(self) -> str:
        """Where in a picture the better ones are."""
        return "Higher" if self.kind.maximize else "Lower"

    def worth(self, value: float) -> float:
        """The larger, the better."""
        return value if self.kind.maximize else -value

    def written(self, value: float | None) -> str:
        """A score for people."""
        if value is None:
            return "–"
        return f"{value * 1e2:.1f} %" if self.kind.name == "accuracy" else self.kind.format(value)

    def lead(self, gain: float | None) -> str:
        """A difference of worth with its sign: of accuracy in percentage points."""
        if gain is None:
            return "–"
        text = f"{round(gain * 1e2, 1):+.1f}" if self.kind.name == "accuracy" else f"{gain:+.3g}"
        return text.replace("-", "−") if float(text) else "0.0"


def render_report(comparison: Data, run: str = "RUN") -> str:
    """The page of a comparison, plain data in the form of ``comparison.json``.

    Args:
        run: the folder of the run, for the commands on the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = kinds_with(comparison.get("metric"))
    shown = _Quality.of(kinds)
    environment.filters |= {
        "time": format_seconds,
        "value": lambda point, told: _value(kinds, told, point["values"].get(told["name"])),
        "score": shown.written,
        "lead": shown.lead,
        "points": shown.lead,
        "words": _words,
        "count": _count,
        "percent": _percent,
        "power": _power,
    }
    template = environment.get_template("report.html")
    goal_views = [_goal_view(goal, kinds, shown, comparison) for goal in comparison["goals"]]
    is_share = shown.kind.name == "accuracy"
    return template.render(
        **{**comparison, "repeats": comparison.get("repeats")},
        run=quote(run),
        points=points_for_script(comparison["goals"], run, shown.kind.maximize, is_share),
        script=Markup(Path(__file__).with_name("report.js").read_text(encoding="utf-8")),
        quality=shown,
        goal_views=goal_views,
        device_views=[_device_view(device) for device in comparison["devices"]],
        training_svg=training_picture(comparison["training"], comparison.get("metric"))
        if comparison["training"]
        else None,
        facts=_facts(comparison["provenance"]),
    )


def write_report(comparison: Data, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render_report(comparison, os.path.dirname(path) or "."))


def _goal_view(goal: Data, kinds: Mapping[str, Kind], shown: _Quality, comparison: Data) -> dict[str, Any]:
    """What the page shows of a goal beside its plain data."""
    repeats = (comparison.get("repeats") or {"goals": []})["goals"]
    repeated = next((one for one in repeats if one["name"] == goal["name"]), None)
    series = {one["name"]: one["points"] for one in goal["series"]}
    by = (goal["costs"] or goal["objectives"])[0]["name"]
    front = sorted(series.get("searched front", []), key=lambda point: point["values"][by])
    columns = list(goal["costs"])
    known = {name for points in series.values() for point in points for name in point["values"]}
    columns += [one for one in goal["shown"] if not one["scored"] and one["name"] in known]
    return {
        **goal,
        "traded": " against ".join(_words(one) for one in goal["objectives"]),
        "front": front,
        "recommended": recommended(goal, front, shown.kind.maximize),
        "columns": columns,
        "reference_text": " and ".join(
            _value(kinds, one, goal["reference"][one["name"]]) for one in goal["objectives"]
        ),
        "comparisons": _comparisons(goal, front, shown)
        if goal["quality"] is not None and len(goal["objectives"]) == 2
        else [],
        "cards": {what: _card(card) for what, card in goal["error_cards"].items() if card},
        "front_svg": front_picture(goal),
        "parallel_svg": parallel_picture(goal, comparison.get("metric")) if len(goal["objectives"]) > 2 else None,
        "repeats": repeated,
        "attained_svg": attained_picture(goal, repeated) if repeated and repeated["attained"] else None,
        "prediction_svg": prediction_picture(goal),
    }


def _device_view(device: Data) -> dict[str, Any]:
    """How a device was measured on, for the page."""
    return {
        **device,
        "facts": _facts(device["fingerprint"]),
        "session_svg": session_picture(device),
        "session_rows": [_session_row(number, session) for number, session in enumerate(device["sessions"], start=1)],
    }


def _words(told: Data) -> str:
    """A quantity for people."""
    words = f"{told['words']} on validation" if told["scored"] else told["words"]
    return f"{words} on {told['name'].partition('@')[2]}" if "@" in told["name"] else words


def _value(kinds: Mapping[str, Kind], told: Data, value: float | None) -> str:
    return "–" if value is None else kinds[told["kind"]].format(value)


def _session_row(number: int, session: Data) -> dict[str, Any]:
    """A session in words."""
    widths = sorted(session["half_widths"])
    speed = sorted(session["speed"])
    slower = session["slower"]
    return {
        "number": number,
        "purpose": session["purpose"],
        "began": datetime.fromtimestamp(session["began"]).strftime("%Y-%m-%d %H:%M:%S"),
        "networks": session["n_networks"],
        "turns": session["n_turns"],
        "discarded": session["n_discarded"],
        "moved": f"{_change(speed[len(speed) // 20])} to {_change(speed[-1 - len(speed) // 20])}",
        "known": f"±{100 * widths[len(widths) // 2]:.1f} %",
        "level": "the level" if session["is_level"] else "not tied" if slower is None else _change(slower),
        "change": "" if session["is_level"] or slower is None else f"{100 * session['change']:.1f} %",
    }


def _change(factor: float) -> str:
    percent = round(100 * (factor - 1))
    return f"{percent:+d} %".replace("-", "−") if percent else "0 %"


def _comparisons(goal: Data, front: Sequence[Data], shown: _Quality) -> list[dict[str, Any]]:
    """The best points of every baseline beside the best network of the front that costs no more."""
    cost = goal["costs"][0]["name"]
    rows = []
    for one in goal["series"]:
        if one["name"] in ("searched front", "measured sub-networks"):
            continue
        for point in _undominated(one["points"], cost, shown):
            at_most = [p for p in front if p["values"][cost] <= point["values"][cost] and p["test"] is not None]
            rival = max(at_most, key=lambda p: shown.worth(p["test"]), default=None)
            gain = None if rival is None else shown.worth(rival["test"]) - shown.worth(point["test"])
            rows.append({"series": one["name"], "point": point, "rival": rival, "gain": gain})
    return rows


def _undominated(points: Sequence[Data], cost: str, shown: _Quality) -> list[Data]:
    """The tested points than which no other of the series is both cheaper and better, cheapest first."""
    best: list[Data] = []
    tested = (point for point in points if point["test"] is not None)
    for point in sorted(tested, key=lambda point: (point["values"][cost], -shown.worth(point["test"]))):
        if not best or shown.worth(point["test"]) > shown.worth(best[-1]["test"]):
            best.append(point)
    return best


def _card(card: Data) -> list[tuple[str, str]]:
    """An error card as (words, number)."""
    rows = []
    for name, value in card.items():
        if value is None or not isinstance(value, int | float):
            shown = "–" if value is None else str(value)
        elif name in _FIGURES:
            shown = f"{value:,.0f}"
        else:
            shown = f"{value:.3f}" if name in _COEFFICIENTS else f"{value * 1e2:.1f} %"
        rows.append((_CARD_WORDS.get(name, name.replace("_", " ")), shown))
    return rows


def _facts(data: Data) -> list[tuple[str, str]]:
    """Plain data as (name, text); what is nested is listed in one line."""
    rows = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = "–" if value is None else str(value)
        rows.append((name.replace("_", " "), text))
    return rows


def _count(value: float | None) -> str:
    return "–" if value is None else format_count(value)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 1e2:.1f} %"


def _power(number: str) -> str:
    """A number written like 1.2e+09 as 1.2 × 10⁹; any other text as it is."""
    mantissa, mark, exponent = number.partition("e")
    if not mark or not exponent.lstrip("+-").isdigit():
        return number
    return f"{mantissa} × 10" + f"{int(exponent)}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
