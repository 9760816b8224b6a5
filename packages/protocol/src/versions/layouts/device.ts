import { record, u8, u32, u64, type ValueOf } from "../../codec/record.ts"

/** The request of every command that names a device and nothing else. */
export const DeviceRequest = record("DeviceRequest", { device: u32 })
export type DeviceRequest = ValueOf<typeof DeviceRequest>

/** GET_ALIGNMENT response; ggml-rpc.cpp `rpc_msg_get_alignment_rsp`. A power of two. */
export const GetAlignmentResponse = record("GetAlignmentResponse", { alignmentBytes: u64 })
export type GetAlignmentResponse = ValueOf<typeof GetAlignmentResponse>

/** GET_MAX_SIZE response; ggml-rpc.cpp `rpc_msg_get_max_size_rsp`. 2^64−1 means no limit. */
export const GetMaxSizeResponse = record("GetMaxSizeResponse", { maxSizeBytes: u64 })
export type GetMaxSizeResponse = ValueOf<typeof GetMaxSizeResponse>

/** GET_DEVICE_MEMORY response; ggml-rpc.cpp `rpc_msg_get_device_memory_rsp`. Current values. */
export const GetDeviceMemoryResponse = record("GetDeviceMemoryResponse", {
  freeBytes: u64, // free_mem
  totalBytes: u64, // total_mem
})
export type GetDeviceMemoryResponse = ValueOf<typeof GetDeviceMemoryResponse>

/** GRAPH_RECOMPUTE request; ggml-rpc.cpp `rpc_msg_graph_recompute_req` (8.0.0). */
export const GraphRecomputeRequest = record("GraphRecomputeRequest", {
  device: u32,
  /** The graph of this device that GRAPH_COMPUTE stored under it. */
  uid: u64,
})
export type GraphRecomputeRequest = ValueOf<typeof GraphRecomputeRequest>

/** `ggml_status` as GRAPH_COMPUTE answered it before it became silent; ggml-rpc.cpp `rpc_msg_graph_compute_rsp`. */
export const GraphStatusResponse = record("GraphStatusResponse", {
  /** 0 success, 1 aborted, 0xFF failed, 0xFE out of memory. */
  status: u8,
})
export type GraphStatusResponse = ValueOf<typeof GraphStatusResponse>
