"""The kernels for products with a sparse matrix: code for Triton's compiler, not for Python's.

Tensors are addressed as ``(items, rows, features)`` by their strides, whatever their layout. Offsets into
them are int64; positions, and numbers of rows and features, are int32. No two programs write to the same
place, and sums are taken in a fixed order, so results do not change from run to run.

Source:
    Tillet, Kung and Cox, "Triton: an intermediate language and compiler for tiled neural network
    computations", MAPL 2019: the language.
"""

# mypy: ignore-errors

from lightning_sparse.layers.kernels.language import jit, tl

__all__ = ["sample", "sums", "transpose"]


@jit
def transpose(
    x,
    out,
    rows,
    columns,
    pitch,
    x_row,
    x_column,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    """Write the transpose of x, ``(columns, pitch)``, with zeros behind the last row of x."""
    blocks = tl.cdiv(columns, block_columns)
    program = tl.program_id(0)
    row = (program // blocks) * block_rows + tl.arange(0, block_rows)
    column = (program % blocks) * block_columns + tl.arange(0, block_columns)
    tile = tl.load(
        x + row.to(tl.int64)[:, None] * x_row + column.to(tl.int64)[None, :] * x_column,
        mask=(row < rows)[:, None] & (column < columns)[None, :],
        other=0.0,
    )
    tl.store(
        out + column.to(tl.int64)[:, None] * pitch + row[None, :],
        tl.trans(tile),
        mask=(column < columns)[:, None] & (row < pitch)[None, :],
    )


@jit
def sums(  # noqa: C901 (all its forms are one kernel with other constants)
    table,
    table_item,
    table_row,
    table_feature,
    out,
    out_item,
    out_row,
    out_feature,
    offset,
    offset_item,
    offset_row,
    offset_feature,
    against,
    against_item,
    against_row,
    against_feature,
    alpha,
    bias,
    products,
    starts,
    ids,
    order,
    values,
    rows,
    readable,
    bags,
    blocks_each,
    has_offset: tl.constexpr,
    has_bias: tl.constexpr,
    has_products: tl.constexpr,
    has_order: tl.constexpr,
    rows_innermost: tl.constexpr,
    turned: tl.constexpr,
    block_rows: tl.constexpr,
    block_bags: tl.constexpr,
):
    """Write ``alpha offset + S table + bias``, one bag of entries for each feature of the output.

    A program makes some blocks of outputs for one block of rows. A tile has the rows last if they are
    innermost in the table, and is turned round before it is stored if they are not in the output. For each
    program ``products`` gets the sum of ``offset * against`` over the entries that it made.
    """
    groups = tl.cdiv(tl.cdiv(bags, block_bags), blocks_each)
    row_blocks = tl.cdiv(rows, block_rows)
    program = tl.program_id(0)
    group = program % groups
    rest = program // groups
    row = (rest % row_blocks) * block_rows + tl.arange(0, block_rows)
    item = (rest // row_blocks).to(tl.int64)
    product = 0.0
    for number in range(blocks_each):
        bag = (group * blocks_each + number) * block_bags + tl.arange(0, block_bags)
        inside = bag < bags
        start = tl.load(starts + bag, mask=inside, other=0)
        count = tl.load(starts + bag + 1, mask=inside, other=0) - start
        if rows_innermost:
            total = tl.zeros([block_bags, block_rows], dtype=tl.float32)
        else:
            total = tl.zeros([block_rows, block_bags], dtype=tl.float32)
        for step in range(tl.max(count, axis=0)):
            has = step < count
            place = start + step
            feature = tl.load(ids + place, mask=has, other=0).to(tl.int64)
            if has_order:
                place = tl.load(order + place, mask=has, other=0)
            value = tl.load(values + place, mask=has, other=0.0).to(tl.float32)
            if rows_innermost:
                where = (feature * table_feature)[:, None] + row.to(tl.int64)[None, :] * table_row
                mask = has[:, None] & (row < readable)[None, :]
                found = tl.load(table + item * table_item + where, mask=mask, other=0.0)
                total += value[:, None] * found.to(tl.float32)
            else:
                where = row.to(tl.int64)[:, None] * table_row + (feature * table_feature)[None, :]
                mask = (row < readable)[:, None] & has[None, :]
                found = tl.load(table + item * table_item + where, mask=mask, other=0.0)
                total += value[None, :] * found.to(tl.float32)
        if turned:
            total = tl.trans(total)
        if rows_innermost != turned:
            r = row.to(tl.int64)[None, :]
            f = bag.to(tl.int64)[:, None]
            mask = inside[:, None] & (row < rows)[None, :]
        else:
            r = row.to(tl.int64)[:, None]
            f = bag.to(tl.int64)[None, :]
            mask = (row < rows)[:, None] & inside[None, :]
        if has_offset:
            places = offset + item * offset_item + r * offset_row + f * offset_feature
            dense = tl.load(places, mask=mask, other=0.0).to(tl.float32)
            total += tl.load(alpha).to(tl.float32) * dense
            if has_products:
                places = against + item * against_item + r * against_row + f * against_feature
                product += tl.sum(tl.sum(dense * tl.load(places, mask=mask, other=0.0).to(tl.float32), 1), 0)
        if has_bias:
            added = tl.load(bias + bag, mask=inside, other=0.0).to(tl.float32)
            if rows_innermost != turned:
                total += added[:, None]
            else:
                total += added[None, :]
        places = out + item * out_item + r * out_row + f * out_feature
        tl.store(places, total.to(out.dtype.element_ty), mask=mask)
    if has_products:
        tl.store(products + program, product)


@jit
def sample(
    grad,
    grad_item,
    grad_row,
    grad_feature,
    table,
    table_item,
    table_row,
    table_feature,
    out,
    outputs,
    inputs,
    entries,
    rows,
    items,
    blocks_each,
    rows_innermost: tl.constexpr,
    block_rows: tl.constexpr,
    block_entries: tl.constexpr,
):
    """Write sums over rows of ``grad * table`` for each entry: ``(parts, entries)``, each over some tiles."""
    entry_blocks = tl.cdiv(entries, block_entries)
    program = tl.program_id(0)
    part = program // entry_blocks
    entry = (program % entry_blocks) * block_entries + tl.arange(0, block_entries)
    inside = entry < entries
    g_feature = tl.load(outputs + entry, mask=inside, other=0).to(tl.int64) * grad_feature
    t_feature = tl.load(inputs + entry, mask=inside, other=0).to(tl.int64) * table_feature
    row_blocks = tl.cdiv(rows, block_rows)
    if rows_innermost:
        total = tl.zeros([block_entries, block_rows], dtype=tl.float32)
    else:
        total = tl.zeros([block_rows, block_entries], dtype=tl.float32)
    for number in range(part * blocks_each, tl.minimum((part + 1) * blocks_each, items * row_blocks)):
        item = (number // row_blocks).to(tl.int64)
        row = (number % row_blocks) * block_rows + tl.arange(0, block_rows)
        g_item = grad + item * grad_item
        t_item = table + item * table_item
        if rows_innermost:
            r = row.to(tl.int64)[None, :]
            mask = inside[:, None] & (row < rows)[None, :]
            g = tl.load(g_item + g_feature[:, None] + r * grad_row, mask=mask, other=0.0)
            t = tl.load(t_item + t_feature[:, None] + r * table_row, mask=mask, other=0.0)
        else:
            r = row.to(tl.int64)[:, None]
            mask = (row < rows)[:, None] & inside[None, :]
            g = tl.load(g_item + g_feature[None, :] + r * grad_row, mask=mask, other=0.0)
            t = tl.load(t_item + t_feature[None, :] + r * table_row, mask=mask, other=0.0)
        total += g.to(tl.float32) * t.to(tl.float32)
    sampled = tl.sum(total, axis=1 if rows_innermost else 0)
    places = out + part.to(tl.int64) * entries + entry
    tl.store(places, sampled.to(out.dtype.element_ty), mask=inside)
