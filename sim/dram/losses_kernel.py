"""Where the cycles went: one pass over a command trace, in plain arrays (see `losses`)."""

from __future__ import annotations

import numba
import numpy as np

# columns of `rules`
SLOT, LEVEL, GAP, WINDOW, SIBLINGS, CAUSE, EDGE = range(7)
# kinds of EDGE, from the command a rule starts at to the one it holds back
APART, ENABLES, REFRESHES, BURST, BURST_TO_ROW = range(5)
# columns of `commands`
RULES, RULES_END, UPDATES, UPDATES_END, BURST_AFTER, ON_EDGE, BUS, HELD = range(8)
# columns of `slots`
BASE, MASK, FILL = range(3)
# columns of `history`
BEFORE, BY_RULE, WAITED, EDGE_WAIT, TIME, COMMAND = range(6)
# first columns of `account`; the causes with a rule follow
BUSY, LATENCY, NO_REQUEST, ARBITRATION, COMMAND_BUS, CLOCK_EDGE, REFRESH = range(7)
# cells of `counters`
COMMANDS = 0

#: Commands a chain is followed back through; a power of two.
HISTORY = 8192
#: Latencies of the row's own commands, and waits for them, that a chain may collect.
STEPS = 256
#: In place of a cause: the wait of a command.
WAIT = -1


@numba.njit(cache=True, nogil=True)
def feed(
    rules, commands, updates, slots, node_at, node_count, nodes, burst, bus_level,
    last, fill, history, bus_end, account, counters,
    cycle, command, unit, arrival,
):  # fmt: skip
    """Account for the commands of one chunk; everything from ``last`` to ``counters`` is carried state."""
    step = np.empty((STEPS, 2), dtype=np.int64)
    count = counters[COMMANDS]
    for at in range(cycle.shape[0]):
        t, c, u, arrived = cycle[at], command[at], unit[at], arrival[at]

        # 1. which rule held it back last, and from which command on
        ready, by, before = 1, -1, -1
        for r in range(commands[c, RULES], commands[c, RULES_END]):
            level, slot, gap, window = rules[r, LEVEL], rules[r, SLOT], rules[r, GAP], rules[r, WINDOW]
            siblings = rules[r, SIBLINGS]
            base, mask, fill_base = slots[slot, BASE], slots[slot, MASK], slots[slot, FILL]
            covered = node_count[c, level]
            first_node = node_at[c, level] + u * covered
            for k in range(first_node, first_node + covered):
                node = nodes[k]
                if siblings == 0:
                    filled = fill[fill_base + node]
                    if filled >= window:
                        cell = base + node * (mask + 1) + ((filled - window) & mask)
                        if last[cell, 0] + gap > ready:
                            ready, by, before = last[cell, 0] + gap, r, last[cell, 1]
                else:
                    eldest = node - node % siblings
                    for other in range(eldest, eldest + siblings):
                        filled = fill[fill_base + other]
                        if other != node and filled >= window:
                            cell = base + other * (mask + 1) + ((filled - window) & mask)
                            if last[cell, 0] + gap > ready:
                                ready, by, before = last[cell, 0] + gap, r, last[cell, 1]
        if arrived > ready:
            ready, by, before = arrived, -1, -1
        here = count & (HISTORY - 1)
        history[here, BEFORE] = before
        history[here, BY_RULE] = by
        to_edge = 1 - (ready & 1) if commands[c, ON_EDGE] else 0
        history[here, EDGE_WAIT] = to_edge
        history[here, WAITED] = max(0, t - ready - to_edge)
        history[here, TIME], history[here, COMMAND] = t, c

        # 2. the idle time its burst ends, charged back along the chain of what held it back
        if commands[c, BURST_AFTER] >= 0:
            start = t + commands[c, BURST_AFTER]
            covered = node_count[c, bus_level]
            first_node = node_at[c, bus_level] + u * covered
            for k in range(first_node, first_node + covered):
                bus = nodes[k]
                idle = start - bus_end[bus]
                if idle > 0:
                    if account[bus, BUSY] == 0:
                        filling = min(idle, commands[c, BURST_AFTER])
                        account[bus, LATENCY] += filling
                        idle -= filling
                    charge(rules, commands, history, account, count, bus, idle, step)
                end = start + burst
                account[bus, BUSY] += max(0, end - max(start, bus_end[bus]))
                bus_end[bus] = max(end, bus_end[bus])

        # 3. remember it
        for s in range(commands[c, UPDATES], commands[c, UPDATES_END]):
            slot, level = updates[s, 0], updates[s, 1]
            base, mask, fill_base = slots[slot, BASE], slots[slot, MASK], slots[slot, FILL]
            covered = node_count[c, level]
            first_node = node_at[c, level] + u * covered
            for k in range(first_node, first_node + covered):
                node = nodes[k]
                filled = fill[fill_base + node]
                cell = base + node * (mask + 1) + (filled & mask)
                last[cell, 0], last[cell, 1] = t, count
                fill[fill_base + node] = filled + 1
        count += 1
    counters[COMMANDS] = count


