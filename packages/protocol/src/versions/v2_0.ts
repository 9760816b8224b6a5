import { GraphFormat } from "../codec/graph.ts"
import { empty, fixed, lacking } from "../codec/payload.ts"
import { AllocBufferResponse, AllocOnlyBufferRequest } from "./layouts/buffer.ts"
import {
  GetAlignmentResponse,
  GetDeviceMemoryResponse,
  GetMaxSizeResponse,
  GraphStatusResponse,
} from "./layouts/device.ts"
import { GetAllocSizeResponse, TensorAllocSizeRequest } from "./layouts/tensor.ts"
import { ops87, ops88, ops89, ops90, ops90With16Unary } from "./numbering.ts"
import { older } from "./spec.ts"
import { v3_0 } from "./v3_0.ts"
import { noSources } from "./v3_5.ts"

const firstDevice = { device: 0 }
const noDevice = lacking(empty, firstDevice, ["device"])

/** Where PAD says how much it pads before its source: came within 2.0.0 (ggml 0e2040fb); older builds pad behind it only. */
const padsBefore = [0, 2, 4, 6]

/**
 * ggml c9207d32, 2025-04-25: a server is one device. Builds before August 2025 (82 to 86 operations) have other meanings of
 * several operations, and are not among the numberings.
 */
export const v2_0 = older(v3_0, {
  version: { major: 2, minor: 0, patch: 0 },
  releases: "llama.cpp of April to October 2025",
  commands: {
    ALLOC_BUFFER: {
      request: lacking(fixed(AllocOnlyBufferRequest), firstDevice, ["device"]),
      response: fixed(AllocBufferResponse),
    },
    GET_ALIGNMENT: { request: noDevice, response: fixed(GetAlignmentResponse) },
    GET_MAX_SIZE: { request: noDevice, response: fixed(GetMaxSizeResponse) },
    GET_DEVICE_MEMORY: { request: noDevice, response: fixed(GetDeviceMemoryResponse) },
    GET_ALLOC_SIZE: {
      request: lacking(fixed(TensorAllocSizeRequest), { ...firstDevice, srcs: noSources }, [
        "device",
      ]),
      response: fixed(GetAllocSizeResponse),
    },
    GRAPH_COMPUTE: {
      request: new GraphFormat({ hasDevice: false, hasUid: false }),
      response: fixed(GraphStatusResponse),
    },
    DEVICE_COUNT: undefined,
  },
  numberings: [ops87, ops88, ops89, ops90, ops90With16Unary],
  features: {
    deviceField: false,
    limits: [
      ...v3_0.features.limits,
      ...padsBefore.map((slot) => ({
        op: "PAD" as const,
        slot,
        mask: 0xffff_ffff,
        min: 0,
        max: 0,
      })),
    ],
  },
})
