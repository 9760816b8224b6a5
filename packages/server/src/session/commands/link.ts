/**
 * Links to the sessions of the same client at other servers of ours; sums.ts has what is added up over them. This process opens
 * nothing and listens for nothing: its front process connects, or takes the connection that shows a key, and hands it over.
 */
import { LinkDialRequest, LinkStatus, MAX_LINKED_SERVERS } from "@ggml-rpc/protocol"
import { answerResult } from "../answers.ts"
import { refuse } from "../errors.ts"
import { PeerGroup } from "../PeerGroup.ts"
import { FIRST_PORT, isDialable } from "../ports.ts"
import type { SessionState } from "../SessionState.ts"

const { offsets } = LinkDialRequest

/** The group of the request's link, which is made with its first one; a `LinkStatus` where this server makes no links. */
const groupOf = (state: SessionState): PeerGroup | number => {
  const { words, descriptor } = state.wire
  const rank = words[offsets.rank / 4]!
  const worldSize = words[offsets.worldSize / 4]!
  if (worldSize < 2 || worldSize > MAX_LINKED_SERVERS) {
    refuse("world_size", `must be from 2 to ${MAX_LINKED_SERVERS}`, worldSize)
  }
  if (rank >= worldSize) refuse("rank", `must be below the world size ${worldSize}`, rank)
  const peer = words[offsets.peer / 4]!
  if (peer >= worldSize || peer === rank) {
    refuse("peer", `must be another place below ${worldSize}`, peer)
  }
  const { peerLimits, askFront } = state
  if (peerLimits === undefined || askFront === undefined) return LinkStatus.OFF
  if (peerLimits.refusal !== undefined) return peerLimits.refusal
  // The process has a connection from here on that no other client may inherit.
  state.spend()
  const group = state.peerGroup
  if (group !== undefined) {
    if (group.rank !== rank) refuse("rank", `is ${group.rank} in this group`, rank)
    if (group.worldSize !== worldSize) {
      refuse("world_size", `is ${group.worldSize} in this group`, worldSize)
    }
    return group
  }
  const channel = { ...askFront, clientFd: descriptor }
  state.peerGroup = new PeerGroup(rank, worldSize, peerLimits, channel)
  return state.peerGroup
}

const keyOf = ({ wire }: SessionState): string => {
  const { buffer, byteOffset } = wire.view
  return new Uint8Array(buffer, byteOffset + offsets.key, offsets.port - offsets.key).toHex()
}

const hostOf = ({ wire }: SessionState): string => {
  const all = new Uint8Array(wire.view.buffer, wire.view.byteOffset + offsets.host, 256)
  const end = all.indexOf(0)
  return new TextDecoder().decode(end < 0 ? all : all.subarray(0, end))
}

export const linkExpect = (state: SessionState): void => {
  const group = groupOf(state)
  const peer = state.wire.words[offsets.peer / 4]!
  // Answers that wait need not wait for the front process.
  state.wire.flush()
  answerResult(state.wire, typeof group === "number" ? group : group.expect(peer, keyOf(state)))
}

export const linkDial = (state: SessionState): void => {
  const { wire } = state
  const group = groupOf(state)
  const peer = wire.words[offsets.peer / 4]!
  const port = wire.words[offsets.port / 4]!
  if (!isDialable(port)) {
    refuse("port", `must be from ${FIRST_PORT} to 65535`, port)
  }
  wire.flush()
  const status =
    typeof group === "number" ? group : group.dial(peer, keyOf(state), hostOf(state), port)
  noteLinked(state, status, peer)
  answerResult(wire, status)
}

export const linkAwait = (state: SessionState): void => {
  const { wire, peerGroup: group } = state
  const peer = wire.words[0]!
  if (group === undefined || peer >= group.worldSize || peer === group.rank) {
    refuse("peer", "is no server that this one expects", peer)
  }
  wire.flush()
  const status = group.await(peer)
  noteLinked(state, status, peer)
  answerResult(wire, status)
}

const noteLinked = ({ peerGroup, onLink }: SessionState, status: number, peer: number): void => {
  if (status === LinkStatus.DONE) onLink?.({ event: "linked", peer: peerGroup!.nameOf(peer) })
}

export const linkFree = (state: SessionState): void => {
  state.peerGroup?.close()
  state.peerGroup = undefined
}
