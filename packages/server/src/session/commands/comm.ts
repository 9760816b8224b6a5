/**
 * COMM_INIT, COMM_ALLREDUCE and COMM_FREE: a link on which two servers add up partial results. It would make this process
 * listen on every interface, or dial wherever a client says, so the answer is no; the client then adds by itself.
 */
import { answerResult } from "../answers.ts"
import { refuse } from "../errors.ts"
import type { SessionState } from "../SessionState.ts"

const LISTENS = 0
const DIALS = 1

/** Links of one connection for which the waiting server is dialled. */
const MAX_LINKS = 4

export const commInit = (state: SessionState): void => {
  const { wire, spoken, devices } = state
  const { words, view } = wire
  const offsets = spoken.offsets.commInit
  const rank = words[offsets.rank / 4]!
  const isDevice = words[offsets.device / 4]! < devices.length
  const isLink = isDevice && words[offsets.worldSize / 4] === 2 && rank <= DIALS
  answerResult(wire, 0)
  // A client asks once for each of its contexts; more than the first few are not its business to have dialled.
  if (!isLink || rank === LISTENS || state.linkCount >= MAX_LINKS) return
  state.linkCount++
  // A server of upstream's that listens does so, with its client, until somebody dials.
  let host = ""
  for (let at = offsets.host; at < offsets.host + 64 && view.getUint8(at) !== 0; at++) {
    host += String.fromCharCode(view.getUint8(at))
  }
  state.onLink?.(host, words[offsets.port / 4]!)
}

export const commAllReduce = (state: SessionState): void => {
  const device = state.deviceIndex()
  refuse("device", "has no link to another server", device)
}

export const commFree = (state: SessionState): void => {
  state.deviceIndex()
}
