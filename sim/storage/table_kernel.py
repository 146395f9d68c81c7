"""Tables that kernels reach through one array of addresses.

Handing a score of arrays from function to function costs more than the work in them, to run and to compile.
``s`` is a one-dimensional int64 array: for table k its address at 2 k, its rows at 2 k + 1, as
`neardata.sim.storage.state.addresses` writes them; the tables must stay alive and in place as long as ``s``
is in use. ``t_x(s)`` is table ``x``; columns are those of `neardata.sim.storage.fields`.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from neardata.sim.storage import fields as f


def _table(name, columns=0, dtype=types.int64, sized=False):
    """What gives table ``name`` of ``columns`` columns, or of one dimension.

    Where it is not ``sized`` its length reads 0: what Numba does for indices from the end then costs nothing.
    """
    k = f.TABLES.index(name)
    kind = types.Array(dtype, 2 if columns else 1, "C")

    @intrinsic
    def table(typing_context, s):
        def generate(context, builder, signature, arguments):
            given = make_array(signature.args[0])(context, builder, arguments[0])
            address, rows = (
                builder.load(builder.gep(given.data, [context.get_constant(types.intp, i)]))
                for i in (2 * k, 2 * k + 1)
            )
            result = make_array(kind)(context, builder)
            size = context.get_constant(types.intp, dtype.bitwidth // 8)
            if not sized:
                rows = context.get_constant(types.intp, 0)
            shape, strides = [rows], [size]
            if columns:
                shape = [rows, context.get_constant(types.intp, columns)]
                strides = [context.get_constant(types.intp, columns * dtype.bitwidth // 8), size]
            populate_array(
                result,
                data=builder.inttoptr(address, result.data.type),
                shape=cgutils.pack_array(builder, shape),
                strides=cgutils.pack_array(builder, strides),
                itemsize=size,
                meminfo=None,
            )
            return result._getvalue()

        return kind(s), generate

    return table


t_x = _table("x", f.TX_COLUMNS)
t_u = _table("u", f.UNIT_COLUMNS)
t_c = _table("c", f.CHANNEL_COLUMNS)
t_h = _table("h", 2)
t_r = _table("r", f.R_COLUMNS)
t_b = _table("b", f.BLOCK_COLUMNS)
t_pl = _table("pl", f.PLANE_COLUMNS)
t_we = _table("we", f.ENTRY_COLUMNS)
t_ce = _table("ce", f.ENTRY_COLUMNS)
t_v = _table("v", f.V_COLUMNS)
t_t = _table("t", f.T_COLUMNS)
t_p = _table("p")
t_g = _table("g")
t_done = _table("done")
t_taken = _table("taken")
t_d = _table("d")
t_m = _table("m")
t_bits = _table("bits")
t_alloc = _table("alloc")
t_stack = _table("stack")
t_types = _table("types")
t_wk = _table("wk")
t_ck = _table("ck")
t_l2p = _table("l2p", dtype=types.int32)
t_p2l = _table("p2l", dtype=types.int32)
t_wt = _table("wt", dtype=types.int32, sized=True)
t_ct = _table("ct", dtype=types.int32, sized=True)
t_seen = _table("seen", dtype=types.int32)
