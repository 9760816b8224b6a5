/** `ggml-rpc devices`: what there is to run a model on. */
import {
  type Endpoint,
  formatEndpoint,
  formatVersion,
  type ProbeOptions,
  probe,
  type ServerKind,
} from "@ggml-rpc/client"
import { deviceMemory, formatBytes, listDevices, loadBackends } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { ReportedError } from "../errors.ts"
import { errorText } from "../failureText.ts"
import type { devicesFlags, FlagValues } from "../flags.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { printJson } from "../runReport.ts"
import { formatTable } from "../table.ts"
import { columnsOf, noteLine, printLine, styleOf } from "../terminal.ts"
import { accessOf, endpointsOf, prepareNative } from "./inputs.ts"

interface ListedDevice {
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
}

export const devices = (values: FlagValues<typeof devicesFlags>) =>
  withJsonErrors(
    Effect.gen(function* () {
      const endpoints = yield* endpointsOf(values.rpc)
      const access = yield* accessOf(values)
      yield* prepareNative
      // Servers first, numbered over all of them: the order of a split, and its names.
      const probed = yield* Effect.forEach(endpoints, (endpoint) => probeServer(endpoint, access), {
        concurrency: "unbounded",
      })
      const remote = probed.flatMap((server) => Either.getOrElse(server, () => []))
      const errors = probed.flatMap((server) => (Either.isLeft(server) ? [server.left] : []))
      const listed = [
        ...remote.map((device, index) => ({ ...device, name: `RPC${index}` })),
        ...(yield* localDevices),
      ]
      if (values.json) {
        printJson({
          devices: listed,
          errors: errors.map(({ _tag, endpoint, message }) => ({ error: _tag, endpoint, message })),
        })
      } else {
        printLine(tableOf(listed, errors))
        for (const error of errors) noteLine(errorText(error.message))
      }
      if (errors.length > 0) return yield* new ReportedError({ exitCode: 1 })
    }),
    values.json,
  )

/** A server's devices without names, or why there are none. */
const probeServer = (endpoint: Endpoint, access: ProbeOptions) =>
  Effect.either(
    Effect.map(probe(endpoint, access), ({ version, kind, devices: found }) =>
      found.map((device) => ({
        place: formatEndpoint(endpoint),
        description: `${kind} ${formatVersion(version)}, device ${device.index}`,
        server: { kind, protocol: formatVersion(version), device: device.index },
        freeBytes: device.freeBytes,
        totalBytes: device.totalBytes,
      })),
    ),
  )

const localDevices = Effect.sync((): ReadonlyArray<ListedDevice> => {
  loadBackends()
  return listDevices().map((device) => ({
    name: device.name,
    place: "local",
    description: device.description,
    ...deviceMemory(device),
  }))
})

const tableOf = (
  listed: ReadonlyArray<ListedDevice>,
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
    { columns: columnsOf(process.stdout), heading: styleOf(process.stdout).bold },
  )
