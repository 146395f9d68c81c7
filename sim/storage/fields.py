"""Columns of the tables that the kernels work on: plain integers, known to Numba as constants."""

from __future__ import annotations

# a transaction
KIND, UNIT, DIE, PLANE, PAGE, TYPE, TYPE2, CLASS, BYTES_IN, BYTES_OUT = range(10)
COMPUTE, SLICE, RANK, LEFT, WAITS, NEXT, MATE, OWNER, SUBMITTED, ISSUED, STARTED, DONE, A, B = range(10, 24)
TX_COLUMNS = 28

READ, PROGRAM, ERASE, COPYBACK, READ_COMPUTE = range(5)

# classes of a unit's queues
MAP_READ, USER_READ, GC_READ, USER_WRITE, GC_WRITE, GC_ERASE = range(6)
CLASSES = 6

# a unit: what executes one array command at a time
STATE, GROUP, COUNT, END, REG, REG_GROUP, REG_LEFT, SUSPENDED, SUSPENDED_LEFT, GAVE_WAY = range(10)
CHANNEL, LOCAL, PHASE, LAST_OP, READY_AT, DELAY, BUSY_READ, BUSY_PROGRAM, BUSY_ERASE, BUSY_COMPUTE = range(
    10, 20
)
HEADS, TAILS = 20, 26
UNIT_COLUMNS = 32

IDLE, COMMANDED, WORKING, HOLDING, COPY_WAIT, MOVING = range(6)
EMPTY, COMPUTING, LEAVING = range(3)

# a channel
BUS, BUS_ITEM, BUS_END, TURN, CANDIDATES, OPEN, IDLE_SINCE = range(7)
OUT_HEADS, OUT_TAILS, COPY_HEAD, COPY_TAIL = 7, 11, 15, 16
BUSY_COMMAND, BUSY_IN, BUSY_OUT, LOST_NONE, LOST_READ, LOST_PROGRAM, LOST_ERASE, LOST_COMPUTE, LOST_FEW = (
    range(17, 26)
)
CHANNEL_COLUMNS = 26
RANKS = 4

BUS_IDLE, BUS_COMMAND, BUS_OUT = range(3)

# parameters
UNITS, MULTI_PLANE, SAME_PAGE, CACHE_READ, CACHE_MOVE, COMMAND_FIRST = range(6)
SUSPENDS, SUSPEND_PROGRAM, SUSPEND_ERASE, LEAST_PROGRAM, LEAST_ERASE, PER_TRANSFER, WIDTH = range(6, 13)
TWO_BYTES, OUT_SETUP, GC_FIRST, SPARE, PAGE_BYTES, DECODE, RETRIES, PLANES, CHIP_WHOLE = range(13, 22)
PARAMETERS = 22

# rows of the timing table
T_READ, T_PROGRAM, T_READ_COMMAND, T_PROGRAM_COMMAND, T_ERASE_COMMAND, T_ERASE, T_RETRY = range(7)
TIMING_ROWS = 7
T_COLUMNS = 72

# counters
HEAP, FINISHED, DIRTY, DRAWS, READ_COMMANDS, MULTI_READS, PAGES_READ, PROGRAM_COMMANDS, MULTI_PROGRAMS = (
    range(9)
)
(
    PAGES_PROGRAMMED,
    ERASES,
    MULTI_ERASES,
    COPYBACKS,
    COMPUTES,
    SUSPENSIONS,
    RETRIED,
    BYTES_OUT_SUM,
    BYTES_IN_SUM,
) = range(9, 18)
BLOCKS_ERASED = 18
SLICES = 19
BYTES_COMPUTED = 20
COUNTERS = 24

# events; at one time they happen in this order
E_BUS, E_ARRAY, E_COMPUTE, E_DECODED = range(4)
E_HOST = 4
"""First of the kinds of the drive."""
E_SHIFT = 40

NONE = -1
FAR = 1 << 62

# more of a transaction, where a drive made it
LPA, PPA, AUX, MASK = range(24, 28)
SOURCE = A
BY_HOST, BY_CACHE, BY_MAP_READ, BY_MAP_WRITE, BY_GC_READ, BY_GC_WRITE, BY_ERASE, BY_UPDATE = range(8)

# a request of the host
ARRIVE, OP, LBA, SECTORS, SENT, ENDED, ITEMS, R_NEXT = range(8)
R_LPA, R_COLUMNS = 8, 9
"""``R_LPA``: the next page of a write that waits for room in the cache."""
OP_WRITE, OP_READ, OP_TRIM = range(3)

# a block
WRITTEN, INVALID, ERASED, COLLECTED, READING, PROGRAMMING, NEXT_FREE, BORN, MOVES, ERASE_TX = range(10)
BLOCK_COLUMNS = 10

