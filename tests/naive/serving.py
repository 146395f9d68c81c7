"""Replicas under vLLM's V1 scheduler, step after step, with nothing kept that can be counted anew."""

from math import ceil


def replica(requests, step_ps, limits, *, ahead=False):
    """``requests``: (index, arrival, prompt, generated) in order. Returns by index (scheduled, first,
    last, preemptions) and the steps (start, end, sequences, tokens)."""
    computed, made, times, scheduled, preempted = {}, {}, {}, {}, {}
    size = {index: (prompt, generated) for index, _, prompt, generated in requests}
    waiting, running, future, steps = [], [], list(requests), []

    def missing(i):
        return size[i][0] + made[i] - computed[i]

    def ends(i):
        return made[i] == size[i][1]

    def free():
        return limits.blocks - sum(ceil(held[i] / limits.block_tokens) for i in running)

    def more(i, tokens):
        return ceil(tokens / limits.block_tokens) - ceil(held.get(i, 0) / limits.block_tokens)

    held = {}

    def arrive(now):
        while future and future[0][1] <= now:
            i = future.pop(0)[0]
            computed[i], made[i], times[i], preempted[i] = 0, 0, [], 0
            waiting.append(i)

    def plan(now):
        chunks, left, anyone = {}, limits.tokens, False
        for i in list(running):
            if i not in running or ends(i) or left == 0:
                continue
            new = min(missing(i), left)
            while i in running and more(i, computed[i] + new) > free():
                victim = [j for j in running if not ends(j)][-1]
                running.remove(victim)
                waiting.insert(0, victim)
                computed[victim] = held[victim] = 0
                preempted[victim] += 1
                anyone = True
            if i not in running:
                break
            held[i] = computed[i] + new
            chunks[i] = new
            left -= new
        while waiting and left and not anyone and len(running) < limits.sequences:
            i = waiting[0]
            if ceil((size[i][0] + made[i]) / limits.block_tokens) > free():
                break
            running.append(waiting.pop(0))
            chunks[i] = min(missing(i), left)
            held[i] = computed[i] + chunks[i]
            left -= chunks[i]
        contexts = [computed[i] + new for i, new in chunks.items()]
        took = step_ps(list(chunks.values()), contexts) if chunks else 0
        makers = []
        for i, new in chunks.items():
            scheduled.setdefault(i, now)
            computed[i] += new
            if missing(i) == 0:
                made[i] += 1
                makers.append(i)
        return chunks, makers, took

    now, planned = 0, None
    while future or waiting or running:
        arrive(now)
        chunks, makers, took = planned or plan(now)
        planned = None
        if not chunks:
            now = future[0][1]
            continue
        if ahead:
            following = plan(now)
            planned = following if following[0] else None
        steps.append((now, now + took, len(chunks), sum(chunks.values())))
        now += took
        for i in makers:
            times[i].append(now)
            if len(times[i]) == size[i][1]:
                running.remove(i)
                held[i] = 0
    return {i: (scheduled[i], times[i][0], times[i][-1], preempted[i]) for i in size}, steps


def serve(requests, step_ps, limits, replicas, *, ahead=False):
    """Round robin in the order of arrival."""
    order = sorted(range(len(requests)), key=lambda i: (requests[i][0], i))
    found, steps = {}, []
    for r in range(replicas):
        mine = [(i, *requests[i]) for i in order[r::replicas]]
        if mine:
            served, run = replica(mine, step_ps, limits, ahead=ahead)
            found |= served
            steps += [(r, *step) for step in run]
    return found, steps