@numba.njit(cache=True, nogil=True)
def charge(rules, commands, history, account, newest, bus, idle, step):
    """Divide ``idle`` cycles of a bus among the causes that delayed command ``newest``."""
    at, steps = newest, 0
    while idle > 0:
        here = at & (HISTORY - 1)
        by = history[here, BY_RULE]
        edge = rules[by, EDGE] if by >= 0 else APART
        passed = (by < 0 or edge == ENABLES) and steps + 2 <= STEPS
        if passed:
            step[steps, 0], step[steps, 1] = WAIT, at
            steps += 1
        else:
            idle = wait(commands, history, account, bus, idle, at)
        if by < 0:
            idle = spend(commands, history, account, bus, idle, step, steps)
            account[bus, NO_REQUEST] += idle
            return
        cause, gap = rules[by, CAUSE], rules[by, GAP]
        if edge == REFRESHES or edge == BURST:  # noqa: SIM109 (numba)
            account[bus, cause] += idle
            return
        if passed:
            step[steps, 0], step[steps, 1] = cause, gap
            steps += 1
        else:
            part = min(idle, gap)
            account[bus, cause] += part
            idle -= part
            if edge == BURST_TO_ROW:
                idle = spend(commands, history, account, bus, idle, step, steps)
                account[bus, cause] += idle
                return
        at = history[here, BEFORE]
        if newest - at >= HISTORY:
            account[bus, cause] += idle
            return


@numba.njit(cache=True, nogil=True)
def spend(commands, history, account, bus, idle, step, steps):
    """Charge a chain's own latencies and waits with what nothing else explains; returns the rest."""
    for s in range(steps):
        if step[s, 0] == WAIT:
            idle = wait(commands, history, account, bus, idle, step[s, 1])
        else:
            part = min(idle, step[s, 1])
            account[bus, step[s, 0]] += part
            idle -= part
    return idle


@numba.njit(cache=True, nogil=True)
def wait(commands, history, account, bus, idle, at):
    """Charge the time command ``at`` could have been issued and was not; returns the rest of ``idle``."""
    here = at & (HISTORY - 1)
    part = min(idle, history[here, WAITED])
    end = history[here, TIME]
    begin, held, own = end - part, 0, commands[history[here, COMMAND], BUS]
    for other in range(at - 1, max(at - HISTORY, -1), -1):
        if end <= begin:
            break
        there = other & (HISTORY - 1)
        c, t = history[there, COMMAND], history[there, TIME]
        if commands[c, BUS] == own:
            held += max(0, min(t + commands[c, HELD], end) - max(t, begin))
            end = min(end, t)
    account[bus, COMMAND_BUS] += held
    account[bus, ARBITRATION] += part - held
    idle -= part
    part = min(idle, history[here, EDGE_WAIT])
    account[bus, CLOCK_EDGE] += part
    return idle - part
