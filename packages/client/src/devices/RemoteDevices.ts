/**
 * The devices of remote servers as ggml devices of this process: libllama runs on them as on any GPU. What
 * ggml asks of them is in DeviceOperations.ts.
 */
import type { JSCallback } from "bun:ffi"
import { type Address, asPointer, cString, ggml } from "@ggml-rpc/native/bindings"
import { Command, extensionCommands, formatVersion, MAX_TOP_ROW } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { DeviceSpeed, LinkSpeed, LinkTraffic } from "../engine/messages.ts"
import { type ClusterError, deviceCountError } from "../errors.ts"
import type { LackingServer } from "../lacking.ts"
import type { SumsBy } from "./DeviceGroups.ts"
import { DeviceOperations, makeCallbacks, readMemory } from "./DeviceOperations.ts"
import { type DeviceMemory, type DeviceState, newDeviceState, type RemoteDevice } from "./device.ts"
import { type MeasuredSpeed, measureDevice } from "./deviceSpeed.ts"
import { setDialect } from "./dialectTables.ts"
import { Exchange } from "./Exchange.ts"
import { forgetGraphs } from "./graphs.ts"
import { KeptSpeeds } from "./KeptSpeeds.ts"
import { measureLink } from "./linkSpeed.ts"
import { awaitFence, putFence } from "./requests.ts"
import {
  askGathered,
  enableQuestions,
  type MeasuredSupport,
  MeasurePhase,
  measuredSupport,
  setPhase,
} from "./support.ts"
import { comingWeights, WeightUpload } from "./WeightUpload.ts"

const NO_LIMIT = 2n ** 64n - 1n

/** Before there was such a question, a server was one device. */
const countDevices = (connection: RpcConnection): number | undefined =>
  connection.dialect.has("DEVICE_COUNT")
    ? connection.call(Command.DEVICE_COUNT, {})?.deviceCount
    : 1

/** Which memory a device draws from, where the server tells; with its own name, which it tells at the same time. */
const askDomain = (connection: RpcConnection, device: number): string | undefined => {
  if (connection.level < extensionCommands.MEMORY_DOMAIN.level) return undefined
  const told = connection.callExtension("MEMORY_DOMAIN", { device })
  connection.serverName = told?.server.toHex()
  return told?.domain.toHex()
}

export interface ComputeSpeeds {
  readonly devices: ReadonlyArray<DeviceSpeed>
  readonly unlinked?: string
  /** All servers can be sent activations as bf16. */
  readonly speakBf16: boolean
}

export class RemoteDevices {
  readonly devices: ReadonlyArray<RemoteDevice>
  readonly weights: WeightUpload
  private readonly connections: ReadonlyArray<RpcConnection>
  private readonly states: Array<DeviceState> = []
  private readonly operations: DeviceOperations
  private readonly callbacks: ReadonlyArray<JSCallback>
  private linkSpeeds: ReadonlyArray<LinkSpeed> = []
  /** What succeeded of `computeSpeeds`. */
  private readonly knownSpeeds = new Map<DeviceState, MeasuredSpeed>()
  /** Whether the servers of these devices could be linked. */
  private linking:
    | { readonly of: ReadonlyArray<DeviceState>; readonly unlinked?: string }
    | undefined

  /**
   * Makes a ggml device for every device of every server, in the given order.
   *
   * Opened connections are taken over; `close` frees the devices, not the connections.
   */
  constructor(connections: ReadonlyArray<RpcConnection>) {
    const exchange = new Exchange()
    this.weights = new WeightUpload(exchange, () => comingWeights(exchange, this.states))
    this.operations = new DeviceOperations(this.states, exchange, this.weights)
    this.callbacks = makeCallbacks(this.operations)
    ggml().gs_remote_set_callbacks(
      BigUint64Array.from(this.callbacks, (callback) => BigInt(callback.ptr as Address)),
    )
    this.connections = connections
    for (const connection of connections) connection.peers = connections
    connections.forEach((connection, connectionIndex) => {
      const count = countDevices(connection)
      if (count === undefined) return
      if (connection.lacksCache) this.weights.expectNoCache(connection)
      connection.failure = deviceCountError(connection.endpoint, count)
      if (connection.failure !== undefined) return
      for (let deviceIndex = 0; deviceIndex < count; deviceIndex++) {
        this.addDevice(connection, connectionIndex, deviceIndex)
      }
    })
    this.devices = this.states
  }

