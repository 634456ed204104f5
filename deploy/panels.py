"""How a panel, a variable and a dashboard are written for Grafana (10.4 or newer), after vLLM's own dashboards.

Descriptions end with the metrics that a panel asks for. Widths are of 24 columns; panels flow into lines.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

Json = dict[str, Any]

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
METRIC: Final = re.compile(r"\b(?:mooring_|vllm:)\w+")
NO_TRAFFIC: Final = [{"type": "special", "options": {"match": "nan", "result": {"index": 0, "text": "No traffic"}}}]
COLUMNS: Final = 24
EMPTY: Final = "Empty "
"""How a sentence of a description begins that says when a panel shows nothing, for all its queries being right."""


def row(title: str) -> Json:
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "size": (COLUMNS, 1)}


def stat(title: str, about: str, expr: str, unit: str = "short", warn: float | None = None,
         bad: float | None = None, width: int = 4) -> Json:  # fmt: skip
    """One number; orange from `warn` and red from `bad` on."""
    defaults = {
        "color": {"mode": "thresholds"},
        "mappings": NO_TRAFFIC,
        "noValue": "No traffic",
        "thresholds": thresholds(warn, bad),
        "unit": unit,
    }
    options = {
        "colorMode": "none" if warn is None and bad is None else "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    return _panel("stat", title, about, [query(expr)], defaults, options, (width, 4))


def lines(title: str, about: str, queries: Sequence[tuple[str, str]], unit: str = "short", stacked: bool = False,
          width: int = 12, right: tuple[str, str] | None = None) -> Json:  # fmt: skip
    """Lines over time, one query per (legend, expression); `right` = (legend, unit) puts a legend's lines on the right.

    `stacked` fills them one upon another.
    """
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
    }
    defaults = {"color": {"mode": "palette-classic"}, "custom": custom, "mappings": NO_TRAFFIC,
                "noValue": "No traffic", "unit": unit}  # fmt: skip
    options = {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    targets = [query(expr, legend) for legend, expr in queries]
    made = _panel("timeseries", title, about, targets, defaults, options, (width, 8))
    made["fieldConfig"]["overrides"] = [_on_the_right(*right)] if right else []
    return made


def heatmap(title: str, about: str, histogram: str, selector: str, unit: str = "short", width: int = 12) -> Json:
    """A histogram's buckets over time: how many answers lay where."""
    expr = f"sum by (le) (increase({histogram}_bucket{{{selector}}}[$__rate_interval]))"
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange",
                  "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }  # fmt: skip
    return _panel("heatmap", title, about, [query(expr, "{{le}}", "heatmap")], {}, options, (width, 8))


def table(title: str, about: str, expr: str, hidden: Sequence[str] = (), width: int = COLUMNS) -> Json:
    """The labels of what a query finds now, a line each."""
    excluded = dict.fromkeys(("Time", "Value", "__name__", *hidden), True)
    made = _panel("table", title, about, [query(expr, "", "table") | {"instant": True, "range": False}],
                  {"noValue": "None"}, {"showHeader": True, "cellHeight": "sm"}, (width, 7))  # fmt: skip
    return made | {"transformations": [{"id": "organize", "options": {"excludeByName": excluded}}]}


def text(title: str, content: str, width: int = COLUMNS, height: int = 6) -> Json:
    return {
        "type": "text",
        "title": title,
        "options": {"mode": "markdown", "content": content},
        "size": (width, height),
    }


def query(expr: str, legend: str = "__auto", kind: str = "time_series") -> Json:
    return {"expr": " ".join(expr.split()), "format": kind, "legendFormat": legend}


def thresholds(warn: float | None, bad: float | None) -> Json:
    plain = "blue" if warn is None and bad is None else "green"
    limits = [("orange", warn), ("red", bad)]
    steps = [{"color": color, "value": value} for color, value in limits if value is not None]
    return {"mode": "absolute", "steps": [{"color": plain, "value": None}, *steps]}


def choice(name: str, metric: str, selector: str = "") -> Json:
    """A variable of several values: those of a label of the same name."""
    question = f"label_values({metric}{{{selector}}}, {name})" if selector else f"label_values({metric}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": name,
        "datasource": DATASOURCE,
        "query": {"query": question, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def data_source() -> Json:
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1,
            "multi": False, "includeAll": False, "options": []}  # fmt: skip


def textbox(name: str, label: str, value: str) -> Json:
    return {"type": "textbox", "name": name, "label": label, "query": value, "options": [],
            "current": {"text": value, "value": value}}  # fmt: skip


def dashboard(uid: str, title: str, about: str, variables: Sequence[Json], panels: Sequence[Json]) -> Json:
    links = {"asDropdown": False, "icon": "external link", "includeVars": True, "keepTime": True, "tags": ["vllm"],
             "targetBlank": False, "title": "vLLM dashboards", "tooltip": "", "type": "dashboards",
             "url": ""}  # fmt: skip
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["vllm", "mooring"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [links],
        "templating": {"list": list(variables)},
        "panels": _laid_out(panels),
    }


def metrics_of(expressions: Sequence[str]) -> list[str]:
    """The metrics that expressions ask for, each once, in their order."""
    found = (name for expr in expressions for name in METRIC.findall(expr))
    return list(dict.fromkeys(re.sub(r"_bucket$", "", name) for name in found))


def _panel(kind: str, title: str, about: str, queries: Sequence[Json], defaults: Json, options: Json,
           size: tuple[int, int]) -> Json:  # fmt: skip
    names = ", ".join(f"`{name}`" for name in metrics_of([q["expr"] for q in queries]))
    return {
        "type": kind,
        "title": title,
        "description": f"{about}\n\nMetric: {names}",
        "datasource": DATASOURCE,
        "targets": [{"refId": chr(ord("A") + i), "datasource": DATASOURCE} | q for i, q in enumerate(queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "size": size,
    }


def _on_the_right(legend: str, unit: str) -> Json:
    properties = [{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"}]
    return {"matcher": {"id": "byRegexp", "options": legend}, "properties": properties}


def _laid_out(panels: Sequence[Json]) -> list[Json]:
    """Each panel where the one before it ends, or on a new line; numbered."""
    placed: list[Json] = []
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        width, tall = panel["size"]
        if x + width > COLUMNS:
            x, y, height = 0, y + height, 0
        where = {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": tall}}
        placed.append({name: value for name, value in panel.items() if name != "size"} | where)
        x, height = x + width, max(height, tall)
    return placed
