import { array, record, u8, u32, u64, type ValueOf } from "../../codec/record.ts"
import { RpcTensor } from "../../codec/tensor.ts"

/** SET_TENSOR request before its data; ggml-rpc.cpp `serialize_set_tensor` (7.0.0). 305 bytes, then the data to the end. */
export const SetTensorPrefix = record("SetTensorPrefix", {
  tensor: RpcTensor,
  /** Not 0: the server may keep the data in its cache. Since 7.0.0. */
  cacheFlag: u8,
  /** Where in the tensor the data goes. */
  offsetBytes: u64,
})
export type SetTensorPrefix = ValueOf<typeof SetTensorPrefix>

/** The same without a cache flag; ggml-rpc.cpp `rpc_msg_set_tensor_req` (6.0.0). 304 bytes, then the data. */
export const UnflaggedSetTensorPrefix = record("UnflaggedSetTensorPrefix", {
  tensor: RpcTensor,
  offsetBytes: u64,
})

/** SET_TENSOR_HASH request; ggml-rpc.cpp `rpc_msg_set_tensor_hash_req`. */
export const SetTensorHashRequest = record("SetTensorHashRequest", {
  tensor: RpcTensor,
  offsetBytes: u64,
  /** FNV-1a-64 of exactly the bytes that SET_TENSOR would carry. */
  hash: u64,
})
export type SetTensorHashRequest = ValueOf<typeof SetTensorHashRequest>

/**
 * The response of SET_TENSOR_HASH and COPY_TENSOR; ggml-rpc.cpp `rpc_msg_set_tensor_hash_rsp`, `rpc_msg_copy_tensor_rsp`.
 * 1 done, 0 not done: the client then moves the bytes itself.
 */
export const ResultResponse = record("ResultResponse", { result: u8 })
export type ResultResponse = ValueOf<typeof ResultResponse>

/** GET_TENSOR request; ggml-rpc.cpp `rpc_msg_get_tensor_req`. */
export const GetTensorRequest = record("GetTensorRequest", {
  tensor: RpcTensor,
  offsetBytes: u64,
  sizeBytes: u64,
})
export type GetTensorRequest = ValueOf<typeof GetTensorRequest>

/** COPY_TENSOR request; ggml-rpc.cpp `rpc_msg_copy_tensor_req`. Both tensors are on this server. */
export const CopyTensorRequest = record("CopyTensorRequest", { src: RpcTensor, dst: RpcTensor })
export type CopyTensorRequest = ValueOf<typeof CopyTensorRequest>

/** INIT_TENSOR request; ggml-rpc.cpp `rpc_msg_init_tensor_req`. */
export const InitTensorRequest = record("InitTensorRequest", { tensor: RpcTensor })
export type InitTensorRequest = ValueOf<typeof InitTensorRequest>

/** GET_ALLOC_SIZE request; ggml-rpc.cpp `rpc_msg_get_alloc_size_req`. Absent sources are `ABSENT_TENSOR`. */
export const GetAllocSizeRequest = record("GetAllocSizeRequest", {
  device: u32,
  tensor: RpcTensor,
  srcs: array(RpcTensor, 10),
})
export type GetAllocSizeRequest = ValueOf<typeof GetAllocSizeRequest>

/** GET_ALLOC_SIZE request without sources; ggml-rpc.cpp `rpc_msg_get_alloc_size_req` (3.5.0). */
export const SourcelessAllocSizeRequest = record("SourcelessAllocSizeRequest", {
  device: u32,
  tensor: RpcTensor,
})

/** GET_ALLOC_SIZE request to a server of one device; ggml-rpc.cpp `rpc_msg_get_alloc_size_req` (2.0.0). */
export const TensorAllocSizeRequest = record("TensorAllocSizeRequest", { tensor: RpcTensor })

/** GET_ALLOC_SIZE response; ggml-rpc.cpp `rpc_msg_get_alloc_size_rsp`. */
export const GetAllocSizeResponse = record("GetAllocSizeResponse", { allocSizeBytes: u64 })
export type GetAllocSizeResponse = ValueOf<typeof GetAllocSizeResponse>

/** MEMSET_TENSOR request; ggml-rpc.cpp `rpc_msg_memset_tensor_req`. */
export const MemsetTensorRequest = record("MemsetTensorRequest", {
  tensor: RpcTensor,
  offsetBytes: u64,
  sizeBytes: u64,
  value: u8,
})
export type MemsetTensorRequest = ValueOf<typeof MemsetTensorRequest>

const runs = {
  tensor: RpcTensor,
  /** Where in the tensor the first run begins. */
  offsetBytes: u64,
  /** Bytes of each run. */
  sizeBytes: u64,
  runCount: u64, // n_copies
  /** From the start of one run to the start of the next; may be less than its size. */
  strideBytes: u64,
}

/** SET_TENSOR_2D request before its data, whose runs lie packed; ggml-rpc.cpp `serialize_set_tensor_2d` (8.0.0). */
export const SetTensor2dPrefix = record("SetTensor2dPrefix", runs)
export type SetTensor2dPrefix = ValueOf<typeof SetTensor2dPrefix>

/** GET_TENSOR_2D request; ggml-rpc.cpp `rpc_msg_get_tensor_2d_req` (8.0.0). The answer holds the runs, packed. */
export const GetTensor2dRequest = record("GetTensor2dRequest", runs)
export type GetTensor2dRequest = ValueOf<typeof GetTensor2dRequest>