  /** As `RpcConnection.beginWork`, of every connection. */
  beginWork(silenceMs = 0): void {
    for (const [place, connection] of this.connections.entries()) {
      connection.place = place
      connection.beginWork(silenceMs)
    }
  }

  private addDevice(connection: RpcConnection, connectionIndex: number, deviceIndex: number): void {
    const alignment = connection.call(Command.GET_ALIGNMENT, { device: deviceIndex })
    const maxSize = connection.call(Command.GET_MAX_SIZE, { device: deviceIndex })
    if (alignment === undefined || maxSize === undefined) return
    const domain = askDomain(connection, deviceIndex)
    const name = `RPC${this.states.length}`
    const address = ggml().gs_remote_device_new(
      this.states.length,
      connectionIndex,
      cString(name),
      // What libllama names in its errors; see engineEnd.ts.
      cString(`${connection.endpoint}, protocol ${formatVersion(connection.dialect.version)}`),
      Number(alignment.alignmentBytes),
      maxSize.maxSizeBytes === NO_LIMIT ? -1 : Number(maxSize.maxSizeBytes),
      connection.hasPlainSizes ? 1 : 0,
      connection.findsTop ? MAX_TOP_ROW : 0,
    ) as Address
    setDialect(address, connection.dialect)
    const state = newDeviceState(
      { address, name, deviceIndex, domain },
      connection,
      connectionIndex,
    )
    enableQuestions(state)
    this.states.push(state)
  }

  /** Frees the ggml devices; every model and context on them must be gone. */
  close(): void {
    for (const state of this.states) ggml().gs_remote_device_free(asPointer(state.address))
    for (const callback of this.callbacks) callback.close()
  }

  /** The first thing that went wrong on any connection, or with remote memory since `clearMemoryFailure`. */
  get failure(): ClusterError | undefined {
    for (const { failure } of this.connections) if (failure !== undefined) return failure
    return this.operations.memoryFailure
  }

  /** What has crossed each connection. */
  links(): ReadonlyArray<LinkTraffic> {
    return this.connections.map(({ endpoint, traffic }) => ({ endpoint, ...traffic }))
  }

  /** How fast each connection is, or was last where something is at work on it; shorter when one breaks meanwhile. */
  speeds(isIdle: boolean): ReadonlyArray<LinkSpeed> {
    if (isIdle) {
      this.linkSpeeds = this.connections.flatMap((connection) =>
        this.afterFreedBuffer(connection, () => measureLink(connection) ?? []),
      )
    }
    return this.linkSpeeds
  }

  /** What was measured with a buffer of the server's, which is freed again: all devices of the connection lose their graphs. */
  private afterFreedBuffer<Result>(connection: RpcConnection, measure: () => Result): Result {
    const result = measure()
    forgetGraphs(this.states, connection)
    return result
  }

  /**
   * How fast devices of these names are, to estimate by, without those of which that is not known. What is not known yet is measured, or
   * tried again, where nothing is at work on the connections.
   */
  computeSpeeds(names: ReadonlyArray<string>, isIdle: boolean): ComputeSpeeds {
    const wanted = this.states.filter(({ name }) => names.includes(name))
    if (isIdle) this.measureUnknown(wanted)
    const unlinked = areSame(this.linking?.of ?? [], wanted) ? this.linking?.unlinked : undefined
    return {
      devices: wanted.flatMap((state) => {
        const speed = this.knownSpeeds.get(state)
        return speed === undefined ? [] : { ...speed, isAtOnce: state.connection.hasDevicesAtOnce }
      }),
      ...(unlinked === undefined ? {} : { unlinked }),
      speakBf16: wanted.every(({ connection }) => connection.speaksBf16),
    }
  }

  private measureUnknown(wanted: ReadonlyArray<DeviceState>): void {
    const kept = new KeptSpeeds()
    for (const state of wanted) {
      if (this.knownSpeeds.has(state)) continue
      const speed = this.keptOrMeasured(state, kept)
      if (speed !== undefined) this.knownSpeeds.set(state, speed)
    }
    const { linking } = this
    if (linking === undefined || linking.unlinked !== undefined || !areSame(linking.of, wanted)) {
      this.linking = { of: wanted, ...this.operations.groups.tryLinks(wanted) }
    }
  }

