/** The smaller model that guesses tokens: what it is planned with, and what it leaves for the other one. */
import { type GgufFile, ggufInteger, ggufString } from "@ggml-rpc/gguf"
import { whyNoDraftFor } from "./draftVocabulary.ts"
import type { EngineDevice } from "./engine/messages.ts"
import { ModelError } from "./errors.ts"
import type { DraftModelOptions, ModelPlan, PlanOptions } from "./ModelPlan.ts"
import { sum } from "./planner/types.ts"

/** What devices, and this host, have free. */
export interface Memory {
  readonly devices: ReadonlyArray<EngineDevice>
  readonly host: EngineDevice
}

/** @throws {ModelError} for a model that cannot guess another's tokens */
export const checkDraft = (draft: GgufFile, model: GgufFile): void => {
  const detail = whyNoDraftFor(model, draft)
  if (detail !== undefined) throw new ModelError({ path: draft.path, during: "load", detail })
}

/** @throws {ModelError} for a model that does not go on with texts */
export const checkDraftContext = ({ path, context }: ModelPlan): void => {
  if (!context.embeddings && !context.wholeBatch) return
  const detail = "it does not generate text token by token, so that it cannot guess the next ones."
  throw new ModelError({ path, during: "load", detail })
}

/**
 * The options of a draft model beside those of the model itself: as many slots, a context that is no longer, and unless told
 * otherwise only devices of this host, since every guess would wait for a server.
 */
export const draftPlanOptions = (
  gguf: GgufFile,
  draft: DraftModelOptions,
  options: PlanOptions,
  memory: Memory,
): PlanOptions => {
  const { contextSize, slots, batchSize, ubatchSize, threads, flashAttention, mmap } = options
  const trained = ggufInteger(gguf, `${ggufString(gguf, "general.architecture")}.context_length`)
  const local = memory.devices.filter(({ endpoint }) => endpoint === undefined)
  return {
    ...{ slots, batchSize, ubatchSize, flashAttention, mmap, wire: options.wire },
    groups: 1,
    ...(contextSize ? { contextSize: Math.min(contextSize, trained ?? contextSize) } : {}),
    threads: draft.threads ?? threads,
    devices: draft.devices ?? local.map(({ name }) => name),
    gpuLayers: draft.gpuLayers,
    typeK: draft.typeK,
    typeV: draft.typeV,
    generatesOnly: true,
    // Its own tokens are taken back.
    speculation: {},
    headroomBytes: options.headroomBytes,
  }
}

/** Options by which a model is split just as in a plan of it. */
export const splitAs = ({ devices }: Pick<ModelPlan, "devices">): PlanOptions => {
  const unitCounts = devices.map(({ unitCount }) => unitCount)
  const gpuLayers = sum(unitCounts)
  // Proportions of nothing say nothing.
  return gpuLayers === 0 ? { gpuLayers } : { gpuLayers, tensorSplit: unitCounts }
}

/** What is left of a memory when a planned model is there; devices that share it have less, too. */
export const memoryBeside = (memory: Memory, plan: ModelPlan): Memory => {
  const taken = new Map<EngineDevice, number>()
  const all = [memory.host, ...memory.devices]
  const take = (device: EngineDevice, bytes: number): void => {
    for (const other of all) {
      const isShared =
        other === device || (device.memory !== undefined && other.memory === device.memory)
      if (isShared) taken.set(other, (taken.get(other) ?? 0) + bytes)
    }
  }
  for (const [at, { weightBytes, contextBytes, computeBytes }] of plan.devices.entries()) {
    take(memory.devices[plan.deviceIndexes[at]!]!, weightBytes + contextBytes + computeBytes)
  }
  // Its weights on this host are mapped from the file.
  const { contextBytes, computeBytes, weightBytes } = plan.host
  take(memory.host, contextBytes + computeBytes + (plan.model.mmap ? 0 : weightBytes))
  const left = (device: EngineDevice): EngineDevice => {
    const bytes = taken.get(device) ?? 0
    // Where all is free, as far as is known, that stays so.
    const { freeBytes, totalBytes } = device
    return {
      ...device,
      freeBytes: Math.max(0, freeBytes - bytes),
      totalBytes: freeBytes === totalBytes ? Math.max(0, totalBytes - bytes) : totalBytes,
    }
  }
  return { devices: memory.devices.map(left), host: left(memory.host) }
}
