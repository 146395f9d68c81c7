"""Layout of the tables and the state that the program kernels work on.

The state that decides the future is one int64 vector of four parts:

* ``time``: absolute ticks (previous issue, buses, refresh due times, fences),
* ``word``: bank states as bit masks, mode,
* ``stat``: counters that only grow,
* ``last``: tick of the latest issue per slot (a slot: a command at a node; a window of n takes n).

Behind it lie the ticks of the stretch of commands at hand (see `program_stretch`).

Numba keeps a compiled kernel until the kernel's own file changes: after a change here or in a kernel
that another one calls, delete what it keeps (``__pycache__``, or ``NUMBA_CACHE_DIR``).
"""

from __future__ import annotations

from collections import namedtuple

NEVER = -(1 << 40)
FAR = 1 << 60
ABSENT = -(1 << 40)
WORD_BITS = 62

Tables = namedtuple("Tables", "config op term digit plan clamp host code")
"""What does not change (built by `neardata.sim.dram.program_table`): numbers; operations; terms of
affine addresses (index position, factor); digits of loop counters (index position, times); all that
is to know of each target (a command at a unit); largest gap per slot; host requests; stretches that
are laid out (by `neardata.sim.dram.program_stretch`)."""

State = namedtuple("State", "now register stream bank queue brent saved depart log stretch")
"""The vector described above; where execution stands; per stream position, indices and counts; per
bank row, opener and when; commands queued by a refresh; per loop its cycle detection and the state
it has saved; when host requests were served; the command log; what is known of each stretch."""

(K_BANKS, K_WORDS, K_UNITS, K_POLICY, K_INTERVAL, K_ROWS, K_TICKS, K_PLUS, K_LOG, K_RUNS, K_HOST_FIRST,
 K_ENTER, K_RULES, K_FENCES, K_COUNTS, K_WORD, K_STAT, K_CAUSES, K_PHASES, K_OPEN_CYCLES, K_LAST,
 K_UNIT_MASK, K_CLOSED_UNITS, K_REFRESH, K_REFRESH_STEP, K_CLOSE_ALL, K_CLOSE_ALL_STEP, K_CLOSE,
 K_CLOSE_STEP, K_OPEN, K_OPEN_STEP, K_READ, K_READ_STEP, K_WRITE, K_WRITE_STEP, K_OWED, K_TICK,
 CONFIG) = range(38)  # fmt: skip
# K_FENCES, K_WORD .. K_LAST: where parts of the state vector begin; K_COUNTS: where loop counts begin
# in a stream; K_UNIT_MASK: where the masks of refresh units begin in the plan; K_CLOSED_UNITS: refresh
# units that K_CLOSE_ALL closes; K_REFRESH ...: target of the command at unit 0 (-1: there is none), and
# from one unit's to the next; K_OWED: refreshes owed before rows are closed for them;
# K_TICK: where the ticks of a stretch's commands begin in the state vector, behind all that lasts

# kinds of operations
(ISSUE, LOOP, LOOP_END, FENCE, WAIT, UNTIL, FORK, STREAM_END, REFRESH, YIELD, SERVE, RETURN, PHASE,
 HALT) = range(14)  # fmt: skip
(O_KIND, O_TARGET, O_ROW, O_COLUMN, O_TARGET_STEP, O_ROW_STEP, O_COLUMN_STEP, O_TARGET_TERMS, O_ROW_TERMS,
 O_COLUMN_TERMS, O_TERMS_END, O_REPEAT, O_CHECK, O_RUN, O_A, O_B, O_C, O_D, O_E, O_STRETCH,
 O_WIDTH) = range(21)  # fmt: skip
# ISSUE, UNTIL: target = O_TARGET + terms + O_TARGET_STEP * repetition, row and column alike (far below
#   zero if not given); O_CHECK: its row must be the open one; O_RUN: its repetitions are alike but
#   for row and column
# ISSUE, LOOP: O_STRETCH: where the stretch that begins here is laid out; if it is not yet, less than 0:
#   -1 - its number; 0: none begins here
# LOOP: O_A..O_B: its digits; O_C: operation after its end; O_D: its level; O_E: recurrences of the
#   state after which periods are skipped (0: never)
# LOOP_END: O_A: the LOOP; O_B: how often it is run
# FORK: O_A: first operation of the first stream; O_B: streams; O_C: operation after
#   (streams follow each other, each to its STREAM_END)
# FENCE: O_A: what it waits for; O_B: plus
# WAIT: O_A: cycles
# YIELD: O_A: most requests to serve, ALL or ARRIVED
# PHASE: O_A: its number
ARRIVED, ALL = -1, -2

