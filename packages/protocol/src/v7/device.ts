import { record, u32, u64, type ValueOf } from "../record.ts"

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
