import { bytes, record, u8, u32, type ValueOf } from "../record.ts"

/** Bytes of connection capabilities; transport.h `RPC_CONN_CAPS_SIZE`. */
export const CONN_CAPS_SIZE_BYTES = 24

/** What a peer without RDMA sends, and the only thing this package's peers ever send. */
export const noConnCaps = (): Uint8Array => new Uint8Array(CONN_CAPS_SIZE_BYTES)

/** HELLO request; ggml-rpc.cpp `rpc_msg_hello_req`. */
export const HelloRequest = record("HelloRequest", { connCaps: bytes(CONN_CAPS_SIZE_BYTES) })
export type HelloRequest = ValueOf<typeof HelloRequest>

/**
 * What servers of this project say in HELLO's `extension`: the low four bits are a level, the others flags. A level
 * includes those below it; at level 0, upstream's, the flags mean nothing.
 */
export const HelloExtension = {
  /** What these packages speak: the flags. */
  LEVEL: 1,
  LEVEL_MASK: 0x0f,
  /** The server has no cache: it knows no weight by its hash, and hashing one for it is time lost. */
  NO_CACHE: 0x10,
  /** On every device of the server a tensor takes just its own bytes: GET_ALLOC_SIZE tells nothing new. */
  PLAIN_SIZES: 0x20,
} as const

/** HELLO response; ggml-rpc.cpp `rpc_msg_hello_rsp`. */
export const HelloResponse = record("HelloResponse", {
  major: u8,
  minor: u8,
  patch: u8,
  /** Upstream's `padding`: sent as 0 and never read. See `HelloExtension`. */
  extension: u8,
  connCaps: bytes(CONN_CAPS_SIZE_BYTES),
})
export type HelloResponse = ValueOf<typeof HelloResponse>

/** DEVICE_COUNT response; ggml-rpc.cpp `rpc_msg_device_count_rsp`. 0 makes a client drop the server. */
export const DeviceCountResponse = record("DeviceCountResponse", { deviceCount: u32 })
export type DeviceCountResponse = ValueOf<typeof DeviceCountResponse>
