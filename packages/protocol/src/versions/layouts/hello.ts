import { bytes, record, u8, u32, type ValueOf } from "../../codec/record.ts"

/** Bytes of connection capabilities; transport.h `RPC_CONN_CAPS_SIZE`. */
export const CONN_CAPS_SIZE_BYTES = 24

/** What a peer without RDMA sends, and the only thing this package's peers ever send. */
export const noConnCaps = (): Uint8Array => new Uint8Array(CONN_CAPS_SIZE_BYTES)

/** HELLO request; ggml-rpc.cpp `rpc_msg_hello_req`. */
export const HelloRequest = record("HelloRequest", { connCaps: bytes(CONN_CAPS_SIZE_BYTES) })
export type HelloRequest = ValueOf<typeof HelloRequest>

/** HELLO response; ggml-rpc.cpp `rpc_msg_hello_rsp`. */
export const HelloResponse = record("HelloResponse", {
  major: u8,
  minor: u8,
  patch: u8,
  /** Upstream's `padding`: sent as 0 and never read. See `HelloExtension` in extension.ts. */
  extension: u8,
  connCaps: bytes(CONN_CAPS_SIZE_BYTES),
})
export type HelloResponse = ValueOf<typeof HelloResponse>

/** HELLO response before connections had capabilities; ggml-rpc.cpp `rpc_msg_hello_rsp` (2.0.0). */
export const VersionResponse = record("VersionResponse", { major: u8, minor: u8, patch: u8 })

/** DEVICE_COUNT response; ggml-rpc.cpp `rpc_msg_device_count_rsp`. 0 makes a client drop the server. */
export const DeviceCountResponse = record("DeviceCountResponse", { deviceCount: u32 })
export type DeviceCountResponse = ValueOf<typeof DeviceCountResponse>