# a plane
FREE_HEAD, FREE_TAIL, FREE, DATA_FRONT, MAP_FRONT, GC_FRONT, JOBS, WAIT_HEAD, WAIT_TAIL, PENDING = range(10)
P_UNIT, P_DIE, P_PLANE, P_POSITION, MOVING_PAGES = range(10, 15)
PLANE_COLUMNS = 15
CHECK, RESUME = 1, 2

# drive parameters
D_PLANES, D_BLOCKS, D_PAGES, D_FULL, D_FILLED, D_FILL_BLOCK, D_CACHED, D_ENTRIES, D_DYNAMIC = range(9)
D_POLICY, D_CHOICES, D_THRESHOLD, D_RESERVE, D_COPYBACK, D_YOUNGEST, D_WEAR_GAP, D_CACHE = range(9, 17)
D_PRESSURE, D_RAM_FIRST, D_RAM_NUM, D_RAM_DEN, D_RAM_ROW, D_RAM_ROW_TIME, D_RAM_BURST = range(17, 24)
D_CORES, D_READ_TIME, D_WRITE_TIME, D_LATENCY, D_FETCH, D_LINK_LATENCY, D_PAYLOAD, D_OVERHEAD = range(24, 32)
D_LANES, D_LINK_NUM, D_LINK_DEN, D_DOORBELL, D_REQUEST, D_TRUNCATED = range(32, 38)
D_READ_ALLOCATES, D_MAP_LOST, D_TICKS_NS, D_DEPTH, D_STOP, D_RAM_FORMULA, D_RESET, D_LIMIT = range(41, 49)
D_EARLY_ERASE, D_MARGIN, D_WIRE_COMMAND, D_WIRE_COMPLETION, DRIVE_PARAMETERS = range(49, 54)
GREEDY, CHOICES, FIFO = range(3)

# drive counters
M_NOW, M_NEXT, M_OWED, M_INSIDE, M_UP, M_DOWN, M_RAM, M_FREE_TX, M_FREE_N, M_WAIT_HEAD, M_WAIT_TAIL = range(
    11
)
M_ENDED, M_TURN, M_SEED, M_ERROR, M_ERROR_AT, M_PRESSURE, M_STALL_HEAD, M_STALL_TAIL, M_EPOCH, M_EPOCH_END = (
    range(11, 21)
)
M_HITS, M_MISSES, M_MAP_READS, M_MAP_WRITES, M_GC_RUNS, M_GC_MOVES, M_WEAR_RUNS, M_CACHE_HITS = range(21, 29)
M_HOST_PAGES, M_UPDATE_READS, M_UP_BUSY, M_DOWN_BUSY, M_RAM_BUSY, M_CORE_BUSY, M_BIRTHS, M_VERSION = range(
    29, 37
)
M_STACK, M_SECTORS_READ, M_SECTORS_WRITTEN, M_TRIMMED, M_LAST, M_GC_DROPPED, M_MIDDLE, M_WAITING = range(
    37, 45
)
DRIVE_COUNTERS = 48
CORES_AT = 48
"""Counters from here on: when each core is free."""

# an entry of a cache with least-recently-used order
KEY, PREV, SUCC, STATUS, BITS, VERSION = range(6)
ENTRY_COLUMNS = 6
L_COUNT, L_HEAD, L_TAIL, L_FREE = range(4)
WAITING, CLEAN, DIRTY_ENTRY = range(3)

# translation pages
V_PPA, V_HEAD, V_TAIL, V_STATE = range(4)
V_COLUMNS = 4
V_READING, V_DEPARTING = 1, 2

E_RAM, E_EVICT, E_DOORBELL, E_FETCH, E_COMMAND, E_ASK, E_DATA, E_ENDED = range(4, 12)

GONE = -(1 << 31)
"""In the table from physical to logical pages: no longer valid."""

RAN, WANTS_REQUESTS, WANTS_ROOM, FAILED, STOPPED = range(5)

TABLES = (
    "x",
    "u",
    "c",
    "h",
    "r",
    "b",
    "pl",
    "we",
    "ce",
    "v",
    "t",
    "p",
    "g",
    "done",
    "taken",
    "d",
    "m",
    "bits",
    "alloc",
    "stack",
    "types",
    "wk",
    "ck",
    "l2p",
    "p2l",
    "wt",
    "ct",
    "seen",
)
"""In the order of their addresses."""
H_ROWS, WE_ROWS, CE_ROWS = (2 * TABLES.index(name) + 1 for name in ("h", "we", "ce"))
"""Where among the addresses a table's rows are told."""
