#!/usr/bin/env python3
"""Writes dashboards/*.json; with --check, says instead whether they are what it would write.

The JSON files are what Grafana loads. They come out of this program because forty panels in one manner are
shorter, and more alike, as forty calls."""

import json
import sys
from pathlib import Path

from panels import (BAD, GOOD, LEVELS, OF_MODEL, ON, PLAIN, STATES, WARN, bars, dashboard, falling, heatmap, level_names, rising, row, series, stat,
                    state_names, table, thresholds, timeline)

HERE = Path(__file__).parent / "dashboards"
RATE = "$__rate_interval"
# Requests that a model should answer; not probes, scrapes or this page's own.
ANSWERS = f'{OF_MODEL},endpoint=~"/v1/.*"'
# The tokens that count against a key's limit; cached ones are among those of prompts.
COUNTED = f'{ON},kind=~"prompt|generated"'


def rate(metric: str, labels: str = OF_MODEL) -> str:
    return f"rate({metric}{{{labels}}}[{RATE}])"


def total(metric: str, labels: str = OF_MODEL, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} ({rate(metric, labels)})"


def quantile(q: float, metric: str, labels: str = OF_MODEL, by: str = "") -> str:
    return f"histogram_quantile({q}, sum by (le{f', {by}' if by else ''}) ({rate(f'{metric}_bucket', labels)}))"


def mean(metric: str, labels: str = OF_MODEL) -> str:
    return f"{total(f'{metric}_sum', labels)} / {total(f'{metric}_count', labels)}"


def quantiles(metric: str) -> dict[str, str]:
    return {"half within": quantile(0.5, metric), "95 of 100 within": quantile(0.95, metric), "99 of 100 within": quantile(0.99, metric)}


def failed(labels: str, by: str = "") -> str:
    """Share of requests that ended in a 5xx; 0, not nothing, where none did."""
    grouped = f" by ({by})" if by else ""
    everything = f"sum{grouped} ({rate('edgellm_requests_total', labels)})"
    status = 'status=~"5.."'
    return f"(sum{grouped} ({rate('edgellm_requests_total', f'{labels},{status}')}) or 0 * {everything}) / {everything}"


TTFT = "edgellm_time_to_first_token_seconds"
WITHIN = f'{OF_MODEL},le=~"${{objective}}(.0)?"'  # Prometheus 3 writes the bound 1 as 1.0


def within_objective() -> str:
    return f"{total(f'{TTFT}_bucket', WITHIN)} / {total(f'{TTFT}_count')}"


