import { GraphFormat } from "../codec/graph.ts"
import { fixed, lacking } from "../codec/payload.ts"
import { DeviceRequest } from "./layouts/device.ts"
import { older } from "./spec.ts"
import { v8_0 } from "./v8_0.ts"

/** llama.cpp v0.5.0: one stored graph a device, without a uid. */
export const v7_0 = older(v8_0, {
  version: { major: 7, minor: 0, patch: 0 },
  releases: "llama.cpp v0.5",
  commands: {
    GRAPH_COMPUTE: {
      request: new GraphFormat({ hasDevice: true, hasUid: false }),
      response: null,
    },
    GRAPH_RECOMPUTE: { request: lacking(fixed(DeviceRequest), { uid: 0n }), response: null },
    SET_TENSOR_2D: undefined,
    GET_TENSOR_2D: undefined,
    COMM_INIT: undefined,
    COMM_ALLREDUCE: undefined,
    COMM_FREE: undefined,
  },
  features: { storedGraphs: "last" },
})
