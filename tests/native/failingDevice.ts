/** A device that refuses memory, as a full server does: without filling this machine's. */
import { FFIType, JSCallback, type Pointer, toArrayBuffer } from "bun:ffi"
import { type Address, asPointer, cString, ggml, loadBackends } from "@ggml-rpc/native"
import { libraryNumbering, types } from "@ggml-rpc/protocol"

export interface FailingDevice {
  readonly address: Address
  /** How many more allocations succeed. Buffers are addresses without memory: nothing is stored. */
  allow: number
  readonly close: () => void
}

/** Order and types of shim/ggml/remote_device.cpp `remote_callbacks`. */
export const failingDevice = (): FailingDevice => {
  loadBackends()
  const symbols = ggml()
  // tensor, other and 10 sources of 296 bytes; then remote_ptr, base, size, free, total.
  const exchange = symbols.gs_remote_exchange() as Pointer
  const view = new BigUint64Array(
    toArrayBuffer(exchange, 0, symbols.gs_remote_exchange_size()),
    12 * 296,
    5,
  )
  let nextBase = 2n ** 40n
  const { i32, f64, ptr } = FFIType
  const device: { allow: number } = { allow: 0 }
  const callbacks = [
    new JSCallback(
      (_index: number, sizeBytes: number) => {
        if (device.allow <= 0) return 0
        device.allow--
        view[0] = nextBase
        view[1] = nextBase
        view[2] = BigInt(sizeBytes)
        nextBase += 2n ** 36n
        return 1
      },
      { args: [i32, f64], returns: i32 },
    ),
    new JSCallback(() => {}, { args: [i32], returns: "void" }),
    new JSCallback(() => {}, { args: [i32, i32], returns: "void" }),
    new JSCallback(() => {}, { args: [i32], returns: "void" }),
    new JSCallback(() => {}, { args: [i32, i32, f64, f64], returns: "void" }),
    new JSCallback(() => {}, { args: [i32, ptr, f64, f64, i32], returns: "void" }),
    new JSCallback(() => 0, { args: [i32, ptr, f64, f64, i32], returns: f64 }),
    new JSCallback(() => 0, { args: [i32, i32], returns: i32 }),
    new JSCallback(() => 0, { args: [i32], returns: i32 }),
    new JSCallback(
      () => {
        view[3] = 2n ** 40n
        view[4] = 2n ** 40n
        return 1
      },
      { args: [i32], returns: i32 },
    ),
    new JSCallback(() => -1, { args: [i32, ptr, f64, f64], returns: i32 }),
    new JSCallback(() => {}, { args: [i32, f64], returns: "void" }),
    new JSCallback(() => {}, { args: [i32], returns: "void" }),
  ]
  symbols.gs_remote_set_callbacks(
    BigUint64Array.from(callbacks, (callback) => BigInt(Number(callback.ptr))),
  )
  const address = Number(
    symbols.gs_remote_device_new(0, 0, cString("FULL0"), cString("a full device"), 128, -1, 0, 0),
  )
  setOwnNumbers(address)
  return Object.assign(device, {
    address,
    close: () => {
      symbols.gs_remote_device_free(asPointer(address))
      for (const callback of callbacks) callback.close()
    },
  })
}

/** A device that knows every operation and type, under ggml's own numbers; shim/ggml/remote_dialect.h. */
const setOwnNumbers = (address: Address): void => {
  const { ops, unaryOps, gluOps } = libraryNumbering
  const numbers = [ops, unaryOps, gluOps].map((names) => names.map((_, id) => id))
  const typeCount = Math.max(...types.map(({ id }) => id)) + 1
  const tables = [...numbers, Array(typeCount).fill(1), Array(ops.length).fill(0)]
  ggml().gs_remote_device_set_dialect(
    asPointer(address),
    Int16Array.from(tables.flat()),
    new Uint32Array(1),
    Uint32Array.from([...tables.map(({ length }) => length), 0, 0, 1]),
  )
}