def overview() -> dict:
    return dashboard("edgellm-overview", "edgellm: overview", "How fast answers come, how many, and what stands in their way.", [
        stat("Answers", "Requests a second that ended, whether well or not.", total("edgellm_requests_total", ANSWERS), "reqps"),
        stat("First token", "95 of 100 answers began within this time.", quantile(0.95, TTFT), "s", decimals=2),
        stat("Within the objective", "Share of answers whose first token came within the objective chosen above.", within_objective(), "percentunit", falling(0.9, 0.95), min=0, max=1),
        stat("Speed", "Tokens generated a second, all answers together.", total("edgellm_generation_tokens_total"), "short", decimals=1),
        stat("Waiting", "Requests that are admitted and wait for a place in the engine.", f"sum(edgellm_requests_waiting{{{OF_MODEL}}})", "short", rising(4, 16)),
        stat("Failed", "Share of requests that ended in a 5xx, refusals under load among them.", failed(ANSWERS), "percentunit", rising(0.01, 0.05), min=0, max=1),

        row("Answers"),
        series("Time to first token", "From a request's arrival to its first token, and the objective chosen above.", {**quantiles(TTFT), "objective": "vector($objective)"}, "s", limits=("objective",)),
        series("Time between tokens", "From one token of an answer to the next: how smoothly text appears.", quantiles("edgellm_inter_token_latency_seconds"), "s"),
        heatmap("Time to first token, spread", "Every answer in the bucket of its time to the first token; darker is more.", TTFT),
        heatmap("Time between tokens, spread", "Every pause between two tokens in its bucket; darker is more.", "edgellm_inter_token_latency_seconds"),
        series("Where the time goes", "An average answer's time in the queue, on the prompt, and on the answer.", {
            "in the queue": mean("edgellm_request_queue_duration_seconds"), "reading the prompt": mean("edgellm_request_prefill_duration_seconds"),
            "writing the answer": mean("edgellm_request_decode_duration_seconds")}, "s", stack=True),
        series("Whole answers", "From a request's arrival to its last token.", quantiles("edgellm_request_duration_seconds"), "s"),

        row("Traffic"),
        series("Requests by how they ended", "HTTP status and finish reason: `stop` is a whole answer, `length` one cut at its limit.", {
            "{{status}} {{finish_reason}}": total("edgellm_requests_total", ANSWERS, "status, finish_reason")}, "reqps", stack=True),
        series("In the house", "Requests that the engine works on, and those that wait for it.", {
            "running": f"sum(edgellm_requests_running{{{OF_MODEL}}})", "waiting": f"sum(edgellm_requests_waiting{{{OF_MODEL}}})"}, "short"),
        series("Refused", "Requests refused before any work, by reason; each was told when to come back.", {"{{reason}}": total("edgellm_requests_rejected_total", ON, "reason")}, "reqps", stack=True),
        series("Deadlines passed", "Requests dropped because their deadline passed while they waited, and answers that it cut off.", {"{{stage}}": total("edgellm_deadline_passed_total", OF_MODEL, "stage")}, "reqps", stack=True),
        series("Left or put back", "Clients that left before the end, and requests that were put back because the cache was full.", {
            "client left": total("edgellm_requests_cancelled_total"), "put back": total("edgellm_preemptions_total")}, "reqps"),

        row("API keys"),
        series("Requests a minute by key", "Answered to each API key, refusals among them. Without keys this row is empty.", {
            "{{key}}": f"60 * {total('edgellm_key_requests_total', ON, 'key')}"}, "reqpm"),
        series("Tokens a minute by key", "Of prompts, cached ones among them, and of answers: what a key's limit counts.", {
            "{{key}}": f"60 * {total('edgellm_key_tokens_total', COUNTED, 'key')}"}, "short"),
        series("Refused by key", "Requests a minute refused to each API key, by reason: a limit of the key, a model that it may not use, or what is refused to everybody.", {
            "{{key}}: {{reason}}": f"60 * {total('edgellm_key_rejected_total', ON, 'key, reason')}"}, "reqpm", width=24, stack=True),

        row("Engine"),
        series("Tokens", "Generated; prompt tokens that were computed; prompt tokens that were in the cache already and cost nothing.", {
            "generated": total("edgellm_generation_tokens_total"),
            "prompt, computed": f"{total('edgellm_prompt_tokens_total')} - {total('edgellm_prompt_tokens_cached_total')}",
            "prompt, from the cache": total("edgellm_prompt_tokens_cached_total")}, "short"),
        series("Share of time computing", "Of each model's time: at 100 % the engine never waits for work.", {
            "{{instance}} {{model}}": f"sum by (instance, model) ({rate('edgellm_engine_busy_seconds_total')})"}, "percentunit", max=1, min=0),
        series("Cache cells", "Tokens of running requests, beginnings kept for later, and room.", {"{{state}}": f"sum by (state) (edgellm_kv_cache_tokens{{{OF_MODEL}}})"}, "short", stack=True),
        series("Cache use and hits", "Share of cells that running requests hold; share of requests, and of prompt tokens, that found their beginning in the cache.", {
            "cells in use": f"max(edgellm_kv_cache_usage_ratio{{{OF_MODEL}}})",
            "requests with a known beginning": f"{total('edgellm_prefix_cache_hits_total')} / {total('edgellm_prefix_cache_queries_total')}",
            "prompt tokens from the cache": f"{total('edgellm_prompt_tokens_cached_total')} / {total('edgellm_prompt_tokens_total')}"}, "percentunit", min=0, max=1),
        series("Batches", "Rows (tokens) that a batch decodes together, and batches a second.", {
            "rows, mean": mean("edgellm_engine_batch_tokens"), "rows, 95 of 100 within": quantile(0.95, "edgellm_engine_batch_tokens"), "batches a second": total("edgellm_engine_steps_total")}, "short"),
        series("Speculation", "Tokens guessed and computed ahead, and those of them that the answer took.", {
            "guessed": total("edgellm_speculative_drafted_tokens_total"), "taken": total("edgellm_speculative_accepted_tokens_total")}, "short"),

        row("TLS"),
        bars("Days left of certificates", "Until the certificate that each box serves ends. Without TLS this row is empty.", {
            "{{instance}}": f"sort((edgellm_tls_certificate_expiry_timestamp_seconds{{{ON}}} - time()) / 86400)"}, "d", thresholds((None, BAD), (3, WARN), (30, GOOD)), min=0, width=8),
        series("Handshakes", "By result: `failed` are mostly clients that do not trust the certificate, `timeout` those that said nothing, `plain` those that came without TLS.", {
            "{{result}}": total("edgellm_tls_handshakes_total", ON, "result")}, "ops", width=8, stack=True),
        timeline("Certificate files", "Whether the files on the disk can be used; if they cannot, the certificate that was read before them is served on, and the log says why.",
                 by_box(f"edgellm_tls_reload_failed{{{ON}}}"),
                 [{"type": "value", "options": {"0": {"text": "in use", "color": GOOD, "index": 0}, "1": {"text": "cannot be used", "color": BAD, "index": 1}}}], width=8, height=8),

        row("Process"),
        series("Processor", "Cores' worth of time that the server uses.", {"{{instance}}": f"rate(process_cpu_seconds_total{{{ON}}}[{RATE}])"}, "short"),
        series("Memory of the process", "Resident memory, the model's file included where it is mapped.", {"{{instance}}": f"process_resident_memory_bytes{{{ON}}}"}, "bytes"),
        series("Starts and ends", "Starts of the process, and how those before it ended. Only `stopped` is as it should be: docs/restarts.md.", {
            "{{instance}} started": f"increase(edgellm_process_starts_total{{{ON}}}[{RATE}])",
            "{{instance}} {{reason}}": f"increase(edgellm_process_ends_total{{{ON}}}[{RATE}])"}, "short", width=24, height=7, min=0),
        table("Models", "What each box serves.", {"Loaded": (f"edgellm_model_info{{{OF_MODEL}}}", "none", None)}, keys=["instance", "model", "quantization", "digest"], height=6, width=12),
        table("Versions", "The build that each box runs.", {"Running": (f"edgellm_build_info{{{ON}}}", "none", None)}, keys=["instance", "version"], height=6, width=6),
        table("Sandbox", "The version of Landlock by which each box's process has shut itself off; 0 is not at all: docs/sandbox.md.", {
            "Landlock": (f"edgellm_sandbox_landlock_abi{{{ON}}}", "none", thresholds((None, WARN), (1, GOOD)))}, keys=["instance"], height=6, width=6),
    ], objective=True)


