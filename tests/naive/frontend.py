"""The front end of a server, one tick after the other, every rule looked at anew at every tick."""


def serve_batches(requests, stages, most, wait, width, merge, executors, execute):
    """``requests``: (arrival, length); ``stages``: (servers, service, interval), functions of length.

    Returns by request (entered, prepared, begun, done), and the batches (executor, begun, done, members).
    """
    n = len(requests)
    queues = [[] for _ in stages]  # waiting for a server
    free = [[0] * servers for servers, _, _ in stages]
    given = [[0] * servers for servers, _, _ in stages]
    reaches = [[] for _ in range(len(stages) + 1)]  # (time, request) still to come
    reaches[0] = [(arrival, i) for i, (arrival, _) in enumerate(requests)]
    entered, joined, found = [[] for _ in range(n)], {}, {}
    until, batches, now = [0] * executors, [], 0

    def bucket(i):
        return 0 if width is None else (requests[i][1] - 1) // width

    while len(found) < n:
        for s, (_, service, interval) in enumerate(stages):
            coming = sorted(i for t, i in reaches[s] if t == now)
            queues[s] += coming
            while queues[s] and min(free[s]) <= now:
                i = queues[s].pop(0)
                server = free[s].index(min(free[s]))
                free[s][server] = now + interval(requests[i][1])
                entered[i].append(now)
                given[s][server] = max(now + service(requests[i][1]), given[s][server])
                reaches[s + 1].append((given[s][server], i))
        for i in sorted(i for t, i in reaches[-1] if t == now):
            joined[i] = now
        waits = {i: t for i, t in joined.items() if i not in found}
        while any(t <= now for t in until):
            ready = []
            for i, t in waits.items():
                mine = [j for j in waits if bucket(j) == bucket(i)]
                if len(mine) >= most(bucket(i)) or any(waits[j] + wait <= now for j in mine):
                    ready.append((t, i))
            if not ready:
                break
            own = bucket(min(ready)[1])
            members = []
            for distance in range(1000 if merge else 1):
                for b in dict.fromkeys((own - distance, own + distance)):
                    for i in sorted((i for i in waits if bucket(i) == b), key=lambda i: (waits[i], i)):
                        longest = max([bucket(j) for j in members] + [b, own])
                        if len(members) < most(longest):
                            members.append(i)
            where = min(e for e, t in enumerate(until) if t <= now)
            took = execute(len(members), max(requests[i][1] for i in members))
            until[where] = now + took
            batches.append((where, now, now + took, tuple(members)))
            for i in members:
                found[i] = (tuple(entered[i]), joined[i], now, now + took)
                del waits[i]
        now += 1
    return found, batches
