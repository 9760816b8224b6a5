import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import { type Dialect, opId, typeId } from "@ggml-rpc/protocol"

/** The shim's `any_type`. */
const ANY_TYPE = 0xffff_ffff

/**
 * Tells the shim how the server of a device numbers operations, and which operations, parameters and types it knows: ggml's
 * scheduler then keeps the others on a device that has them.
 */
export const setDialect = (device: Address, dialect: Dialect): void => {
  const { ops, unaryOps, gluOps, knowsType, features, limits, sourceLimits } = dialect
  const expanding = new Int16Array(ops.toWire.length)
  for (const name of features.expandingOps) expanding[opId(name)] = 1
  const tables = [ops.toWire, unaryOps.toWire, gluOps.toWire, Int16Array.from(knowsType), expanding]
  const limitWords = limits.flatMap(({ op, rule }) => [
    op,
    rule.slot,
    rule.mask,
    rule.min,
    rule.max,
  ])
  const sourceLimitWords = sourceLimits.flatMap(({ op, rule: { source, type } }) => [
    ...[op, source, type === undefined ? ANY_TYPE : typeId(type)],
  ])
  const counts = [
    ...tables.map(({ length }) => length),
    ...[limits.length, sourceLimits.length, features.useCount ? 1 : 0],
    features.quantizedRowMultiple,
  ]
  ggml().gs_remote_device_set_dialect(
    asPointer(device),
    Int16Array.from(tables.flatMap((table) => [...table])),
    // An empty array has no address.
    Uint32Array.from([...limitWords, ...sourceLimitWords, 0]),
    Uint32Array.from(counts),
  )
}