def by_box(expr: str) -> dict[str, str]:
    return {"{{instance}}": expr}


def energy_of(phase: str) -> str:
    labels = f'{OF_MODEL},phase="{phase}"'
    return total("edgellm_engine_energy_joules_total", labels)


def state_of_models() -> str:
    """The state of each model as the number of its place in `STATES`."""
    numbered = " or ".join(f'{number} * (edgellm_model_state{{{OF_MODEL},state="{state}"}} == 1)' for number, state in enumerate(STATES))
    return f"max by (instance, model) ({numbered})"


def load_time() -> str:
    """Seconds of a load, on average since the start: loads are too rare for a rate."""
    total, count = (f"sum by (instance, model) (edgellm_model_load_seconds_{part}{{{OF_MODEL}}})" for part in ("sum", "count"))
    return f"{total} / {count}"


def headroom() -> dict:
    tokens = total("edgellm_generation_tokens_total")
    return dashboard("edgellm-headroom", "edgellm: headroom", "Power, heat and memory: what is left, what the governor does about it, and what answers cost.", [
        stat("Draw", "Power drawn, by the source that shows the most.", f"max(edgellm_power_draw_watts{{{ON}}})", "watt", decimals=1),
        stat("Power left", "Budget less draw, on the box with the least.", f"min(edgellm_power_headroom_watts{{{ON}}})", "watt", falling(0, 2), decimals=1),
        stat("Below the trip point", "Degrees to the first passive or hot trip point, in the nearest zone.", f"min(edgellm_thermal_headroom_celsius{{{ON}}})", "celsius", falling(3, 10), decimals=0),
        stat("Memory left", "Share of the tightest limit, on the box with the least.", f"min(edgellm_memory_headroom_ratio{{{ON}}})", "percentunit", falling(0.05, 0.1), min=0, max=1),
        stat("Governor", "The hardest measure in force on any box.", f"max(edgellm_governor_level{{{ON}}})", "none", thresholds(*[(None if level == 0 else level, color) for level, (_, color) in LEVELS.items()]),
             sparkline=False, mappings=level_names()),
        stat("An answer costs", "Energy of an average answer.", mean("edgellm_request_energy_joules"), "joule", decimals=2),

        row("Governor"),
        timeline("Measures in force", "The hardest measure of each box, over time.", by_box(f"max by (instance) (edgellm_governor_level{{{ON}}})"), level_names()),
        series("Pressure", "How short a resource is; 100 % is as short as can be. Measures begin at the thresholds of the configuration.", {
            "{{instance}} {{resource}}": f"edgellm_governor_pressure_ratio{{{ON}}}",
            "{{instance}} {{resource}}, rehearsed": f"edgellm_governor_rehearsed_pressure_ratio{{{ON}}}"}, "percentunit", min=0, max=1),
        series("Measures taken", "How often a measure began, and what for.", {
            "{{action}} for {{resource}}": f"sum by (action, resource) (increase(edgellm_governor_actions_total{{{ON}}}[{RATE}]))"}, "short"),
        timeline("What each is for", "Every measure and what may be short, on any of the boxes.", {
            "{{action}} for {{resource}}": f"max by (action, resource) (edgellm_governor_measure_active{{{ON}}})"},
            [{"type": "value", "options": {"0": {"text": "–", "color": "transparent", "index": 0}, "1": {"text": "in force", "color": WARN, "index": 1}}}], height=9),

        row("Power"),
        series("Watts against budget", "What each source measures, and what may be drawn, by who says so. Sources of different scope (package, board) are not to be compared.", {
            "{{instance}} {{source}} ({{scope}}, {{quality}})": f"edgellm_power_draw_watts{{{ON}}}", "{{instance}} budget: {{source}}": f"edgellm_power_budget_watts{{{ON}}}"}, "watt",
            limits=(".*budget.*",)),
        series("Power left by box", "Budget less draw; negative when overdrawn.", {"{{instance}}": f"edgellm_power_headroom_watts{{{ON}}}"}, "watt"),
        series("Power left, share of the budget", "The same, to compare boxes of different size.", by_box(f"edgellm_power_headroom_ratio{{{ON}}}"), "percentunit"),
        series("Energy drawn", "Watts by each energy counter over the interval; a check on the averaged draw above.", {"{{instance}} {{source}} ({{scope}})": f"rate(edgellm_energy_joules_total{{{ON}}}[{RATE}])"}, "watt"),
        series("Joules a token", "Energy of the engine's time a token: of prompts and of answers.", {
            "generated": f"{energy_of('generation')} / {tokens}",
            "prompt": f"{energy_of('prompt')} / {total('edgellm_prompt_tokens_total')}"}, "joule"),
        series("Joules an answer", "How the energy of answers spreads.", {
            "half within": quantile(0.5, "edgellm_request_energy_joules"), "95 of 100 within": quantile(0.95, "edgellm_request_energy_joules"), "mean": mean("edgellm_request_energy_joules")}, "joule"),

        row("Heat"),
        series("Temperature", "Each thermal zone, and where its first trip point is.", {
            "{{instance}} {{zone}}": f"edgellm_temperature_celsius{{{ON}}}",
            "{{instance}} {{zone}} trip point": f"edgellm_temperature_celsius{{{ON}}} + on (job, instance, zone) edgellm_thermal_headroom_celsius{{{ON}}}"}, "celsius", limits=(".*trip point.*",)),
        series("Below the trip point by zone", "Degrees that each zone has left.", {"{{instance}} {{zone}}": f"edgellm_thermal_headroom_celsius{{{ON}}}"}, "celsius"),
        series("Slowed down by the hardware", "How often the processor was throttled, by reason.", {
            "{{instance}} {{reason}}": f"sum by (instance, reason) (increase(edgellm_throttle_events_total{{{ON}}}[{RATE}]))"}, "short"),
        series("Processor clock", "Mean clock of the cores.", by_box(f"edgellm_cpu_frequency_hertz{{{ON}}}"), "hertz"),
        series("Cooling", "How hard fans run and how far devices are slowed down, of what they can.", {"{{instance}} {{device}}": f"edgellm_cooling_state_ratio{{{ON}}}"}, "percentunit", width=24, height=7, min=0, max=1),

        row("Memory"),
        series("Memory against the limit", "Used and available under the tightest limit: the system's or a control group's.", {
            "{{instance}} used": f"edgellm_memory_usage_bytes{{{ON}}}", "{{instance}} available": f"edgellm_memory_available_bytes{{{ON}}}",
            "{{instance}} limit": f"edgellm_memory_limit_bytes{{{ON}}}"}, "bytes", limits=(".*limit",)),
        series("Memory left by box", "Share of the tightest limit.", by_box(f"edgellm_memory_headroom_ratio{{{ON}}}"), "percentunit", min=0, max=1),
        series("Memory of models", "What each model takes, by kind.", {"{{instance}} {{model}} {{kind}}": f"edgellm_model_memory_bytes{{{OF_MODEL}}}"}, "bytes", stack=True),
        series("Memory of the server", "Its own, and of files such as a model's, which the system can take back.", {"{{instance}} {{kind}}": f"edgellm_process_memory_bytes{{{ON}}}"}, "bytes", stack=True),
        series("Stalled", "Share of time that some or all tasks of the system waited for a resource.", {
            "{{instance}} {{resource}} ({{kind}})": f"rate(edgellm_pressure_stalled_seconds_total{{{ON}}}[{RATE}])"}, "percentunit", width=24, height=7, min=0),

        row("Model pool"),
        timeline("Models", "The state of each model over time: cold ones are loaded when they are asked for, failed ones are tried again.", {
            "{{instance}} {{model}}": state_of_models()}, state_names(), height=8),
        series("Memory against the budget", "Memory that is taken or promised, by kind, and what everything together may take (pool.memory_budget, else the tightest limit).", {
            "{{instance}} {{kind}}": f"edgellm_pool_memory_bytes{{{ON}}}", "{{instance}} budget": f"edgellm_pool_memory_budget_bytes{{{ON}}}"}, "bytes", stack=True, limits=(".*budget",)),
        series("Models that left", "Models that were told to leave, by reason: `room` for another, `turn` of another that waited for a busy one, `over_budget`, `idle` for their keep_alive, for a smaller `sibling`, or `asked` by an administrator.", {
            "{{instance}} {{reason}}": f"sum by (instance, reason) (increase(edgellm_pool_evictions_total{{{ON}}}[{RATE}]))"}, "short", stack=True),
        series("Loads", "Loads that ended, by result. Many of them say that the models that are in use do not fit the budget together.", {
            "{{instance}} {{model}}: {{result}}": f"sum by (instance, model, result) (increase(edgellm_model_loads_total{{{OF_MODEL}}}[{RATE}]))"}, "short", stack=True),
        bars("Time to load", "From the beginning of a load until the model answers, on average since the start.", {"{{instance}} {{model}}": load_time()}, "s",
             thresholds((None, PLAIN)), min=0),

        row("Sensors"),
        timeline("Sensors that can be read", "Sources of power readings and kinds of sensors; red cannot be read, and the log says why.", {
            "{{instance}} {{source}}": f"edgellm_power_source_up{{{ON}}}", "{{instance}} {{sensor}}": f"edgellm_sensor_up{{{ON}}}"},
            [{"type": "value", "options": {"0": {"text": "cannot be read", "color": BAD, "index": 0}, "1": {"text": "up", "color": GOOD, "index": 1}}}], height=12),
        series("Bad readings", "Readings that failed or could not be true.", {"{{instance}} {{sensor}}": f"sum by (instance, sensor) (increase(edgellm_sensor_failures_total{{{ON}}}[{RATE}]))"}, "short", width=24, height=7),
    ])


