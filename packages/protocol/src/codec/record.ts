import { ProtocolError } from "../errors.ts"

/** How one field is stored: little endian, packed, `size` bytes. */
export interface Kind<A> {
  /** Bytes on the wire. */
  readonly size: number
  /** Writes `value`; `field` is what an error calls it. The caller has checked that the bytes are there. */
  encode(value: A, view: DataView, offset: number, field?: string): void
  /** Reads the value. The caller has checked that the bytes are there. */
  decode(view: DataView, offset: number): A
}

export type Fields = { readonly [field: string]: Kind<unknown> }

/** The decoded type of a `Kind`, `RecordLayout` or payload codec. */
export type ValueOf<K> = K extends { decode(view: DataView, offset: number, size: never): infer A }
  ? A
  : never

type RecordValue<F extends Fields> = { readonly [N in keyof F]: ValueOf<F[N]> }

/** A packed C struct: fields in wire order, offsets computed from their sizes. */
export interface RecordLayout<F extends Fields> extends Kind<RecordValue<F>> {
  readonly name: string
  /** C's `sizeof`, in bytes. */
  readonly size: number
  /** Byte offset of each field from the start of the record. */
  readonly offsets: { readonly [N in keyof F]: number }
  readonly fields: F
  /** Writes all fields at `offset`. Throws `ProtocolError` when a value does not fit its field or the view is short. */
  encode(value: RecordValue<F>, view: DataView, offset?: number): void
  /** Reads all fields at `offset`. Throws `ProtocolError` when the view is short, and for nothing else. */
  decode(view: DataView, offset?: number): RecordValue<F>
}

const outOfRange = (field: string, reason: string, value: unknown): never => {
  throw new ProtocolError({ field, reason, value: describe(value) })
}

const describe = (value: unknown): string => {
  if (typeof value === "object" && value !== null) {
    return "length" in value ? `${value.length} entries` : "an object"
  }
  return String(value)
}

const integer = (
  size: number,
  min: number,
  max: number,
  get: (view: DataView, offset: number) => number,
  set: (view: DataView, offset: number, value: number) => void,
): Kind<number> => ({
  size,
  encode(value, view, offset, field = "value") {
    // DataView would wrap a number that does not fit, and the peer would act on another one.
    if (!Number.isInteger(value) || value < min || value > max) {
      outOfRange(field, `must be an integer from ${min} to ${max}`, value)
    }
    set(view, offset, value)
  },
  decode: get,
})

export const u8: Kind<number> = integer(
  1,
  0,
  0xff,
  (view, offset) => view.getUint8(offset),
  (view, offset, value) => view.setUint8(offset, value),
)

export const u32: Kind<number> = integer(
  4,
  0,
  0xffff_ffff,
  (view, offset) => view.getUint32(offset, true),
  (view, offset, value) => view.setUint32(offset, value, true),
)

export const i32: Kind<number> = integer(
  4,
  -0x8000_0000,
  0x7fff_ffff,
  (view, offset) => view.getInt32(offset, true),
  (view, offset, value) => view.setInt32(offset, value, true),
)

const U64_MAX = 0xffff_ffff_ffff_ffffn

/** A `bigint`: pointers and sizes such as 2^64−1 do not fit a number. */
export const u64: Kind<bigint> = {
  size: 8,
  encode(value, view, offset, field = "value") {
    if (typeof value !== "bigint" || value < 0n || value > U64_MAX) {
      outOfRange(field, "must be a bigint from 0 to 2^64-1", value)
    }
    view.setBigUint64(offset, value, true)
  },
  decode: (view, offset) => view.getBigUint64(offset, true),
}

/** `size` raw bytes; decoding copies them. */
export const bytes = (size: number): Kind<Uint8Array> => ({
  size,
  encode(value, view, offset, field = "value") {
    if (!(value instanceof Uint8Array) || value.length !== size) {
      outOfRange(field, `must be ${size} bytes`, value)
    }
    new Uint8Array(view.buffer, view.byteOffset + offset, size).set(value)
  },
  decode: (view, offset) =>
    new Uint8Array(view.buffer, view.byteOffset + offset, size).slice() as Uint8Array,
})

