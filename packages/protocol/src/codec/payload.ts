import { ProtocolError } from "../errors.ts"
import { type Fields, type RecordLayout, record, type ValueOf } from "./record.ts"

/** How a whole message payload is stored. */
export interface PayloadCodec<A> {
  readonly name: string
  /** Payload bytes at least; equal to `maxSizeBytes` for a fixed payload. */
  readonly minSizeBytes: number
  /** Payload bytes at most: `Number.MAX_SAFE_INTEGER` when only the reader's own limits bound it. */
  readonly maxSizeBytes: number
  /** From this payload offset on, the bytes are tensor data that a frame decoder streams; absent: never streamed. */
  readonly streamFrom?: number
  /** Payload bytes that `value` takes. */
  sizeOf(value: A): number
  /** Writes the payload; the view holds `sizeOf(value)` bytes at `offset`. */
  encode(value: A, view: DataView, offset: number): void
  /** Reads a payload of `sizeBytes`, already checked against the minimum and maximum. */
  decode(view: DataView, offset: number, sizeBytes: number): A
}

/** A payload that is exactly one record. */
export const fixed = <F extends Fields>(
  layout: RecordLayout<F>,
): PayloadCodec<ValueOf<RecordLayout<F>>> => ({
  name: layout.name,
  minSizeBytes: layout.size,
  maxSizeBytes: layout.size,
  sizeOf: () => layout.size,
  encode: (value, view, offset) => layout.encode(value, view, offset),
  decode: (view, offset) => layout.decode(view, offset),
})

const nothing = record("Empty", {})

/** A payload of 0 bytes. */
export const empty: PayloadCodec<ValueOf<typeof nothing>> = fixed(nothing)

/** A record followed by tensor data up to the end. A decoded `data` is a view of the payload's memory, not a copy. */
export const withData = <F extends Fields>(
  layout: RecordLayout<F>,
): PayloadCodec<ValueOf<RecordLayout<F>> & { readonly data: Uint8Array }> => ({
  name: layout.name,
  minSizeBytes: layout.size,
  maxSizeBytes: Number.MAX_SAFE_INTEGER,
  streamFrom: layout.size,
  sizeOf(value) {
    if (!(value.data instanceof Uint8Array)) {
      throw new ProtocolError({ field: `${layout.name}.data`, reason: "must be a Uint8Array" })
    }
    return layout.size + value.data.length
  },
  encode(value, view, offset) {
    layout.encode(value, view, offset)
    const start = view.byteOffset + offset + layout.size
    new Uint8Array(view.buffer, start, value.data.length).set(value.data)
  },
  decode(view, offset, sizeBytes) {
    const data = new Uint8Array(
      view.buffer,
      view.byteOffset + offset + layout.size,
      sizeBytes - layout.size,
    )
    return { ...layout.decode(view, offset), data }
  },
})

/** Tensor data alone. */
export const dataOnly: PayloadCodec<{ readonly data: Uint8Array }> = withData(
  record("TensorData", {}),
)

/** One record after the other, 1 to `maxCount`. */
export const records = <F extends Fields>(
  layout: RecordLayout<F>,
  maxCount: number,
): PayloadCodec<readonly ValueOf<RecordLayout<F>>[]> => ({
  name: `${layout.name}[]`,
  minSizeBytes: layout.size,
  maxSizeBytes: layout.size * maxCount,
  sizeOf: (values) => layout.size * values.length,
  encode(values, view, offset) {
    for (const [index, value] of values.entries()) {
      layout.encode(value, view, offset + index * layout.size)
    }
  },
  decode(view, offset, sizeBytes) {
    if (sizeBytes % layout.size !== 0) {
      const reason = `must be a multiple of ${layout.size}`
      throw new ProtocolError({ field: "payload_size", reason, value: sizeBytes })
    }
    const count = sizeBytes / layout.size
    return Array.from({ length: count }, (_, index) =>
      layout.decode(view, offset + index * layout.size),
    )
  },
})

/** A record, then others in its field `name`, 1 to `maxCount`. */
export const withRecords = <H extends Fields, N extends string, F extends Fields>(
  head: RecordLayout<H>,
  name: N,
  layout: RecordLayout<F>,
  maxCount: number,
): PayloadCodec<
  ValueOf<RecordLayout<H>> & Readonly<Record<N, readonly ValueOf<RecordLayout<F>>[]>>
> => {
  const rest = records(layout, maxCount)
  return {
    name: head.name,
    minSizeBytes: head.size + rest.minSizeBytes,
    maxSizeBytes: head.size + rest.maxSizeBytes,
    sizeOf: (value) => head.size + rest.sizeOf(value[name]),
    encode(value, view, offset) {
      head.encode(value, view, offset)
      rest.encode(value[name], view, offset + head.size)
    },
    decode: (view, offset, sizeBytes) =>
      ({
        ...head.decode(view, offset),
        [name]: rest.decode(view, offset + head.size, sizeBytes - head.size),
      }) as never,
  }
}

/**
 * A payload of an older version whose wire lacks some fields of today's value: they are left out when written, and are what
 * `absent` says when read. A field of `fixed` must have just that value, since to leave it out would change the meaning.
 */
export const lacking = <A, B extends object>(
  codec: PayloadCodec<A>,
  absent: B,
  fixed: readonly (keyof B & string)[] = [],
): PayloadCodec<A & B> => ({
  ...codec,
  encode(value, view, offset) {
    for (const field of fixed) {
      if (value[field] === absent[field]) continue
      const reason = `must be ${String(absent[field])} in this version`
      throw new ProtocolError({
        field: `${codec.name}.${field}`,
        reason,
        value: String(value[field]),
      })
    }
    codec.encode(value, view, offset)
  },
  decode: (view, offset, sizeBytes) => ({ ...absent, ...codec.decode(view, offset, sizeBytes) }),
})

/** An answer of 0 bytes, which says no more than that the request was done. */
export const acknowledgement: PayloadCodec<undefined> = {
  ...empty,
  sizeOf: () => 0,
  encode: () => {},
  decode: () => undefined,
}
