"""Grafana's panels and dashboards as short Python functions. What they make is checked against Grafana's types."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # columns of Grafana's grid
ON = 'job=~"$job",instance=~"$instance"'
OF_MODEL = f'{ON},model=~"$model"'

GOOD, WARN, BAD, PLAIN = "green", "orange", "red", "text"
# The levels of edgellm_governor_level: the hardest measure in force.
LEVELS = {
    0: ("full service", GOOD), 1: ("smaller cache", "yellow"), 2: ("flex parked", "yellow"), 3: ("fewer at once", WARN),
    4: ("slowed down", WARN), 5: ("smaller model", WARN), 6: ("refusing", BAD),
}


def thresholds(*steps: tuple[float | None, str]) -> dict:
    """Colours by value: `(None, colour)` first, then `(from, colour)`."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]}


def rising(warn: float, bad: float) -> dict:
    """More is worse."""
    return thresholds((None, GOOD), (warn, WARN), (bad, BAD))


def falling(warn: float, bad: float) -> dict:
    """Less is worse."""
    return thresholds((None, BAD), (bad, WARN), (warn, GOOD))


# The states of edgellm_model_state, on a dashboard the number of their place.
STATES = {"cold": PLAIN, "queued": "yellow", "loading": "blue", "ready": GOOD, "draining": WARN, "unloading": WARN, "failed": BAD}


def named_values(names: dict[int, tuple[str, str]]) -> list[dict]:
    options = {str(value): {"text": text, "color": color, "index": value} for value, (text, color) in names.items()}
    return [{"type": "value", "options": options}]


def level_names() -> list[dict]:
    return named_values(LEVELS)


def state_names() -> list[dict]:
    return named_values(dict(enumerate(STATES.items())))


def queries(expressions: dict[str, str] | str, **extra) -> list[dict]:
    """Legend → PromQL; a lone query needs no legend."""
    named = {"": expressions} if isinstance(expressions, str) else expressions
    return [{"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend or "__auto", **extra}
            for index, (legend, expr) in enumerate(named.items())]


def panel(kind: str, title: str, description: str, targets: list[dict], *, unit: str, width: int, height: int, options: dict,
          custom: dict | None = None, overrides: list[dict] | None = None, **defaults) -> dict:
    field = {"unit": unit, **defaults}
    if custom is not None:
        field["custom"] = custom
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets,
        "gridPos": {"w": width, "h": height, "x": 0, "y": 0},
        "fieldConfig": {"defaults": field, "overrides": overrides or []}, "options": options,
    }


