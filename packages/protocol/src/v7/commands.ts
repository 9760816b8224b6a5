import type { MessageName } from "../commands.ts"
import { graphCompute } from "../graph.ts"
import { dataOnly, empty, fixed, type PayloadCodec, withData } from "../payload.ts"
import {
  AllocBufferRequest,
  AllocBufferResponse,
  BufferClearRequest,
  BufferGetBaseResponse,
  BufferRequest,
} from "./buffer.ts"
import {
  DeviceRequest,
  GetAlignmentResponse,
  GetDeviceMemoryResponse,
  GetMaxSizeResponse,
} from "./device.ts"
import { DeviceCountResponse, HelloRequest, HelloResponse } from "./hello.ts"
import {
  CopyTensorRequest,
  GetAllocSizeRequest,
  GetAllocSizeResponse,
  GetTensorRequest,
  InitTensorRequest,
  MemsetTensorRequest,
  ResultResponse,
  SetTensorHashRequest,
  SetTensorPrefix,
} from "./tensor.ts"

/** No response at all, not even a size of 0. */
const none = null

/** Every command of 7.0.0 with its request and response payload. */
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
  GRAPH_COMPUTE: { request: graphCompute, response: none },
  GET_DEVICE_MEMORY: { request: fixed(DeviceRequest), response: fixed(GetDeviceMemoryResponse) },
  INIT_TENSOR: { request: fixed(InitTensorRequest), response: none },
  GET_ALLOC_SIZE: { request: fixed(GetAllocSizeRequest), response: fixed(GetAllocSizeResponse) },
  HELLO: { request: fixed(HelloRequest), response: fixed(HelloResponse) },
  DEVICE_COUNT: { request: empty, response: fixed(DeviceCountResponse) },
  GRAPH_RECOMPUTE: { request: fixed(DeviceRequest), response: none },
  MEMSET_TENSOR: { request: fixed(MemsetTensorRequest), response: none },
} satisfies { readonly [N in MessageName]: CommandPayloads }

interface CommandPayloads {
  readonly request: PayloadCodec<unknown>
  readonly response: PayloadCodec<unknown> | null
}
