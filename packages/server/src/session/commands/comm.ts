/**
 * COMM_INIT, COMM_ALLREDUCE and COMM_FREE: a link on which two servers add up partial results. It makes this process listen,
 * or dial wherever a client says: unless `--allow-comm` says otherwise the answer is no, and the client adds by itself.
 */
import { asPointer } from "@ggml-rpc/native/bindings"
import { answerResult } from "../answers.ts"
import { CommLink } from "../CommLink.ts"
import { LinkError, refuse } from "../errors.ts"
import type { SessionBuffer } from "../memory/buffers.ts"
import { isDialable } from "../ports.ts"
import type { SessionState } from "../SessionState.ts"
import {
  BF16_BYTES,
  F32_BYTES,
  floatsAt,
  halvesAt,
  PART_ELEMENTS,
  partialElements,
} from "./partial.ts"

const LISTENS = 0
const DIALS = 1

/** Links of one connection that are made, or for which the waiting server is dialled. */
const MAX_LINKS = 4

/** From so many elements on partial results travel as bf16; ggml-rpc.cpp (8.0.0). */
const BF16_FROM = 32768

export const commInit = (state: SessionState): void => {
  const { wire, spoken, devices } = state
  const { words } = wire
  const offsets = spoken.offsets.commInit
  const device = words[offsets.device / 4]!
  const rank = words[offsets.rank / 4]!
  if (state.commLinks.has(device)) {
    answerResult(wire, 1)
    return
  }
  const isLink = device < devices.length && words[offsets.worldSize / 4] === 2 && rank <= DIALS
  // A client asks once for each of its contexts; more than the first few are not its business.
  const isWanted = isLink && state.commCount++ < MAX_LINKS
  if (isWanted && state.commLimits !== undefined) {
    answerResult(wire, makeLink(state, device, rank === LISTENS) ? 1 : 0)
    return
  }
  answerResult(wire, 0)
  if (!isWanted || rank === LISTENS) return
  // A server of upstream's that listens does so, with its client, until somebody dials.
  state.onLink?.({ event: "link", host: hostOf(state), port: words[offsets.port / 4]! })
}

/** The name of the other server that the client gives to the one that dials. */
const hostOf = ({ wire, spoken }: SessionState): string => {
  let host = ""
  const start = spoken.offsets.commInit.host
  for (let at = start; at < start + 64 && wire.view.getUint8(at) !== 0; at++) {
    host += String.fromCharCode(wire.view.getUint8(at))
  }
  return host
}

/** Whether the link came about; the log says with whom, or why not. */
const makeLink = (state: SessionState, device: number, listens: boolean): boolean => {
  const { wire, spoken } = state
  const limits = state.commLimits!
  const port = wire.words[spoken.offsets.commInit.port / 4]!
  try {
    if (!isDialable(port)) throw new LinkError(`port ${port} is not for this`)
    // Answers that wait need not wait for the other server.
    wire.flush()
    const link = listens
      ? CommLink.listen(wire.descriptor, port, limits)
      : CommLink.dial(hostOf(state), port, limits)
    state.commLinks.set(device, link)
    state.spend()
    state.onLink?.({ event: "linked", peer: link.peer })
    return true
  } catch (error) {
    if (!(error instanceof LinkError)) throw error
    state.onLink?.({ event: "unlinked", reason: error.message })
    return false
  }
}

export const commFree = (state: SessionState): void => {
  const device = state.deviceIndex()
  state.commLinks.get(device)?.close()
  state.commLinks.delete(device)
}

export const commAllReduce = (state: SessionState): void => {
  const { wire } = state
  const device = state.deviceIndex()
  const link = state.commLinks.get(device)
  if (link === undefined) refuse("device", "has no link to another server", device)
  const record = state.spoken.offsets.commAllReduce.tensor
  const buffer = state.takeTensor(record, "tensor", "required")!
  const count = partialElements(state, record)
  if (count === 0) return
  wire.flush()
  exchange(state, link, buffer, count)
}

const exchange = (
  state: SessionState,
  link: CommLink,
  buffer: SessionBuffer,
  count: number,
): void => {
  const sizeBytes = count * (count < BF16_FROM ? F32_BYTES : BF16_BYTES)
  if (sizeBytes > link.blockBytes && !state.hostMemory.hasRoomFor(sizeBytes)) {
    refuse("tensor.ne", "makes a result that this machine has no memory for now", sizeBytes)
  }
  const received = link.block(sizeBytes)
  if (link.sendsFirst) sendOwn(state, link, buffer, count)
  link.receive(received, sizeBytes)
  if (!link.sendsFirst) sendOwn(state, link, buffer, count)
  addReceived(state, buffer, count, received)
}

/** Sends this device's partial result, in pieces. */
const sendOwn = (
  state: SessionState,
  link: CommLink,
  buffer: SessionBuffer,
  count: number,
): void => {
  const tensorAt = state.spoken.offsets.commAllReduce.tensor
  const converted = halvesAt(state)
  for (let done = 0; done < count; done += PART_ELEMENTS) {
    const part = Math.min(count - done, PART_ELEMENTS)
    const own = floatsAt(state, tensorAt, buffer, done * F32_BYTES, part)
    if (count < BF16_FROM) {
      link.send(own, part * F32_BYTES)
    } else {
      state.ggml.gs_bf16_from_f32(asPointer(converted), asPointer(own), part)
      link.send(converted, part * BF16_BYTES)
    }
  }
}

/** Adds what came to this device's partial result, which is exact: of large ones the two servers keep different sums. */
const addReceived = (
  state: SessionState,
  buffer: SessionBuffer,
  count: number,
  received: number,
): void => {
  const { ggml, spoken, wire } = state
  const tensorAt = spoken.offsets.commAllReduce.tensor
  for (let done = 0; done < count; done += PART_ELEMENTS) {
    const part = Math.min(count - done, PART_ELEMENTS)
    const own = floatsAt(state, tensorAt, buffer, done * F32_BYTES, part)
    if (count < BF16_FROM) {
      ggml.gs_add_f32(asPointer(own), asPointer(received + done * F32_BYTES), part)
    } else {
      ggml.gs_add_bf16(asPointer(own), asPointer(received + done * BF16_BYTES), part)
    }
    if (buffer.isHost) continue
    const record = asPointer(wire.requestAddress + tensorAt)
    ggml.gs_tensor_set(record, asPointer(own), done * F32_BYTES, part * F32_BYTES)
  }
}
