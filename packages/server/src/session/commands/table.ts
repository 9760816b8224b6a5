import { Command, ExtensionCommand, type ExtensionName, type MessageName } from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import type { SessionState } from "../SessionState.ts"
import { COMMAND_LIMIT } from "../spoken.ts"
import { getTensorBf16, setTensorBf16 } from "./bf16.ts"
import { allocBuffer, bufferClear, bufferGetBase, freeBuffer } from "./buffer.ts"
import { commAllReduce, commFree, commInit } from "./comm.ts"
import { deviceCount, getAlignment, getDeviceMemory, getMaxSize, helloAgain } from "./device.ts"
import { graphCompute, graphRecompute } from "./graph.ts"
import { memoryDomain } from "./host.ts"
import { linkAwait, linkDial, linkExpect, linkFree } from "./link.ts"
import { offerWeights, setTensorHash } from "./offers.ts"
import { status } from "./status.ts"
import { allReduce, allReduceDevices } from "./sums.ts"
import { deviceSupports } from "./support.ts"
import {
  copyTensor,
  getAllocSize,
  getTensor,
  initTensor,
  memsetTensor,
  setTensor,
} from "./tensor.ts"
import { getTensor2d, setTensor2d } from "./tensor2d.ts"
import { getTensorTop } from "./top.ts"

/**
 * Does one request and answers it, if the newest version answers it at all.
 *
 * @throws {ProtocolError} when the client must not ask for this
 * @throws {ComputeError} when ggml failed
 * @throws {ClientGone} when the client left
 */
export type Handler = (state: SessionState) => void

const byName: Readonly<Record<MessageName | ExtensionName, Handler>> = {
  ALLOC_BUFFER: allocBuffer,
  GET_ALIGNMENT: getAlignment,
  GET_MAX_SIZE: getMaxSize,
  BUFFER_GET_BASE: bufferGetBase,
  FREE_BUFFER: freeBuffer,
  BUFFER_CLEAR: bufferClear,
  SET_TENSOR: setTensor,
  SET_TENSOR_HASH: setTensorHash,
  GET_TENSOR: getTensor,
  COPY_TENSOR: copyTensor,
  GRAPH_COMPUTE: graphCompute,
  GET_DEVICE_MEMORY: getDeviceMemory,
  INIT_TENSOR: initTensor,
  GET_ALLOC_SIZE: getAllocSize,
  HELLO: helloAgain,
  DEVICE_COUNT: deviceCount,
  GRAPH_RECOMPUTE: graphRecompute,
  MEMSET_TENSOR: memsetTensor,
  SET_TENSOR_2D: setTensor2d,
  GET_TENSOR_2D: getTensor2d,
  COMM_INIT: commInit,
  COMM_ALLREDUCE: commAllReduce,
  COMM_FREE: commFree,
  DEVICE_SUPPORTS: deviceSupports,
  LINK_EXPECT: linkExpect,
  LINK_DIAL: linkDial,
  LINK_AWAIT: linkAwait,
  LINK_FREE: linkFree,
  ALL_REDUCE: allReduce,
  ALL_REDUCE_DEVICES: allReduceDevices,
  MEMORY_DOMAIN: memoryDomain,
  STATUS: status,
  OFFER_WEIGHTS: offerWeights,
  GET_TENSOR_BF16: getTensorBf16,
  SET_TENSOR_BF16: setTensorBf16,
  GET_TENSOR_TOP: getTensorTop,
}

const unknown: Handler = ({ wire }) => refuse("command", "is unknown", wire.command)

/** By command id. The wire lets only commands of the client's version through, and ours where they were announced. */
export const handlers: readonly Handler[] = Array.from({ length: COMMAND_LIMIT }, (_, id) => {
  const name = Object.entries({ ...Command, ...ExtensionCommand }).find(
    ([, value]) => value === id,
  )?.[0]
  return byName[name as MessageName | ExtensionName] ?? unknown
})