  private keptOrMeasured(state: DeviceState, kept: KeptSpeeds): MeasuredSpeed | undefined {
    const { connection, deviceIndex, endpoint, name } = state
    const { serverName } = connection
    // A name is what a server says: with its address none can speak for another one.
    const key = `${endpoint} ${serverName} ${deviceIndex}`
    const known = serverName === undefined ? undefined : kept.find(key)
    if (known !== undefined) return { device: name, ...known }
    const speed = this.afterFreedBuffer(connection, () => measureDevice(state))
    // What has no name of its own, such as a server of llama.cpp, may be another one now at the same address.
    if (speed === undefined || serverName === undefined) return speed
    return { device: name, ...kept.add(key, speed) }
  }

  /** Lets servers over which tensors are split be linked now, not at their first sum; why they are not, if so. */
  prepareSums(): ReadonlyArray<string> {
    return this.operations.groups.prepare()
  }

  /** Sends what has collected on all connections. */
  flush(): void {
    for (const connection of this.connections) connection.flush()
  }

  /**
   * Waits until every server has done all that it was sent: after this a load is complete, and a server
   * that refused a part of it has been noticed.
   */
  settle(): void {
    const behind = this.connections.filter((connection) => connection.isBehind)
    for (const connection of behind) {
      putFence(connection)
      connection.flush()
    }
    for (const connection of behind) awaitFence(connection)
  }

  /**
   * Measures a model on these devices: by one load without memory, in which all counts as supported that nobody asked about
   * yet, and, when an answer is no, by a second one. `look` gets the last, and what the devices turned out not to support.
   */
  measured<Load, Result>(
    load: () => Load,
    release: (load: Load) => void,
    look: (load: Load, support: ReadonlyArray<MeasuredSupport>) => Result,
  ): Result {
    const enter = (phase: MeasurePhase): void => {
      for (const state of this.states) setPhase(state, phase)
    }
    try {
      enter(MeasurePhase.GATHERING)
      let loaded = load()
      if (askGathered(this.states) > 0) {
        release(loaded)
        enter(MeasurePhase.ASKING)
        loaded = load()
      }
      try {
        return look(loaded, this.states.map(measuredSupport))
      } finally {
        release(loaded)
      }
    } finally {
      enter(MeasurePhase.OVER)
    }
  }

  /**
   * From now on there may be tensors that are cut over devices, and who adds up their partial sums; undefined: there are none.
   */
  cutTensors(sums: SumsBy | undefined): void {
    ggml().gs_remote_dead_buffers(sums === undefined ? 0 : 1)
    this.operations.groups.addUpBy(sums ?? "best")
  }

  /**
   * From now on the activations of a model of this width travel as bf16, to and from servers that know it, and so do partial sums;
   * undefined: of no model.
   */
  carryBf16(width: number | undefined): void {
    for (const { address, connection } of this.states) {
      if (width !== undefined && !connection.speaksBf16) continue
      ggml().gs_remote_device_carry_bf16(asPointer(address), width ?? 0)
    }
    this.operations.groups.carryBf16(width !== undefined)
  }

  /** Servers of these devices, by their places in `devices`, that do not know bf16. */
  withoutBf16(places: ReadonlyArray<number>): ReadonlyArray<LackingServer> {
    const connections = places.flatMap((place) => this.states[place]?.connection ?? [])
    return [...new Set(connections)]
      .filter(({ speaksBf16 }) => !speaksBf16)
      .map(({ endpoint, kind }) => ({ endpoint, kind }))
  }

  /** Whether the server of a device, by its place in `devices`, finds the most likely tokens as logits are read. */
  findsTop(place: number): boolean {
    return this.states[place]!.connection.findsTop
  }

  clearMemoryFailure(): void {
    this.operations.memoryFailure = undefined
  }

  /** Free and total memory of a device now, in bytes; undefined when its connection is broken. */
  memory(device: RemoteDevice): DeviceMemory | undefined {
    return readMemory(this.states.find((candidate) => candidate.address === device.address)!)
  }
}

const areSame = (a: ReadonlyArray<DeviceState>, b: ReadonlyArray<DeviceState>): boolean =>
  a.length === b.length && a.every((state, place) => state === b[place])