def stat(title: str, description: str, query: str, unit: str, colors: dict | None = None, *, width: int = 4, sparkline: bool = True, **defaults) -> dict:
    """One number, and behind it what it was before."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "auto", "textMode": "value",
        "wideLayout": True, "colorMode": "value", "graphMode": "area" if sparkline else "none", "justifyMode": "center",
        "showPercentChange": False, "percentChangeColorMode": "standard",
    }
    return panel("stat", title, description, queries({title: query}), unit=unit, width=width, height=4, options=options,
                 color={"mode": "thresholds"}, thresholds=colors or thresholds((None, PLAIN)), noValue="not measured", **defaults)


def series(title: str, description: str, expressions: dict[str, str] | str, unit: str, *, width: int = 12, height: int = 8, stack: bool = False,
           limits: tuple[str, ...] = (), **defaults) -> dict:
    """Lines over time. `limits` are legends drawn as dashed red lines; stacked areas add up."""
    custom = {
        "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 2, "fillOpacity": 30 if stack else 8, "showPoints": "never",
        "spanNulls": False, "stacking": {"group": "A", "mode": "normal" if stack else "none"}, "axisSoftMin": 0,
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    dashed = [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}, {"id": "custom.fillOpacity", "value": 0},
              {"id": "color", "value": {"mode": "fixed", "fixedColor": BAD}}, {"id": "custom.stacking", "value": {"group": "A", "mode": "none"}}]
    overrides = [{"matcher": {"id": "byRegexp", "options": limit}, "properties": dashed} for limit in limits]
    return panel("timeseries", title, description, queries(expressions), unit=unit, width=width, height=height, options=options, custom=custom,
                 overrides=overrides, color={"mode": "palette-classic"}, **defaults)


def heatmap(title: str, description: str, metric: str, *, width: int = 12) -> dict:
    """How a histogram of seconds spreads over its buckets."""
    options = {
        "calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": True}, "rowsFrame": {"layout": "auto"},
        "showValue": "never", "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False}, "yAxis": {"unit": "s", "axisPlacement": "left", "reverse": False},
        "cellValues": {"unit": "short"},
    }
    query = f"sum by (le) (increase({metric}_bucket{{{OF_MODEL}}}[$__rate_interval]))"
    return panel("heatmap", title, description, queries({"{{le}}": query}, format="heatmap"), unit="s", width=width, height=8, options=options,
                 custom={"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}})


def timeline(title: str, description: str, expressions: dict[str, str], mappings: list[dict], *, width: int = 24, height: int = 5) -> dict:
    """Coloured bars of states."""
    options = {
        "alignValue": "center", "mergeValues": True, "rowHeight": 0.8, "showValue": "auto",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False}, "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, description, queries(expressions), unit="none", width=width, height=height, options=options,
                 custom={"fillOpacity": 80, "lineWidth": 0}, mappings=mappings, color={"mode": "thresholds"}, thresholds=thresholds((None, PLAIN)))


def bars(title: str, description: str, expressions: dict[str, str], unit: str, colors: dict, *, width: int = 12, height: int = 8, **defaults) -> dict:
    """A bar for each series, with its value now."""
    options = {
        "displayMode": "basic", "valueMode": "color", "showUnfilled": True, "orientation": "horizontal", "namePlacement": "auto", "sizing": "auto",
        "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 36, "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
    }
    return panel("bargauge", title, description, queries(expressions, instant=True, range=False), unit=unit, width=width, height=height, options=options,
                 color={"mode": "thresholds"}, thresholds=colors, **defaults)


def table(title: str, description: str, columns: dict[str, tuple[str, str, dict | None]], *, keys: list[str], sort: tuple[str, bool] | None = None,
          links: dict[str, str] | None = None, width: int = 24, height: int = 9, mappings: dict[str, list[dict]] | None = None) -> dict:
    """A row for each box. Columns: heading → (PromQL, unit, colours); the labels `keys` make the rows. `sort`: heading and whether the greatest is first."""
    targets = queries({name: expr for name, (expr, _, _) in columns.items()}, instant=True, range=False, format="table")
    overrides = []
    renamed = {key: key.capitalize() for key in keys}
    for target, (name, (_, unit, colors)) in zip(targets, columns.items(), strict=True):
        value = f"Value #{target['refId']}" if len(columns) > 1 else "Value"
        renamed[value] = name
        properties: list[dict] = [{"id": "unit", "value": unit}]
        if colors:
            properties += [{"id": "thresholds", "value": colors}, {"id": "custom.cellOptions", "value": {"type": "color-text"}}]
        if mappings and name in mappings:
            properties.append({"id": "mappings", "value": mappings[name]})
        overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    for heading, url in (links or {}).items():
        overrides.append({"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "links", "value": [{"title": "Look at this one", "url": url}]}]})
    made = panel("table", title, description, targets, unit="none", width=width, height=height, overrides=overrides,
                 options={"showHeader": True, "cellHeight": "md", "frameIndex": 0, "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else []},
                 custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}, noValue="–", color={"mode": "thresholds"}, thresholds=thresholds((None, PLAIN)))
    transformations = [{"id": "merge", "options": {}}] if len(columns) > 1 else []
    kept = {"include": {"names": [*keys, *(value for value in renamed if value.startswith("Value"))]}}
    made["transformations"] = [*transformations, {"id": "filterFieldsByName", "options": kept},
                               {"id": "organize", "options": {"excludeByName": {}, "indexByName": {name: index for index, name in enumerate(renamed)}, "renameByName": renamed}}]
    return made


def row(title: str) -> dict:
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": WIDTH, "h": 1, "x": 0, "y": 0}}


def laid_out(panels: list[dict]) -> list[dict]:
    """Gives every panel its id and place: from left to right, in lines."""
    x = y = line = 0
    for number, one in enumerate(panels, 1):
        place = one["gridPos"]
        if x + place["w"] > WIDTH:
            x, y, line = 0, y + line, 0
        place.update(x=x, y=y)
        x, line = x + place["w"], max(line, place["h"])
        one["id"] = number
    return panels


def variable(name: str, label: str, metric: str, all_value: str) -> dict:
    """Values of a label, any number of them."""
    query = f"label_values({metric}, {name})"
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": all_value, "current": {"text": ["All"], "value": ["$__all"], "selected": True}, "hide": 0,
        "description": f"Which {label.lower()} to show",
    }


def variables(*, model: bool, objective: bool) -> list[dict]:
    made = [
        {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "", "hide": 0, "refresh": 1, "description": "The Prometheus that scrapes edgellm"},
        variable("job", "Job", "edgellm_build_info", ".+"),
        variable("instance", "Box", 'edgellm_build_info{job=~"$job"}', ".+"),
    ]
    if model:
        made.append(variable("model", "Model", f"edgellm_requests_running{{{ON}}}", ".*"))
    if objective:
        # Bounds of the histogram's buckets: only of those is the share of answers known exactly.
        choices = ["0.1", "0.25", "0.5", "1", "2.5", "5", "10", "20"]
        made.append({
            "type": "custom", "name": "objective", "label": "First token within (s)", "query": ",".join(choices), "multi": False, "includeAll": False, "hide": 0,
            "description": "The objective for the time to first token",
            "current": {"text": "0.25", "value": "0.25", "selected": True},
            "options": [{"text": choice, "value": choice, "selected": choice == "0.25"} for choice in choices],
        })
    return made


def dashboard(uid: str, title: str, description: str, panels: list[dict], *, model: bool = True, objective: bool = False) -> dict:
    levels = {
        "name": "Governor at work", "datasource": DATASOURCE, "enable": True, "hide": False, "iconColor": "orange", "type": "dashboard",
        "expr": f'count_values by (instance) ("level", edgellm_governor_level{{{ON}}} > 0)', "step": "30s",
        "titleFormat": "{{instance}}: governor at level {{level}}", "textFormat": "1 smaller cache, 2 flex parked, 3 fewer at once, 4 slowed down, 5 smaller model, 6 refusing",
        "tagKeys": "instance,level", "useValueForTime": False,
    }
    others = {
        "title": "edgellm", "type": "dashboards", "tags": ["edgellm"], "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False,
        "icon": "external link", "tooltip": "The other dashboards of edgellm, for the same boxes and time", "url": "",
    }
    return {
        "uid": uid, "title": title, "description": description, "tags": ["edgellm"], "schemaVersion": 39, "version": 1, "editable": True, "id": None,
        "time": {"from": "now-1h", "to": "now"}, "refresh": "30s", "timezone": "browser", "graphTooltip": 1, "fiscalYearStartMonth": 0,
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m"]}, "links": [others], "annotations": {"list": [levels]},
        "templating": {"list": variables(model=model, objective=objective)}, "panels": laid_out(panels),
    }
