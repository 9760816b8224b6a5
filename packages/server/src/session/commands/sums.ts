/** Sums of partial results: of devices of this server, and of others over the links of link.ts. */
import { asPointer } from "@ggml-rpc/native/bindings"
import {
  AllReduceDevicesHead,
  AllReduceFlag,
  AllReduceRequest,
  MAX_LINKED_SERVERS,
  MAX_PARTS,
  RpcTensor,
} from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import type { PeerGroup } from "../PeerGroup.ts"
import { type SessionState, STAGING_BYTES } from "../SessionState.ts"
import { F32_BYTES, partialElements } from "./partial.ts"

/**
 * Elements that are added up at once, on every server, whatever its devices are: what is read from one that is no host's. Of several
 * devices of a server the parts share the room.
 */
const PART_ELEMENTS = STAGING_BYTES / F32_BYTES

/** @throws {ProtocolError} where the group lacks a link */
const completeGroup = ({ peerGroup: group }: SessionState): PeerGroup => {
  if (group === undefined) refuse("group", "is not linked: no server was asked for")
  if (!group.isComplete) refuse("group", "lacks the link to server number", group.missing)
  return group
}

/** @throws {ProtocolError} when there is no memory to add up so many floats */
const reserve = (
  { hostMemory }: SessionState,
  group: PeerGroup,
  count: number,
  own: number,
  parts: number,
): void => {
  const workBytes = group.workBytes(count, own, parts)
  if (workBytes <= group.grantedBytes) return
  if (!hostMemory.hasRoomFor(workBytes)) {
    refuse("tensor.ne", "makes a sum that this machine has no memory for now", workBytes)
  }
  group.grantedBytes = workBytes
}

/** ALL_REDUCE: a part of each server. */
export const allReduce = (state: SessionState): void => {
  const { wire, tensor, ggml } = state
  const group = completeGroup(state)
  const flags = wire.words[AllReduceRequest.offsets.flags / 4]!
  if (flags > (AllReduceFlag.COUNTS | AllReduceFlag.BF16)) {
    refuse("flags", "must be of those that there are", flags)
  }
  const counts = (flags & AllReduceFlag.COUNTS) !== 0
  const isBf16 = (flags & AllReduceFlag.BF16) !== 0
  const tensorAt = AllReduceRequest.offsets.tensor
  const buffer = state.takeTensor(tensorAt, "tensor", "required")!
  const count = partialElements(state, tensorAt)
  if (count === 0) return
  reserve(state, group, count, 1, group.worldSize)
  // Nobody waits for answers that the others have to come before.
  wire.flush()
  const counting = counts ? 1 << group.rank : 0
  const record = asPointer(wire.requestAddress + tensorAt)
  for (let done = 0; done < count; done += PART_ELEMENTS) {
    const part = Math.min(count - done, PART_ELEMENTS)
    const at = done * F32_BYTES
    if (buffer.isHost) {
      const data = buffer.nativeBase + tensor.dataOffsetBytes + at
      group.allReduce(data, part, group.onePartEach, group.worldSize, counting, isBf16)
      continue
    }
    const staging = state.stagingAddress()
    if (counts) ggml.gs_tensor_get(record, asPointer(staging), at, part * F32_BYTES)
    group.allReduce(staging, part, group.onePartEach, group.worldSize, counting, isBf16)
    ggml.gs_tensor_set(record, asPointer(staging), at, part * F32_BYTES)
  }
}

/**
 * What ALL_REDUCE_DEVICES says before its tensors. There is one, as a session is asked for a sum several times in every layer of a token.
 */
class DevicesHead {
  isBf16 = false
  partCount = 0
  /** By part, in the order in which they are added up. */
  readonly places = new Uint8Array(MAX_PARTS)
  counting = 0
  /** Bit i: this server's part i counts, of its own alone. */
  ownCounting = 0
  ownCount = 0
  /** Most parts of one server: how much is added up at once depends on it. */
  mostOfOne = 0
  /** By server: its parts. */
  readonly #counts = new Uint8Array(MAX_LINKED_SERVERS)

