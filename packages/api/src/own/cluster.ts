/** `GET /cluster`: what the model lies on, and what goes on there. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import type { Cluster, DevicePlan, DeviceUse, EngineDevice } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { askModel } from "../generate.ts"
import { type ServedModel, Serving } from "../Serving.ts"
import {
  ClusterReport,
  type ReportedDevice,
  type ReportedHost,
  type ReportedServer,
} from "./clusterReport.ts"

export const clusterEndpoint = HttpApiEndpoint.get("cluster", "/cluster").addSuccess(ClusterReport)

/** A device of the plan: what it took, and what it has free now. */
const deviceOf = (
  plan: Cluster.ModelPlan,
  { name, firstUnit, unitCount }: DevicePlan,
  use: DeviceUse,
  now: EngineDevice,
): ReportedDevice => {
  // The last unit is the output layer.
  const layerCount = plan.unitCount - 1
  return {
    name,
    endpoint: now.endpoint ?? null,
    first_layer: firstUnit,
    layer_count: Math.max(0, Math.min(firstUnit + unitCount, layerCount) - firstUnit),
    has_input: false,
    has_output: unitCount > 0 && firstUnit + unitCount === plan.unitCount,
    weight_bytes: use.weightBytes,
    context_bytes: use.contextBytes,
    compute_bytes: use.computeBytes,
    free_bytes: now.freeBytes,
    total_bytes: now.totalBytes,
    ...(now.memory === undefined ? {} : { memory: now.memory }),
  }
}

/** Without the scheme and the port of one server. */
const hostName = (endpoint: string): string => endpoint.replace(/^\w+:\/\/|:\d+$/g, "")

/** Devices by the host that they are in; several servers can run on one. */
const hostsOf = (
  servers: ReadonlyArray<ReportedServer>,
  devices: ReadonlyArray<ReportedDevice>,
): ReadonlyArray<ReportedHost> => {
  const hostOf = ({ endpoint }: ReportedDevice) => (endpoint === null ? null : hostName(endpoint))
  return [...new Set(devices.map(hostOf))].map((name) => ({
    name,
    servers: servers.filter(({ endpoint }) => hostName(endpoint) === name),
    devices: devices.filter((device) => hostOf(device) === name),
  }))
}

const serversOf = (
  { servers }: Cluster.Cluster,
  { links }: Cluster.ClusterMemory,
): ReadonlyArray<ReportedServer> =>
  servers.map((server) => {
    const link = links.find(({ endpoint }) => endpoint === server.endpoint)
    return {
      ...server,
      sent_bytes: link?.sentBytes ?? 0,
      received_bytes: link?.receivedBytes ?? 0,
    }
  })

const devicesOf = (
  { plan, breakdown }: Cluster.ClusterModel,
  memory: Cluster.ClusterMemory,
): ReadonlyArray<ReportedDevice> => [
  ...plan.devices.map((device, index) =>
    deviceOf(plan, device, breakdown.devices[index]!, memory.devices[index]!),
  ),
  { ...deviceOf(plan, plan.host, breakdown.host, memory.host), has_input: true },
]

const reportOf = (
  { model, name, cluster }: ServedModel,
  memory: Cluster.ClusterMemory,
  { slots, queuedCount }: Cluster.SlotsState,
  generatedTokenCount: number,
): ClusterReport => {
  const { loadMs, remoteWeightBytes, cachedWeightBytes } = model.stats
  return {
    model: {
      name,
      architecture: model.plan.architecture,
      size_bytes: model.plan.modelBytes,
      layer_count: model.plan.unitCount - 1,
      context_size: model.contextSize,
    },
    hosts: hostsOf(serversOf(cluster, memory), devicesOf(model, memory)),
    looked_at_ms: memory.atMs,
    load: {
      ms: loadMs,
      sent_bytes: remoteWeightBytes - cachedWeightBytes,
      cached_bytes: cachedWeightBytes,
    },
    slots: slots.map(({ slot, state, tokenCount }) => ({
      id: slot,
      state,
      token_count: tokenCount,
    })),
    queued_count: queuedCount,
    generated_token_count: generatedTokenCount,
  }
}

export const handleCluster = () =>
  Effect.gen(function* () {
    const serving = yield* Serving
    const served = yield* serving.model
    const memory = yield* askModel(() => served.memory)
    const slots = yield* askModel((model) => model.slots)
    return reportOf(served, memory, slots, serving.activity.generatedTokenCount)
  })