# a target in the plan: facts, then the bank mask, banks, slots to look back at (slot, gap, cause), slots
# to write (slot, window) and slots that keep an auto-precharge waiting (slot, gap), each from its offset
(G_COMMAND, G_UNIT, G_BUS, G_CYCLES, G_LATENCY, G_NEEDS, G_LEAVES, G_MODES, G_ENTERS, G_DATA, G_ON_ROW,
 G_EDGE, G_CLOSE_DELAY, G_BANKS, G_READS, G_WRITES, G_CLOSES, G_MASK, G_BANK, G_READ, G_WRITE, G_CLOSE,
 G_LISTS) = range(23)  # fmt: skip
CLOSED, ACTIVATING, OPEN = 1, 2, 4  # bits of G_NEEDS; G_LEAVES is one of them or 0
READS, WRITES = 1, 2  # G_DATA

# time
T_PREVIOUS, T_BUS, T_COLUMN_BUS, T_DUE = range(4)
# T_DUE + r: refresh unit r is due; then until when the last row closed in unit r was open; then, from
# K_FENCES on, for each stream: when its reads, its data and all of its commands are complete, and
# the first tick that its fences and waits allow
F_READS, F_DATA, F_ALL, F_BOUND, F_WIDTH = range(5)

# word
W_MODE, W_BANKS = range(2)
# W_BANKS + 2*w: open banks of mask word w; + 1: activating banks

# stat
S_REFRESHES, S_BUSY, S_COMMANDS = range(3)
# then causes, phases, and for each refresh unit the ticks at which its last open bank closed less those
# at which its first opened: in a period both occur equally often, so that the difference grows evenly

# stream: operation, repetition of it, why it waits, then an index per loop, then a count per level
P_PC, P_REPEAT, P_CAUSE, P_INDEX = range(4)

B_ROW, B_OPENER, B_SEQUENCE, B_WIDTH = range(4)

Q_TARGET, Q_ROW, Q_BOUND, Q_WIDTH = range(4)

H_BANK, H_ROW, H_COLUMN, H_WRITE, H_ARRIVAL, H_WIDTH = range(6)

# cycle detection: iteration of the saved state (-1: none), iterations after which it is replaced,
# recurrences in a row, their period
D_SAVED, D_POWER, D_MATCHES, D_PERIOD, D_WIDTH = range(5)

(R_PHASE, R_LOG, R_SEQUENCE, R_MIN_DUE, R_HOST, R_RETURN, R_QUANTUM, R_FORKED, R_QUEUE, R_QUEUED, R_BUDGET,
 R_ERROR, R_ERROR_BANK, R_ERROR_TICK, R_ERROR_TARGET, R_ERROR_STREAM, R_JUMPED, R_STRETCHES,
 REGISTERS) = range(19)  # fmt: skip

DONE, PAUSED, LOG_FULL, FAILED = range(4)
E_NONE, E_STATE, E_MODE, E_ROW, E_LATE, E_POINT, E_REOPEN = range(7)

NONE, ALL_BANK, DECLARED, CLOSE_REOPEN = range(4)  # K_POLICY
POSTPONED = 8  # JESD79-4 4.24: refreshes that may be owed

# what commands wait for besides the device's rules: causes numbered after the rules
FENCED, WAITED, EDGE, DUE, ARRIVAL, CAUSES = range(6)

PROGRAM, HOST, MAINTENANCE = range(3)  # where a command comes from

# a stretch, known: visits, words of the state vector at the latest visit
L_VISITS, L_STATE = range(2)
# a stretch, laid out: a head, the words before and after, its commands, then four lists:
# (to, from, plus), (to, from, plus) if later, (to, plus), (refresh unit, from, changes)
(C_NEXT, C_AGAIN, C_ISSUED, C_COMMANDS, C_LENGTH, C_COPIES, C_COMPLETIONS, C_GROWTHS, C_CHANGES,
 C_STATE) = range(10)  # fmt: skip
# C_NEXT: operation after it; C_AGAIN: is that the end of a loop of nothing else, with equal words before
# and after, where no periods are skipped? C_ISSUED: commands, repetitions counted; C_LENGTH: numbers
# that describe its commands
# a command of a stretch, or repetitions alike: then, from N_LOOKS on, N_SIZE numbers: (from, gap, cause)
N_SIZE, N_BUS, N_BUS_GAP, N_FLAGS, N_LAST, N_GAP, N_CAUSE, N_LOOKS = range(8)
# N_BUS: latest tick on its bus, if OTHER_BUS (else the command before); N_LAST: ticks to the last
# repetition; N_GAP, N_CAUSE: distance to the command before
OTHER_BUS, ON_EDGE, REFRESHABLE = 1, 2, 4  # N_FLAGS; REFRESHABLE: a refresh could go before it
CLOSES, OPENS_UNIT, CLOSES_UNIT = 1, 2, 4  # changes
