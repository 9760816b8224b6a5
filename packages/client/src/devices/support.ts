/**
 * What servers of ours say of what their devices support, node by node: the shim gathers the questions and keeps the answers
 * (packages/native/shim/ggml/remote_support.cpp). Nobody else can be asked.
 */
import { ptr } from "bun:ffi"
import { type Address, asPointer, ggml } from "@ggml-rpc/native/bindings"
import { ExtensionCommand, extensionCommands } from "@ggml-rpc/protocol"
import type { DeviceState } from "./device.ts"
import { putDeviceSupports } from "./requests.ts"

/** How nodes count that nobody asked about yet, while a model is measured; see the shim's `gs_remote_support_measure`. */
export const MeasurePhase = {
  /** Nothing is measured: a question is asked at once. */
  OVER: 0,
  /** They count as supported, and the questions gather for `askGathered`. */
  GATHERING: 1,
  /** The same model again, as far as it is known now: a question is asked at once. */
  ASKING: 2,
} as const
export type MeasurePhase = (typeof MeasurePhase)[keyof typeof MeasurePhase]

/** What a measurement found out of a device. */
export interface MeasuredSupport {
  /** How often it was found not to support a node: as a model is put onto devices, and wherever its graph is split. */
  readonly refusalCount: number
  /** An operation that it does not support and no other device can compute, as its result lies there; -1: none. */
  readonly stuckOp: number
}

/** Whether the shim may ask the server of a device. */
export const enableQuestions = ({ address, connection }: DeviceState): void => {
  const canAsk = connection.level >= extensionCommands.DEVICE_SUPPORTS.level
  ggml().gs_remote_support_enable(asPointer(address), canAsk ? 1 : 0)
}

export const setPhase = ({ address }: DeviceState, phase: MeasurePhase): void =>
  ggml().gs_remote_support_measure(asPointer(address), phase)

export const measuredSupport = ({ address }: DeviceState): MeasuredSupport => {
  const found = new Int32Array(2)
  ggml().gs_remote_support_measured(asPointer(address), found)
  return { refusalCount: found[0]!, stuckOp: found[1]! }
}

/** Asks what has gathered, all servers at once; returns of how many nodes the answer is no. */
export const askGathered = (states: ReadonlyArray<DeviceState>): number => {
  let refusedCount = 0
  for (const { state, answers, ticket } of states.flatMap(askOne)) {
    const { connection, address } = state
    connection.drainTo(ticket)
    const isThere = connection.failure === undefined
    refusedCount += ggml().gs_remote_support_answer(asPointer(address), isThere ? answers : null)
  }
  return refusedCount
}

const askOne = (state: DeviceState) => {
  const found = new Float64Array(4)
  ggml().gs_remote_support_questions(asPointer(state.address), found)
  const [nodeCount, ids, recordCount, records] = found as unknown as [
    ...[number, Address, number, Address],
  ]
  if (nodeCount === 0) return []
  const { connection, deviceIndex } = state
  putDeviceSupports(connection, deviceIndex, ids, nodeCount, records, recordCount)
  const answers = new Uint8Array(nodeCount)
  const target = ptr(answers) as Address
  const ticket = connection.expect(target, nodeCount, ExtensionCommand.DEVICE_SUPPORTS)
  return [{ state, answers, ticket }]
}
