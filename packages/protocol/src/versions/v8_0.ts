import { GraphFormat } from "../codec/graph.ts"
import { dataOnly, empty, fixed, type PayloadCodec, withData } from "../codec/payload.ts"
import type { MessageName } from "../commands.ts"
import {
  AllocBufferRequest,
  AllocBufferResponse,
  BufferClearRequest,
  BufferGetBaseResponse,
  BufferRequest,
} from "./layouts/buffer.ts"
import { CommAllReduceRequest, CommInitRequest } from "./layouts/comm.ts"
import {
  DeviceRequest,
  GetAlignmentResponse,
  GetDeviceMemoryResponse,
  GetMaxSizeResponse,
  GraphRecomputeRequest,
} from "./layouts/device.ts"
import { DeviceCountResponse, HelloRequest, HelloResponse } from "./layouts/hello.ts"
import {
  CopyTensorRequest,
  GetAllocSizeRequest,
  GetAllocSizeResponse,
  GetTensor2dRequest,
  GetTensorRequest,
  InitTensorRequest,
  MemsetTensorRequest,
  ResultResponse,
  SetTensor2dPrefix,
  SetTensorHashRequest,
  SetTensorPrefix,
} from "./layouts/tensor.ts"
import { ops101 } from "./numbering.ts"
import type { ProtocolSpec } from "./spec.ts"

/** No response at all, not even a size of 0. */
const none = null

/** Every command of 8.0.0 with its request and response payload. */
export const commands = {
  ALLOC_BUFFER: { request: fixed(AllocBufferRequest), response: fixed(AllocBufferResponse) },
  GET_ALIGNMENT: { request: fixed(DeviceRequest), response: fixed(GetAlignmentResponse) },
  GET_MAX_SIZE: { request: fixed(DeviceRequest), response: fixed(GetMaxSizeResponse) },
  BUFFER_GET_BASE: { request: fixed(BufferRequest), response: fixed(BufferGetBaseResponse) },
  FREE_BUFFER: { request: fixed(BufferRequest), response: none },
  BUFFER_CLEAR: { request: fixed(BufferClearRequest), response: none },
  SET_TENSOR: { request: withData(SetTensorPrefix), response: none },
  SET_TENSOR_HASH: { request: fixed(SetTensorHashRequest), response: fixed(ResultResponse) },
  GET_TENSOR: { request: fixed(GetTensorRequest), response: dataOnly },
  COPY_TENSOR: { request: fixed(CopyTensorRequest), response: fixed(ResultResponse) },
  GRAPH_COMPUTE: { request: new GraphFormat({ hasDevice: true, hasUid: true }), response: none },
  GET_DEVICE_MEMORY: { request: fixed(DeviceRequest), response: fixed(GetDeviceMemoryResponse) },
  INIT_TENSOR: { request: fixed(InitTensorRequest), response: none },
  GET_ALLOC_SIZE: { request: fixed(GetAllocSizeRequest), response: fixed(GetAllocSizeResponse) },
  HELLO: { request: fixed(HelloRequest), response: fixed(HelloResponse) },
  DEVICE_COUNT: { request: empty, response: fixed(DeviceCountResponse) },
  GRAPH_RECOMPUTE: { request: fixed(GraphRecomputeRequest), response: none },
  MEMSET_TENSOR: { request: fixed(MemsetTensorRequest), response: none },
  SET_TENSOR_2D: { request: withData(SetTensor2dPrefix), response: none },
  GET_TENSOR_2D: { request: fixed(GetTensor2dRequest), response: dataOnly },
  COMM_INIT: { request: fixed(CommInitRequest), response: fixed(ResultResponse) },
  COMM_ALLREDUCE: { request: fixed(CommAllReduceRequest), response: none },
  COMM_FREE: { request: fixed(DeviceRequest), response: none },
} satisfies { readonly [N in MessageName]: CommandPayloads }

interface CommandPayloads {
  readonly request: PayloadCodec<unknown>
  readonly response: PayloadCodec<unknown> | null
}

/** llama.cpp v0.6 to v0.9 (b11450, 2026-10): graphs by uid, two-dimensional transfers, sums between servers. */
export const v8_0: ProtocolSpec = {
  version: { major: 8, minor: 0, patch: 0 },
  releases: "llama.cpp v0.6 to v0.9",
  commands,
  numberings: [ops101],
  features: {
    helloCaps: true,
    deviceField: true,
    storedGraphs: "uid",
    graphStatus: false,
    computeFlag: true,
    useCount: true,
    setTensorCacheFlag: true,
    hashThresholdBytes: 10 * 1024 * 1024,
    quantizedRowMultiple: 512,
    expandingOps: ["FLASH_ATTN_EXT", "MUL_MAT", "MUL_MAT_ID", "CUMSUM", "ARGSORT", "TOP_K"],
    changedOps: [],
    narrowerOps: [],
    limits: [],
    sourceLimits: [],
    fills: [],
  },
}
