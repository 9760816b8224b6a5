/** `ggml-rpc devices`: what there is to run a model on. */
import {
  DuplicateServerError,
  domainsOf,
  type Endpoint,
  formatVersion,
  type ProbedServer,
  type ProbeError,
  type ProbeOptions,
  poolsOf,
  probe,
  type ServerKind,
  type SharedMemory,
} from "@ggml-rpc/client"
import {
  deviceDomain,
  deviceMemory,
  formatBytes,
  hostDomain,
  hostMemory,
  listDevices,
  loadBackends,
} from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { ReportedError } from "../errors.ts"
import { errorText } from "../failureText.ts"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { printJson } from "../runReport.ts"
import { describeShared } from "../sharedMemory.ts"
import { formatTable } from "../table.ts"
import { columnsOf, noteLine, printLine, stdout, styleOf } from "../terminal.ts"
import { wrap } from "../wrap.ts"
import { accessOf, endpointsOf, prepareNative } from "./inputs.ts"

interface FoundDevice {
  readonly name: string
  readonly place: string
  readonly description: string
  /** Of a remote device: whose server, its protocol, and the device's index there. */
  readonly server?: {
    readonly kind: ServerKind
    readonly protocol: string
    readonly device: number
  }
  readonly freeBytes: number
  readonly totalBytes: number
  /** What is known of the memory that it draws from. */
  readonly domain?: string | undefined
  readonly address?: string
}

export const devices = (values: CommandValues<"devices">) =>
  withJsonErrors(
    Effect.gen(function* () {
      const endpoints = yield* endpointsOf(values.rpc)
      const access = yield* accessOf(values)
      yield* prepareNative
      // Servers first, numbered over all of them: the order of a split, and its names.
      const probed = yield* Effect.forEach(endpoints, (endpoint) => probeServer(endpoint, access), {
        concurrency: "unbounded",
      })
      const servers = withoutTwins(probed)
      const remote = servers.flatMap((server) =>
        Either.match(server, { onLeft: () => [], onRight: devicesOf }),
      )
      const errors = servers.flatMap((server) => (Either.isLeft(server) ? [server.left] : []))
      const { listed, shared } = withMemory([
        ...remote.map((device, index) => ({ ...device, name: `RPC${index}` })),
        ...(yield* localDevices),
      ])
      if (values.json) {
        printJson({
          devices: listed,
          shared,
          errors: errors.map(({ _tag, endpoint, message }) => ({ error: _tag, endpoint, message })),
        })
      } else {
        printLine(tableOf(listed, errors))
        const columns = columnsOf(stdout)
        for (const memory of shared) {
          for (const line of wrap(describeShared(memory), columns)) printLine(line)
        }
        for (const error of errors) noteLine(errorText(error.message))
      }
      if (errors.length > 0) return yield* new ReportedError({ exitCode: 1 })
    }),
    values.json,
  )

const probeServer = (endpoint: Endpoint, access: ProbeOptions) =>
  Effect.either(probe(endpoint, access))

type Probed = Either.Either<ProbedServer, ProbeError | DuplicateServerError>

/** Of llama.cpp's servers, which tell no name, the address and port. */
const keyOf = ({ name, address, endpoint }: ProbedServer): string =>
  name ?? (address === "" ? endpoint : `${address}${/:\d+$/.exec(endpoint)?.[0]}`)

/** A server that was named twice is there once. */
const withoutTwins = (probed: ReadonlyArray<Probed>): ReadonlyArray<Probed> => {
  const found = new Map<string, string>()
  return probed.map((server) => {
    if (Either.isLeft(server)) return server
    const { endpoint } = server.right
    const key = keyOf(server.right)
    const first = found.get(key)
    if (first !== undefined) return Either.left(new DuplicateServerError({ endpoint, first }))
    found.set(key, endpoint)
    return server
  })
}

const devicesOf = ({ endpoint, version, kind, address, devices }: ProbedServer) =>
  devices.map(({ index, freeBytes, totalBytes, domain }) => ({
    place: endpoint,
    description: `${kind} ${formatVersion(version)}, device ${index}`,
    server: { kind, protocol: formatVersion(version), device: index },
    freeBytes,
    totalBytes,
    domain,
    address,
  }))

/** Devices with the memory that they draw from, and what several have in common. */
const withMemory = (found: ReadonlyArray<FoundDevice>) => {
  const host = { ...hostMemory(), domain: hostDomain(THIS_PROCESS).toHex() }
  const domains = domainsOf(found, host)
  const listed = found.map(({ domain: _domain, address: _address, ...device }, index) => {
    const memory = domains[index]
    return memory === undefined ? device : { ...device, memory }
  })
  const pools = poolsOf(
    listed.map((device) => ({ ...device, endpoint: device.place })),
    host,
  )
  const shared = pools.flatMap(({ members, freeBytes, isInner }): ReadonlyArray<SharedMemory> => {
    const devices = members.flatMap((index) => listed[index]?.name ?? [])
    return isInner || devices.length < 2 ? [] : [{ devices, hasHost: false, freeBytes }]
  })
  return { listed, shared }
}

/** What local devices that do not say which ones of the machine they are have in common. */
const THIS_PROCESS = "this process"

const localDevices = Effect.sync((): ReadonlyArray<FoundDevice> => {
  loadBackends()
  return listDevices().map((device) => ({
    name: device.name,
    place: "local",
    description: device.description,
    domain: deviceDomain(device, THIS_PROCESS).toHex(),
    ...deviceMemory(device),
  }))
})

const tableOf = (
  listed: ReadonlyArray<FoundDevice>,
  errors: ReadonlyArray<{ readonly endpoint: string }>,
): string =>
  formatTable(
    [
      { title: "device" },
      // Wide enough for an address with its port.
      { title: "place", minWidth: 21 },
      { title: "free", align: "right" },
      { title: "total", align: "right" },
      { title: "description", minWidth: 12 },
    ],
    [
      ...listed.map((device) => [
        device.name,
        device.place,
        formatBytes(device.freeBytes),
        formatBytes(device.totalBytes),
        device.description,
      ]),
      ...errors.map(({ endpoint }) => ["–", endpoint, "–", "–", "cannot be used, see below"]),
    ],
    { columns: columnsOf(stdout), heading: styleOf(stdout).bold },
  )