def fleet() -> dict:
    least = f'min by (instance) ({{__name__=~"edgellm_(power|memory)_headroom_ratio",{ON}}} or (1 - edgellm_governor_pressure_ratio{{{ON}}}))'
    answers = f'{ON},endpoint=~"/v1/.*"'
    return dashboard("edgellm-fleet", "edgellm: fleet", "Many boxes at a glance, the one in most need first.", [
        stat("Boxes", "Boxes that Prometheus is told to scrape.", f"count(up{{{ON}}})", "short", sparkline=False),
        stat("Not reachable", "Boxes whose metrics cannot be scraped.", f"count(up{{{ON}}} == 0) or 0 * count(up{{{ON}}})", "short", rising(1, 1), sparkline=False),
        stat("Refusing", "Boxes that refuse requests for power, heat or memory now.", f"count(edgellm_governor_level{{{ON}}} == 6) or 0 * count(up{{{ON}}})", "short", rising(1, 1), sparkline=False),
        stat("Least headroom", "Share left of what is shortest, on the box with the least.", f"min({least})", "percentunit", falling(0.1, 0.25)),
        stat("Speed", "Tokens a second of all boxes.", total("edgellm_generation_tokens_total", ON), "short", decimals=1),
        stat("Draw", "Watts of all boxes, each by its greatest source.", f"sum(max by (instance) (edgellm_power_draw_watts{{{ON}}}))", "watt", decimals=0),

        table("Boxes, least headroom first", "One line a box. A dash is a reading that the box does not have.", {
            "Headroom": (least, "percentunit", falling(0.1, 0.25)),
            "Governor": (f"max by (instance) (edgellm_governor_level{{{ON}}})", "none", thresholds(*[(None if level == 0 else level, color) for level, (_, color) in LEVELS.items()])),
            "Power left": (f"min by (instance) (edgellm_power_headroom_watts{{{ON}}})", "watt", falling(0, 2)),
            "Below trip": (f"min by (instance) (edgellm_thermal_headroom_celsius{{{ON}}})", "celsius", falling(3, 10)),
            "Memory left": (f"min by (instance) (edgellm_memory_headroom_ratio{{{ON}}})", "percentunit", falling(0.05, 0.1)),
            "First token": (quantile(0.95, TTFT, ON, "instance"), "s", None),
            "Tokens/s": (total("edgellm_generation_tokens_total", ON, "instance"), "short", None),
            "Waiting": (f"sum by (instance) (edgellm_requests_waiting{{{ON}}})", "short", rising(4, 16)),
            "Failed": (failed(answers, "instance"), "percentunit", rising(0.01, 0.05)),
            "Up": (f"max by (instance) (up{{{ON}}})", "none", thresholds((None, BAD), (1, GOOD))),
        }, keys=["instance"], sort=("Headroom", False), height=11, mappings={
            "Governor": level_names(),
            "Up": [{"type": "value", "options": {"0": {"text": "down", "color": BAD, "index": 0}, "1": {"text": "up", "color": GOOD, "index": 1}}}],
        }, links={"Instance": "/d/edgellm-headroom?var-job=$job&var-instance=${__value.raw}&var-datasource=${datasource}"}),

        bars("Boxes with the least headroom", "Share left of what is shortest, the ten boxes with the least.", {"{{instance}}": f"sort(bottomk(10, {least}))"}, "percentunit", falling(0.1, 0.25), min=0, max=1),
        bars("Slowest first tokens", "95 of 100 answers began within this time, the ten slowest boxes.", {
            "{{instance}}": f"sort_desc(topk(10, {quantile(0.95, TTFT, ON, 'instance')} > 0))"}, "s", thresholds((None, GOOD), (1, WARN), (5, BAD)), min=0),
        timeline("Governor by box", "The hardest measure in force, over time.", by_box(f"max by (instance) (edgellm_governor_level{{{ON}}})"), level_names(), height=7),
        series("Headroom by box", "Share left of what is shortest.", by_box(least), "percentunit", max=1),
        series("Draw by box", "Watts, each box by its greatest source.", by_box(f"max by (instance) (edgellm_power_draw_watts{{{ON}}})"), "watt", stack=True),
        series("Answers by box", "Requests a second that ended.", by_box(total("edgellm_requests_total", answers, "instance")), "reqps", stack=True),
        series("Failed by box", "Share of requests that ended in a 5xx, refusals among them.", by_box(failed(answers, "instance")), "percentunit", min=0, max=1),
    ], model=False)


def main() -> int:
    stale = []
    for make in (overview, headroom, fleet):
        made = make()
        path = HERE / f"{made['uid']}.json"
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        print(f"not what grafana/generate.py writes: {', '.join(stale)}; run it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