const utf8Encoder = new TextEncoder()
const utf8Decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true })

const decodeCString = (view: DataView, offset: number, size: number): string => {
  let text = ""
  for (let index = 0; index < size; index++) {
    const byte = view.getUint8(offset + index)
    if (byte === 0) return text
    if (byte >= 0x80) return decodeUtf8(view, offset, size)
    text += String.fromCharCode(byte)
  }
  return text
}

const decodeUtf8 = (view: DataView, offset: number, size: number): string => {
  const all = new Uint8Array(view.buffer, view.byteOffset + offset, size)
  const end = all.indexOf(0)
  return utf8Decoder.decode(end === -1 ? all : all.subarray(0, end))
}

/**
 * A `char[size]` that ends at the first NUL; the rest is written as zeros and ignored when read (old peers leave
 * garbage there). UTF-8: what is not valid decodes to U+FFFD, since a name only ever labels something.
 */
export const cstring = (size: number): Kind<string> => ({
  size,
  encode(value, view, offset, field = "value") {
    if (typeof value !== "string" || value.includes("\0")) {
      outOfRange(field, "must be text without NUL", value)
    }
    const encoded = utf8Encoder.encode(value)
    if (encoded.length >= size) {
      outOfRange(field, `must be at most ${size - 1} bytes of UTF-8`, value)
    }
    const target = new Uint8Array(view.buffer, view.byteOffset + offset, size)
    target.set(encoded)
    target.fill(0, encoded.length)
  },
  decode: (view, offset) => decodeCString(view, offset, size),
})

/** `length` values of one kind, back to back. */
export const array = <A>(kind: Kind<A>, length: number): Kind<readonly A[]> => ({
  size: kind.size * length,
  encode(value, view, offset, field = "value") {
    if (!Array.isArray(value) || value.length !== length) {
      outOfRange(field, `must have ${length} entries`, value)
    }
    for (let index = 0; index < length; index++) {
      kind.encode(value[index] as A, view, offset + index * kind.size, field)
    }
  },
  decode(view, offset) {
    const values: A[] = []
    for (let index = 0; index < length; index++) {
      values.push(kind.decode(view, offset + index * kind.size))
    }
    return values
  },
})

const requireBytes = (name: string, view: DataView, offset: number, size: number): void => {
  if (!Number.isInteger(offset) || offset < 0 || offset + size > view.byteLength) {
    throw new ProtocolError({
      field: name,
      reason: `needs ${size} bytes at offset ${offset}, of a view of ${view.byteLength} bytes`,
    })
  }
}

/**
 * A record from its fields in wire order. `name` appears in errors.
 *
 * Sizes and offsets are computed here, once; hand-written readers take them from `.offsets` instead of adding up.
 */
export const record = <const F extends Fields>(name: string, fields: F): RecordLayout<F> => {
  const entries: { key: string; kind: Kind<unknown>; offset: number; label: string }[] = []
  const offsets: Record<string, number> = {}
  let size = 0
  for (const [key, kind] of Object.entries(fields)) {
    offsets[key] = size
    entries.push({ key, kind, offset: size, label: `${name}.${key}` })
    size += kind.size
  }
  return {
    name,
    size,
    offsets: offsets as RecordLayout<F>["offsets"],
    fields,
    encode(value, view, offset = 0) {
      if (typeof value !== "object" || value === null) outOfRange(name, "must be an object", value)
      requireBytes(name, view, offset, size)
      const source = value as { readonly [key: string]: unknown }
      for (const entry of entries) {
        entry.kind.encode(source[entry.key], view, offset + entry.offset, entry.label)
      }
    },
    decode(view, offset = 0) {
      requireBytes(name, view, offset, size)
      const value: Record<string, unknown> = {}
      for (const entry of entries) {
        value[entry.key] = entry.kind.decode(view, offset + entry.offset)
      }
      return value as RecordValue<F>
    },
  }
}