  /**
   * Reads that of the request; returns the group. Without one all parts are this server's.
   *
   * @throws {ProtocolError}
   */
  read(state: SessionState): PeerGroup | undefined {
    const { words } = state.wire
    const { offsets } = AllReduceDevicesHead
    const flags = words[offsets.flags / 4]!
    if ((flags & ~AllReduceFlag.BF16) !== 0) {
      refuse("flags", "must be of those that there are", flags)
    }
    this.isBf16 = flags !== 0
    const serverCount = words[offsets.serverCount / 4]!
    if (serverCount < 1 || serverCount > MAX_LINKED_SERVERS) {
      refuse("server_count", `must be from 1 to ${MAX_LINKED_SERVERS}`, serverCount)
    }
    const group = serverCount === 1 ? undefined : completeGroup(state)
    if (group !== undefined && group.worldSize !== serverCount) {
      refuse("server_count", `is ${group.worldSize} in this group`, serverCount)
    }
    this.partCount = words[offsets.partCount / 4]!
    if (this.partCount < 2 || this.partCount > MAX_PARTS) {
      refuse("part_count", `must be from 2 to ${MAX_PARTS}`, this.partCount)
    }
    this.counting = words[offsets.counting / 4]!
    this.#place(state, serverCount, group?.rank ?? 0)
    return group
  }

  #place({ wire }: SessionState, serverCount: number, rank: number): void {
    const counts = this.#counts.fill(0)
    this.ownCounting = 0
    for (let part = 0; part < this.partCount; part++) {
      const place = wire.view.getUint8(AllReduceDevicesHead.offsets.places + part)
      if (place >= serverCount) refuse("places", `must be below ${serverCount}`, place)
      if (place === rank) this.ownCounting |= ((this.counting >>> part) & 1) << counts[place]!
      this.places[part] = place
      counts[place]!++
    }
    this.mostOfOne = 0
    for (let server = 0; server < serverCount; server++) {
      const count = counts[server]!
      if (count === 0) refuse("places", "name no part of server number", server)
      this.mostOfOne = Math.max(this.mostOfOne, count)
    }
    this.ownCount = counts[rank]!
  }
}

const head = new DevicesHead()

/** ALL_REDUCE_DEVICES: a part of each device, of which a server may have several. */
export const allReduceDevices = (state: SessionState): void => {
  const { wire, ggml } = state
  wire.take(wire.requestAddress, wire.sizeBytes)
  const group = head.read(state)
  const { isBf16, partCount, places, counting, ownCounting, ownCount, mostOfOne } = head
  const tensorBytes = wire.sizeBytes - AllReduceDevicesHead.size
  if (tensorBytes !== ownCount * RpcTensor.size) {
    refuse("payload_size", `must have ${ownCount} tensors, as many as parts`, wire.sizeBytes)
  }
  const count = takeParts(state, ownCount)
  if (count === 0) return
  if (group !== undefined) reserve(state, group, count, ownCount, partCount)
  wire.flush()
  const staging = state.stagingAddress()
  const atOnce = Math.floor(PART_ELEMENTS / mostOfOne)
  for (let done = 0; done < count; done += atOnce) {
    const size = Math.min(count - done, atOnce)
    const offset = done * F32_BYTES
    const sizeBytes = size * F32_BYTES
    for (let own = 0; own < ownCount; own++) {
      if (((ownCounting >> own) & 1) === 0) continue
      const row = asPointer(staging + own * sizeBytes)
      ggml.gs_tensor_get(recordAt(state, own), row, offset, sizeBytes)
    }
    if (group === undefined) ggml.gs_add_parts(asPointer(staging), ownCount, size, ownCounting)
    else group.allReduce(staging, size, places, partCount, counting, isBf16)
    for (let own = 0; own < ownCount; own++) {
      ggml.gs_tensor_set(recordAt(state, own), asPointer(staging), offset, sizeBytes)
    }
  }
}

const tensorAt = (own: number): number => AllReduceDevicesHead.size + own * RpcTensor.size

const recordAt = ({ wire }: SessionState, own: number) =>
  asPointer(wire.requestAddress + tensorAt(own))

/** Takes this server's tensors; their elements, of which all have as many. */
const takeParts = (state: SessionState, ownCount: number): number => {
  let count = 0
  for (let own = 0; own < ownCount; own++) {
    state.takeTensor(tensorAt(own), "tensor", "required")
    const elements = partialElements(state, tensorAt(own))
    if (own > 0 && elements !== count) {
      refuse("tensor.ne", `must have ${count} elements, as the first one`, elements)
    }
    count = elements
  }
  return count
}
