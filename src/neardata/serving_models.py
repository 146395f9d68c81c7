"""What studies of serving compute; see `neardata.study_models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neardata.arch.link import load_link
from neardata.arch.precision import Format
from neardata.arch.system import load_system
from neardata.serving import StepCosts
from neardata.sim.link import transfer_ps
from neardata.sim.serving import Arrival, Batch, Instance, Moving, Split, serve
from neardata.workloads.llm.model import load_model

PS_PER_MS = 10**9


def splitwise(
    model: str,
    gpus: int,
    systems: Sequence[str],
    requests: Mapping[str, Sequence[int]],
    host_us: float,
    link: str,
    link_gb_per_s: float,
    moved: str,
) -> dict[str, float]:
    """Single requests on a machine of each kind, and one whose prompt is read on another machine.

    Args:
        model: tensor parallel over ``gpus``.
        systems: by name; figures are of each, and ratios of the last over the first.
        requests: prompt and generated tokens of the median request of each trace.
        host_us: of a step.
        link, link_gb_per_s: that keys and values take from machine to machine.
        moved: the trace whose median request is moved, on the last system.
    """
    sizes = load_model(model)
    found: dict[str, float] = {}
    costs = {}
    for name in systems:
        costs[name] = StepCosts(sizes, load_system(name).with_counts(gpu=gpus), host_ps=round(host_us * 1e6))
        for trace, (prompt, generated) in requests.items():
            report = serve([Arrival(0, prompt, generated)], [Instance(costs[name])])
            found[f"{name}/{trace}/ttft_ms"] = report.ttft.mean / PS_PER_MS
            found[f"{name}/{trace}/tbt_ms"] = report.tpot.mean / PS_PER_MS
            found[f"{name}/{trace}/e2e_ms"] = report.e2e.mean / PS_PER_MS
    first, last = systems[0], systems[-1]
    for trace in requests:
        for figure in ("ttft", "tbt", "e2e"):
            ours = found[f"{last}/{trace}/{figure}_ms"] / found[f"{first}/{trace}/{figure}_ms"]
            found[f"{last} over {first}/{trace}/{figure}"] = ours
    context = requests[moved][0]
    one, many = (costs[last]([Batch((1,) * n, (context,) * n)]) for n in (1, 64))
    found["tbt_of_64_over_1"] = many / one
    return found | _moved(sizes, costs[last], requests[moved], load_link(link, {"gb_per_s": link_gb_per_s}))


def _moved(sizes, costs, request, link) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """What moving adds to a request's time and to that of its second token."""
    prompt, generated = request
    form = Format.parse("bf16")

    def ps(tokens: int) -> int:
        return transfer_ps(link, form.bytes_of(tokens * sizes.cache_elements_per_token))

    found = {}
    alone = serve([Arrival(0, prompt, generated)], [Instance(costs)])
    for way, layers in (("serial", 1), ("layer_by_layer", sizes.layers)):
        pair = [Instance(costs), Instance(costs)]
        report = serve([Arrival(0, prompt, generated)], pair, Split(1), Moving(ps, layers))
        added = report.requests[0].moving_ps
        found[f"{way}/of_e2e"] = 100 * added / alone.requests[0].e2e_ps
        found[f"{way}/of_second_token"] = 100 * added / (alone.requests[0].tpot_ps or 1)
    return found
