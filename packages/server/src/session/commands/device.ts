import { answerCount, answerNumber, answerPair } from "../answers.ts"
import { refuse } from "../errors.ts"
import type { SessionState } from "../SessionState.ts"

/** The first HELLO is the session's own business. */
export const helloAgain = (): never => refuse("command", "is only allowed once, as the first")

export const deviceCount = (state: SessionState): void =>
  answerCount(state.wire, state.devices.length)

export const getAlignment = (state: SessionState): void =>
  answerNumber(state.wire, state.device().alignmentBytes)

export const getMaxSize = (state: SessionState): void =>
  answerNumber(state.wire, state.device().maxSizeBytes)

export const getDeviceMemory = (state: SessionState): void => {
  const { freeBytes, totalBytes } = state.quota.limited(state.device().memory(state.hostMemory))
  answerPair(state.wire, Math.floor(freeBytes), Math.floor(totalBytes))
}
