"""Programs for AttAcc: attention of one decoded token, as attacc_simulator schedules it.

A channel computes whole heads: scores = K q, softmax, context = V s. K and V lie so that every
MAC command works on 32 bytes in each unit of the channel. A channel works on two heads at a time,
the data moves of one under the MACs of the other.

The work is a sequence of *regions* with a barrier between two. Inside a region the MACs and the
data moves are streams, each in order, on one column bus; row commands travel on the row bus. A
barrier, here as in attacc_simulator, waits until the commands before it have been issued, not
until they are complete. Row commands pass it: the next region's row is opened as soon as this
one's MACs allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from neardata.arch.errors import InputError, nearest
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
QUEUE = 32
"""Commands the controller looks ahead: moves queued behind more MACs than this wait."""

UnitLevel = Literal["bank", "bank group"]
Steps = list[Any]


@dataclass(frozen=True)
class Unit:
    """Where the processing units sit."""

    mac: str
    activate: str
    precharge: str
    split: int
    """Units that share a dot product of K q, and the columns of V."""
    ring: int
    """Banks a unit visits in turn, a row of each."""


UNITS: dict[UnitLevel, Unit] = {
    "bank": Unit("MACAB", "ACTAB", "PREA", BANKS, 1),
    "bank group": Unit("MACSB", "ACTSB", "PRESB", 1, BANKS),
}


@dataclass(frozen=True)
class Run:
    """MACs in one row of a bank (of every bank for a unit per bank)."""

    bank: int
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
    stage: str = "scores"
    """``scores`` or ``values``."""


@dataclass(frozen=True)
class Head:
    """The work of one head: counts per channel."""

    length: int
    """Cached tokens."""
    size: int
    """Width of the head's keys."""
    unit: Unit = UNITS["bank"]
    value_size: int = 0
    """Width of its values (0: that of the keys)."""

    @property
    def scores(self) -> int:
        """Scores of a bank group of a rank and pseudo-channel."""
        return -(-self.length // (PSEUDO_CHANNELS * RANKS * BANK_GROUPS))

    @property
    def parts(self) -> int:
        """MACs of a unit for one score."""
        return self.size // (self.unit.split * LANES)

    @property
    def context_blocks(self) -> int:
        """Blocks of the context."""
        return (self.value_size or self.size) // (self.unit.split * LANES)

    @property
    def blocks(self) -> int:
        """Regions of the score phase."""
        return -(-self.scores // SCORES_COLLECTED)

    @property
    def rows(self) -> int:
        """Rows of K, and of V (the more of them), in each bank."""
        macs = self.scores * max(self.parts, self.context_blocks)
        return -(-macs // (COLUMNS * self.unit.ring))

    @property
    def query(self) -> int:
        """Moves that bring the query to the units."""
        return self.size // LANES

    @property
    def weights(self) -> int:
        """Moves that bring the softmax weights to the units."""
        return RANKS * BANK_GROUPS * -(-self.scores // LANES)

    @property
    def context(self) -> Move:
        """A block of the context."""
        return Move("MVSB context", RANKS * self.unit.split)

    def score_macs(self, block: int, row: int) -> tuple[Run, ...]:
        """MACs of one score block; K starts at ``row``."""
        step = SCORES_COLLECTED * self.parts
        return self._runs(block * step, min((block + 1) * step, self.scores * self.parts), row)

    def context_macs(self, block: int, row: int) -> tuple[Run, ...]:
        """MACs of one context block; V starts at ``row``."""
        return self._runs(block * self.scores, (block + 1) * self.scores, row)

    def _runs(self, first: int, end: int, row: int) -> tuple[Run, ...]:
        """MACs number ``first`` to ``end`` of a matrix, cut at rows."""
        runs = []
        while first < end:
            nth, column = divmod(first, COLUMNS)
            count = min(COLUMNS - column, end - first)
            runs.append(Run(nth % self.unit.ring, row + nth // self.unit.ring, column, count))
            first += count
        return tuple(runs)


VALUES = "values"
SCORES = Move("MVSB scores", RANKS * BANK_GROUPS)
SOFTMAX = Move("SFM", 1)


def attention(
    heads: int,
    length: int,
    *,
    head_size: int = 128,
    unit: UnitLevel = "bank",
    channels: int = 16,
    device: str = "attacc-hbm3",
    softmax_cycles: int | None = None,
) -> Program:
    """One token's attention over ``length`` cached tokens for ``heads`` heads.

    Args:
        heads: heads in the stack (of all requests of a batch); they go round robin over the channels.
        head_size: width of a head, a multiple of 64 (a unit per bank) or 16 (per bank group).
        unit: where the processing units sit.
        softmax_cycles: clock cycles the softmax unit takes for 256 scores before its weights
            may move on (default: the device's nSFM, whatever the length).

    Raises:
        InputError: a size below 1, a head size that does not divide, too many rows, unknown unit.

    >>> [(g.channels, g.name) for g in attention(188, 2048).groups]
    [(12, '12 heads'), (4, '11 heads')]
    """
    sizes = {"heads": heads, "length": length, "channels": channels, "head_size": head_size}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    if unit not in UNITS:
        raise InputError(f"'{unit}' is not known{nearest(unit, UNITS)}", key="unit")
    if head_size % (UNITS[unit].split * LANES):
        multiple = UNITS[unit].split * LANES
        raise InputError(f"must be a multiple of {multiple}, got {head_size}", key="head_size")
    head = Head(length, head_size, UNITS[unit])
    each, more = divmod(heads, channels)
    if head.rows * (each + (more > 0)) > VALUE_ROW:
        raise InputError(f"the heads of a channel take {head.rows * (each + 1)} rows, at most {VALUE_ROW}")
    groups = [
        {"name": f"{n} heads", "channels": count, "body": _channel(head, n)}
        for count, n in ((more, each + 1), (channels - more, each))
        if count and n
    ]
    data: dict[str, Any] = {"name": f"attention {heads}x{length}", "device": device, "groups": groups}
    if UNITS[unit].ring > 1:  # some bank is always open
        data |= {"refresh": "close-reopen", "owed": 1}
    if softmax_cycles is not None:
        data["overrides"] = {"timing.nSFM": softmax_cycles * -(-length // SOFTMAX_SCORES)}
    return Program.from_dict(data)


def _channel(head: Head, heads: int) -> Steps:
    """Heads of one channel: pairs, then the odd one."""
    pairs = heads // 2
    steps: Steps = []
    if pairs:
        body = emit(pair(head), head.unit, f"{2 * head.rows}*p")
        steps.append({"loop": {"p": pairs}, "body": [{"phase": "pairs", "body": body}]})
    if heads % 2:
        body = emit(single(head), head.unit, str(2 * head.rows * pairs))
        steps.append({"phase": "last head", "body": body})
    return steps


def pair(head: Head, *, shared: bool = False) -> list[Region]:
    """Two heads: the first one's softmax and weights move under the second one's scores, the
    second one's under the first one's context.

    ``shared``: they are queries of one group, with the same keys and values.
    """
    second = 0 if shared else head.rows
    keys, values = (0, second), (VALUE_ROW, VALUE_ROW + second)
    blocks, parts, context = head.blocks, head.context_blocks, head.context
    regions = [Region(moves=(Move("WRGB", head.query),))]
    for j in range(blocks):
        moves = [SCORES] if j else []
        moves.append(Move("WRGB", _share(head.query, blocks, j)))
        regions.append(Region(head.score_macs(j, keys[0]), _some(moves)))
    for j in range(blocks):
        moves = [SCORES if j else SOFTMAX, Move("MVGB", _late_share(head.weights, blocks, j))]
        regions.append(Region(head.score_macs(j, keys[1]), _some(moves), () if j else (SCORES,)))
    for j in range(parts):
        moves = [context if j else SOFTMAX, Move("MVGB", _late_share(head.weights, parts, j))]
        regions.append(Region(head.context_macs(j, values[0]), _some(moves), () if j else (SCORES,), VALUES))
    for j in range(parts):
        late, early = ((context,), ()) if j else ((), (context,))
        regions.append(Region(head.context_macs(j, values[1]), late, early, VALUES))
    return [*regions, Region(moves=(context,), stage=VALUES)]


def single(head: Head) -> list[Region]:
    """One head alone."""
    scores, context = (SCORES,), (head.context,)
    regions = [Region(moves=(Move("WRGB", head.query),))]
    regions += [Region(head.score_macs(j, 0), scores if j else ()) for j in range(head.blocks)]
    regions.append(Region(moves=(SCORES, SOFTMAX, Move("MVGB", head.weights))))
    regions += [
        Region(head.context_macs(j, VALUE_ROW), context if j else (), stage=VALUES)
        for j in range(head.context_blocks)
    ]
    return [*regions, Region(moves=context, stage=VALUES)]


def _share(total: int, parts: int, part: int) -> int:
    return total * (part + 1) // parts - total * part // parts


def _late_share(total: int, parts: int, part: int) -> int:
    """Share of the later half of the parts (the middle one included)."""
    late = parts - parts // 2
    return _share(total, late, part - parts // 2) if part >= parts // 2 else 0


def _some(moves: Iterable[Move]) -> tuple[Move, ...]:
    return tuple(move for move in moves if move.count)


def emit(regions: Sequence[Region], unit: Unit, base: str, *, stages: bool = False) -> Steps:
    """Steps of the regions; equal ones that advance by a constant number of rows become loops.

    Args:
        base: expression to add to all rows.
        stages: make a phase of each region's stage.
    """
    rows = [run.row for region in regions for run in region.macs]
    place = _one_by_one if unit.ring == 1 else _in_turn
    placed = []
    for region, steps in zip(regions, place(regions, unit), strict=True):
        first = region.macs[0].row if region.macs else rows[0]
        placed.append((first, _with_rows(steps, -first)))
    out: Steps = []
    for stage, members in groupby(range(len(placed)), lambda i: regions[i].stage if stages else ""):
        body = _loops([placed[i] for i in members], base)
        out += [{"phase": stage, "body": body}] if stage else body
    return out


def _loops(placed: Sequence[tuple[int, Steps]], base: str) -> Steps:
    """Steps with their first rows; runs of equal ones as loops."""
    out: Steps = []
    i = 0
    while i < len(placed):
        first, shape = placed[i]
        stride = placed[i + 1][0] - first if i + 1 < len(placed) else 0
        n = 1
        while i + n < len(placed) and placed[i + n] == (first + n * stride, shape):
            n += 1
        if n == 1:
            out += _with_rows(shape, first, base)
        else:
            out.append({"loop": {"j": n}, "body": _with_rows(shape, first, f"{base} + {stride}*j")})
        i += n
    return out


def _with_rows(steps: Any, shift: int, base: str = "") -> Any:
    """The steps with every row shifted, and added to the expression ``base`` where given."""
    if isinstance(steps, list):
        return [_with_rows(step, shift, base) for step in steps]
    if not isinstance(steps, dict):
        return steps
    rows = {key: _with_rows(value, shift, base) for key, value in steps.items() if key != "row"}
    if "row" in steps:
        row = steps["row"] + shift
        rows["row"] = f"{base} + {row}" if base else row
    return rows


def _one_by_one(regions: Sequence[Region], unit: Unit) -> Iterable[Steps]:
    """Each region's steps where all banks work in the same row: it is closed for the next to open."""
    current: int | None = None
    for i, region in enumerate(regions):
        coming = next((run.row for r in regions[i:] for run in r.macs), None)
        macs = _change_row(unit, current, coming)
        current = coming
        behind = max(sum(run.count for run in region.macs) - QUEUE, 0)
        sections: list[Steps] = []
        for run in region.macs:
            macs += _change_row(unit, current, run.row)
            current = run.row
            first = min(behind, run.count)
            if first:
                macs.append(_macs(unit, run, 0, first))
                behind -= first
                if not behind:
                    sections.append(macs)
                    macs = []
            if first < run.count:
                macs.append(_macs(unit, run, first, run.count - first))
        if sections:
            yield _beside(sections[0], move_steps(region.early)) + _beside(macs, move_steps(region.moves))
        else:
            yield _beside(macs, move_steps(region.early + region.moves))


def _in_turn(regions: Sequence[Region], unit: Unit) -> Iterable[Steps]:
    """Each region's steps where units visit banks in turn: under the MACs in one, the next opens."""
    everything = [run for region in regions for run in region.macs]
    is_open: dict[int, int] = {}

    def opening(run: Run | None) -> Steps:
        if run is None or is_open.get(run.bank) == run.row:
            return []
        close = [{unit.precharge: {"bank": run.bank}}] if run.bank in is_open else []
        is_open[run.bank] = run.row
        return [*close, {unit.activate: {"bank": run.bank, "row": run.row}}]

    done = 0
    for region in regions:
        if not region.macs:
            coming = everything[done] if done < len(everything) else None
            rows: Steps = opening(coming) if coming else ["PREA"]
            yield _beside(rows, move_steps(region.early + region.moves))
        steps: Steps = []
        for n, run in enumerate(region.macs):
            done += 1
            rows = opening(everything[done] if done < len(everything) else None)
            moves = move_steps(
                (region.early if n == 0 else ()) + (region.moves if n == len(region.macs) - 1 else ())
            )
            steps += _beside([_macs(unit, run, 0, run.count)], rows, moves)
        if region.macs:
            yield steps


def _change_row(unit: Unit, current: int | None, wanted: int | None) -> Steps:
    if current == wanted:
        return []
    steps: Steps = [] if current is None else [unit.precharge]
    return steps if wanted is None else [*steps, {unit.activate: {"row": wanted}}]


def _macs(unit: Unit, run: Run, skip: int, count: int) -> dict[str, Any]:
    at: dict[str, Any] = {"bank": run.bank} if unit.ring > 1 else {}
    return {unit.mac: {**at, "row": run.row, "column": f"{run.column + skip} + k"}, "repeat": {"k": count}}


def _beside(*streams: Steps) -> Steps:
    some = [stream for stream in streams if stream]
    return [{"parallel": some}] if len(some) > 1 else some[0] if some else []


def move_steps(some: Iterable[Move]) -> Steps:
    """Steps of data moves."""
    return [step for move in some for step in _move(move)]


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
            return [{"loop": {"b": move.count // RANKS}, "body": [body]}]
    body = {"MVGB": {"rank": "r", "bank_group": "g", "bank": 0}, "repeat": {"g": BANK_GROUPS}}
    steps = []
    if full:
        steps.append({"loop": {"c": full}, "body": [{"loop": {"r": RANKS}, "body": [body]}]})
    for r in range(-(-rest // BANK_GROUPS)):
        count = min(BANK_GROUPS, rest - r * BANK_GROUPS)
        steps.append({"MVGB": {"rank": r, "bank_group": "g", "bank": 0}, "repeat": {"g": count}})
    return steps
