import { record, u8, u32, u64, type ValueOf } from "../../codec/record.ts"

/** ALLOC_BUFFER request; ggml-rpc.cpp `rpc_msg_alloc_buffer_req`. Size 0 is legal. */
export const AllocBufferRequest = record("AllocBufferRequest", { device: u32, sizeBytes: u64 })
export type AllocBufferRequest = ValueOf<typeof AllocBufferRequest>

/** ALLOC_BUFFER request to a server of one device; ggml-rpc.cpp `rpc_msg_alloc_buffer_req` (2.0.0). */
export const AllocOnlyBufferRequest = record("AllocOnlyBufferRequest", { sizeBytes: u64 })

/** ALLOC_BUFFER response; ggml-rpc.cpp `rpc_msg_alloc_buffer_rsp`. Out of memory: both are 0. */
export const AllocBufferResponse = record("AllocBufferResponse", {
  /** The handle of the buffer on this connection. */
  remotePtr: u64,
  /** At least what was asked for; the client uses this as the buffer's size. */
  remoteSizeBytes: u64,
})
export type AllocBufferResponse = ValueOf<typeof AllocBufferResponse>

/** The request of BUFFER_GET_BASE and FREE_BUFFER; ggml-rpc.cpp `rpc_msg_buffer_get_base_req`. */
export const BufferRequest = record("BufferRequest", { remotePtr: u64 })
export type BufferRequest = ValueOf<typeof BufferRequest>

/** BUFFER_GET_BASE response; ggml-rpc.cpp `rpc_msg_buffer_get_base_rsp`. Not 0 unless the buffer is empty. */
export const BufferGetBaseResponse = record("BufferGetBaseResponse", { basePtr: u64 })
export type BufferGetBaseResponse = ValueOf<typeof BufferGetBaseResponse>

/** BUFFER_CLEAR request; ggml-rpc.cpp `rpc_msg_buffer_clear_req`. Fills the whole buffer. */
export const BufferClearRequest = record("BufferClearRequest", { remotePtr: u64, value: u8 })
export type BufferClearRequest = ValueOf<typeof BufferClearRequest>
