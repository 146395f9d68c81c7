"""Programs for AttAcc: attention of one decoded token, as attacc_simulator schedules it.

A channel computes whole heads: scores = K q, softmax, context = V s. K and V lie so that every
MAC command works on 32 bytes in each bank of the channel. A channel works on two heads at a time,
the data moves of one under the MACs of the other.

The work is a sequence of *regions* with a barrier between two. Inside a region the MACs and the
data moves are two streams, each in order, on one column bus; the row commands between MACs travel
on the row bus. A barrier, here as in attacc_simulator, waits until the commands before it have
been issued, not until they are complete. Row commands pass it: the next region's row is opened as
soon as the last MAC of this one allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from neardata.arch.errors import InputError
from neardata.sim.dram.program import Program

PSEUDO_CHANNELS, RANKS, BANK_GROUPS, BANKS = 2, 2, 4, 4
LANES = 16
"""FP16 values of the 32 bytes a MAC takes from a bank."""
COLUMNS = 32
"""Columns (bursts) of a row."""
VALUE_ROW = 8192
"""First row of the value matrices; the key matrices start at row 0."""
SCORES_COLLECTED = 16
"""Scores a unit collects before they move to the softmax unit."""
SOFTMAX_SCORES = 256
"""Scores the softmax unit takes at a time."""

Steps = list[Any]


@dataclass(frozen=True)
class Run:
    """MACs in one row."""

    row: int
    column: int
    count: int


@dataclass(frozen=True)
class Move:
    """Data moves of one kind: ``WRGB`` and ``MVGB`` (to the units' vector buffers), ``MVSB scores``
    and ``MVSB context`` (results to the softmax unit), ``SFM`` (softmax)."""

    kind: str
    count: int


@dataclass(frozen=True)
class Region:
    """What happens between two barriers: MACs, and data moves beside them."""

    macs: tuple[Run, ...] = ()
    moves: tuple[Move, ...] = ()
    """Queued behind the MACs."""
    early: tuple[Move, ...] = ()
    """Queued before the MACs: left over from the phase before."""


@dataclass(frozen=True)
class Head:
    """The work of one head: counts per channel."""

    length: int
    """Cached tokens."""
    size: int
    """Width of the head."""

    @property
    def scores(self) -> int:
        """Scores of a bank group; every unit of it takes a part of the dot product."""
        return -(-self.length // (PSEUDO_CHANNELS * RANKS * BANK_GROUPS))

    @property
    def parts(self) -> int:
        """MACs of a bank for one score; blocks of the context."""
        return self.size // (BANKS * LANES)

    @property
    def blocks(self) -> int:
        """Regions of the score phase."""
        return -(-self.scores // SCORES_COLLECTED)

    @property
    def rows(self) -> int:
        """Rows of K, and of V, in each bank."""
        return -(-self.scores * self.parts // COLUMNS)

    @property
    def query(self) -> int:
        """Moves that bring the query to the units."""
        return BANKS * self.parts

    @property
    def weights(self) -> int:
        """Moves that bring the softmax weights to the units."""
        return RANKS * BANK_GROUPS * -(-self.scores // LANES)

    def score_macs(self, block: int, row: int) -> tuple[Run, ...]:
        """MACs of one score block; K starts at ``row``."""
        step = SCORES_COLLECTED * self.parts
        return _runs(block * step, min((block + 1) * step, self.scores * self.parts), row)

    def context_macs(self, block: int, row: int) -> tuple[Run, ...]:
        """MACs of one context block; V starts at ``row``."""
        return _runs(block * self.scores, (block + 1) * self.scores, row)


QUEUE = 32
"""Commands the controller looks ahead: moves queued behind more MACs than this wait."""
MOVE_SCORES = Move("MVSB scores", RANKS * BANK_GROUPS)
MOVE_CONTEXT = Move("MVSB context", RANKS * BANKS)
SOFTMAX = Move("SFM", 1)


def attention(
    heads: int,
    length: int,
    *,
    head_size: int = 128,
    channels: int = 16,
    device: str = "attacc-hbm3",
    softmax_cycles: int | None = None,
) -> Program:
    """One token's attention over ``length`` cached tokens for ``heads`` heads, a unit per bank.

    Args:
        heads: heads in the stack (of all requests of a batch); they go round robin over the channels.
        head_size: width of a head, a multiple of 64 (4 banks times 16 values).
        softmax_cycles: clock cycles the softmax unit takes for 256 scores before its weights
            may move on (default: the device's nSFM, whatever the length).

    Raises:
        InputError: a size below 1, a head size that does not divide, or too many rows.

    >>> [(g.channels, g.name) for g in attention(188, 2048).groups]
    [(12, '12 heads'), (4, '11 heads')]
    """
    sizes = {"heads": heads, "length": length, "channels": channels, "head_size": head_size}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    if head_size % (BANKS * LANES):
        raise InputError(f"must be a multiple of {BANKS * LANES}, got {head_size}", key="head_size")
    head = Head(length, head_size)
    each, more = divmod(heads, channels)
    if head.rows * (each + (more > 0)) > VALUE_ROW:
        raise InputError(f"the heads of a channel take {head.rows * (each + 1)} rows, at most {VALUE_ROW}")
    groups = [
        {"name": f"{n} heads", "channels": count, "body": _channel(head, n)}
        for count, n in ((more, each + 1), (channels - more, each))
        if count and n
    ]
    data: dict[str, Any] = {"name": f"attention {heads}x{length}", "device": device, "groups": groups}
    if softmax_cycles is not None:
        data["overrides"] = {"timing.nSFM": softmax_cycles * -(-length // SOFTMAX_SCORES)}
    return Program.from_dict(data)


def _channel(head: Head, heads: int) -> Steps:
    """Heads of one channel: pairs, then the odd one."""
    pairs = heads // 2
    steps: Steps = []
    if pairs:
        row = f"{2 * head.rows}*p"
        steps.append({"loop": {"p": pairs}, "body": [{"phase": "pairs", "body": _emit(_pair(head), row)}]})
    if heads % 2:
        row = str(2 * head.rows * pairs)
        steps.append({"phase": "last head", "body": _emit(_single(head), row)})
    return steps


def _pair(head: Head) -> list[Region]:
    """Two heads: the first one's softmax and weights move under the second one's scores, the
    second one's under the first one's context."""
    keys, values = (0, head.rows), (VALUE_ROW, VALUE_ROW + head.rows)
    blocks, parts = head.blocks, head.parts
    regions = [Region(moves=(Move("WRGB", head.query),))]
    for j in range(blocks):
        moves = [MOVE_SCORES] if j else []
        moves.append(Move("WRGB", _share(head.query, blocks, j)))
        regions.append(Region(head.score_macs(j, keys[0]), _some(moves)))
    for j in range(blocks):
        moves = [MOVE_SCORES if j else SOFTMAX, Move("MVGB", _late_share(head.weights, blocks, j))]
        regions.append(Region(head.score_macs(j, keys[1]), _some(moves), () if j else (MOVE_SCORES,)))
    for j in range(parts):
        moves = [MOVE_CONTEXT if j else SOFTMAX, Move("MVGB", _late_share(head.weights, parts, j))]
        regions.append(Region(head.context_macs(j, values[0]), _some(moves), () if j else (MOVE_SCORES,)))
    for j in range(parts):
        context = (MOVE_CONTEXT,)
        regions.append(Region(head.context_macs(j, values[1]), context if j else (), () if j else context))
    return [*regions, Region(moves=(MOVE_CONTEXT,))]


def _single(head: Head) -> list[Region]:
    """One head alone."""
    scores, context = (MOVE_SCORES,), (MOVE_CONTEXT,)
    regions = [Region(moves=(Move("WRGB", head.query),))]
    regions += [Region(head.score_macs(j, 0), scores if j else ()) for j in range(head.blocks)]
    regions.append(Region(moves=(MOVE_SCORES, SOFTMAX, Move("MVGB", head.weights))))
    regions += [Region(head.context_macs(j, VALUE_ROW), context if j else ()) for j in range(head.parts)]
    return [*regions, Region(moves=context)]


def _runs(first: int, end: int, row: int) -> tuple[Run, ...]:
    """MACs number ``first`` to ``end`` of a matrix that starts at ``row``, cut at rows."""
    runs = []
    while first < end:
        column = first % COLUMNS
        count = min(COLUMNS - column, end - first)
        runs.append(Run(row + first // COLUMNS, column, count))
        first += count
    return tuple(runs)


def _share(total: int, parts: int, part: int) -> int:
    return total * (part + 1) // parts - total * part // parts


def _late_share(total: int, parts: int, part: int) -> int:
    """Share of the later half of the parts (the middle one included)."""
    late = parts - parts // 2
    return _share(total, late, part - parts // 2) if part >= parts // 2 else 0


def _some(moves: Iterable[Move]) -> tuple[Move, ...]:
    return tuple(move for move in moves if move.count)


def _emit(regions: Sequence[Region], base: str) -> Steps:
    """Steps of the regions, equal ones that advance by a constant number of rows as loops.

    ``base``: expression to add to all rows.
    """
    placed = list(_placed(regions))
    steps: Steps = []
    i = 0
    while i < len(placed):
        row, shape = placed[i]
        n = 1
        while i + n < len(placed) and placed[i + n][1] == shape:
            stride = placed[i + 1][0] - row
            if placed[i + n][0] != row + n * stride:
                break
            n += 1
        if n == 1:
            steps += _region(shape, f"{base} + {row}")
        else:
            stride = placed[i + 1][0] - row
            steps.append({"loop": {"j": n}, "body": _region(shape, f"{base} + {row} + {stride}*j")})
        i += n
    return steps


@dataclass(frozen=True)
class _Shape:
    """A region, its rows counted from the first one that it or a later region works on."""

    before: int | None
    """The row open when it begins."""
    runs: tuple[Run, ...]
    moves: tuple[Move, ...]
    early: tuple[Move, ...]
    last: bool
    """No MACs follow: the row is closed."""


def _placed(regions: Sequence[Region]) -> Iterable[tuple[int, _Shape]]:
    """First row and shape of each region."""
    before: int | None = None
    for i, region in enumerate(regions):
        rows = [run.row for r in regions[i:] for run in r.macs]
        first = rows[0] if rows else 0
        runs = tuple(Run(run.row - first, run.column, run.count) for run in region.macs)
        opened = None if before is None else before - first
        yield first, _Shape(opened, runs, region.moves, region.early, not rows)
        before = region.macs[-1].row if region.macs else first


def _region(shape: _Shape, row: str) -> Steps:
    steps = _change_row(shape.before, None if shape.last else 0, row)
    ahead = max(sum(run.count for run in shape.runs) - QUEUE, 0)
    streams: list[Steps] = []
    current = 0
    for run in shape.runs:
        steps += _change_row(current, run.row, row)
        current = run.row
        first = min(ahead, run.count)
        if first:
            steps.append(_macs(run.row, run.column, first, row))
            ahead -= first
            if not ahead:
                streams.append(steps)
                steps = []
        if first < run.count:
            steps.append(_macs(run.row, run.column + first, run.count - first, row))
    streams.append(steps)
    if len(streams) == 1:
        return _beside(steps, _moves(shape.early + shape.moves))
    return _beside(streams[0], _moves(shape.early)) + _beside(streams[1], _moves(shape.moves))


def _beside(macs: Steps, moves: Steps) -> Steps:
    return [{"parallel": [macs, moves]}] if macs and moves else macs + moves


def _macs(run_row: int, column: int, count: int, row: str) -> dict[str, Any]:
    return {"MACAB": {"row": f"{row} + {run_row}", "column": f"{column} + k"}, "repeat": {"k": count}}


def _change_row(current: int | None, wanted: int | None, row: str) -> Steps:
    if current == wanted:
        return []
    steps: Steps = [] if current is None else ["PREA"]
    return steps if wanted is None else [*steps, {"ACTAB": {"row": f"{row} + {wanted}"}}]


def _moves(moves: Iterable[Move]) -> Steps:
    return [step for move in moves for step in _move(move)]


def _move(move: Move) -> Steps:
    """Consecutive moves go to different bank groups or ranks where there is a choice."""
    steps: Steps
    full, rest = divmod(move.count, RANKS * BANK_GROUPS)
    match move.kind:
        case "SFM":
            return ["SFM"]
        case "WRGB":
            address = {"rank": 0, "bank_group": 0}
            each, some = divmod(move.count, BANKS)
            repeated = {"WRGB": {**address, "bank": "b"}, "repeat": each}
            steps = [{"loop": {"b": BANKS}, "body": [repeated]}] if each else []
            return steps + ([{"WRGB": {**address, "bank": "b"}, "repeat": {"b": some}}] if some else [])
        case "MVSB scores":
            body = {"MVSB": {"rank": "r", "bank_group": "g", "bank": 0}, "repeat": {"r": RANKS}}
            return [{"loop": {"g": BANK_GROUPS}, "body": [body]}]
        case "MVSB context":
            body = {"MVSB": {"rank": "r", "bank_group": 0, "bank": "b"}, "repeat": {"r": RANKS}}
            return [{"loop": {"b": BANKS}, "body": [body]}]
    body = {"MVGB": {"rank": "r", "bank_group": "g", "bank": 0}, "repeat": {"g": BANK_GROUPS}}
    steps = []
    if full:
        steps.append({"loop": {"c": full}, "body": [{"loop": {"r": RANKS}, "body": [body]}]})
    for r in range(-(-rest // BANK_GROUPS)):
        count = min(BANK_GROUPS, rest - r * BANK_GROUPS)
        steps.append({"MVGB": {"rank": r, "bank_group": "g", "bank": 0}, "repeat": {"g": count}})
    return steps
