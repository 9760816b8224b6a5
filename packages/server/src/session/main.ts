/**
 * A session process: takes connections from the front process over the socket that it got as descriptor
 * 3, and serves one client at a time. What it has to say goes to stdout, a JSON object a line; stderr is
 * ggml's.
 *
 * Imports no Effect: this process exists once per client and must start fast and stay small.
 */
import { writeSync } from "node:fs"
import { io, listDevices, loadBackends } from "@ggml-rpc/native/bindings"
import { describeCommand, ProtocolError } from "@ggml-rpc/protocol"
import { Cache } from "./cache.ts"
import { ServedDevice, selectDevices } from "./devices.ts"
import type { DeviceReport, SessionConfig, SessionEvent } from "./events.ts"
import { ComputeError, Session } from "./Session.ts"
import { warmUp } from "./warmUp.ts"
import { ClientGone } from "./wire.ts"

const CHANNEL = 3

/** Seconds without a sign of life after which a client's host counts as gone. */
const KEEPALIVE_S = 10

const tell = (event: SessionEvent): void => {
  writeSync(1, `${JSON.stringify(event)}\n`)
}

const report = (served: ServedDevice): DeviceReport => ({
  name: served.device.name,
  description: served.device.description,
  type: served.device.type,
  ...served.memory(),
})

const startDevices = (config: SessionConfig): readonly ServedDevice[] => {
  loadBackends(config.debug ? 1 : 3)
  const selected = selectDevices(config.devices)
  if ("unknown" in selected) {
    const available = listDevices().map((device) => report(new ServedDevice(device, 1)))
    tell({ event: "unknown-device", name: selected.unknown, available })
    process.exit(1)
  }
  return selected.devices.map((device) => new ServedDevice(device, config.threadCount))
}

const main = (config: SessionConfig): void => {
  io().io_watch_parent(CHANNEL)
  const devices = startDevices(config)
  warmUp(devices)
  const session = new Session({
    devices,
    cache: config.cacheDir === undefined ? undefined : new Cache(config.cacheDir),
    onRequest: config.debug
      ? (command, sizeBytes) =>
          void writeSync(2, `[${describeCommand(command)}] ${sizeBytes} bytes\n`)
      : undefined,
    onStateful: () => tell({ event: "stateful" }),
  })
  tell({ event: "ready", devices: devices.map(report) })
  while (!session.stateful) {
    const fd = io().io_receive_descriptor(CHANNEL)
    // The front process is gone.
    if (fd < 0) return
    const ended = serveClient(session, fd)
    tell({ event: "closed", ...ended, again: !session.stateful })
  }
}

type Ended = Pick<Extract<SessionEvent, { event: "closed" }>, "reason" | "message">

const serveClient = (session: Session, fd: number): Ended => {
  io().io_tune_socket(fd, KEEPALIVE_S)
  io().io_watch_client(fd)
  try {
    return session.serve(fd)
  } catch (error) {
    return endOf(error, session)
  } finally {
    attemptFlush(session)
    io().io_watch_client(-1)
    io().io_close(fd)
  }
}

/** A refused request does not take the answers to earlier ones along. */
const attemptFlush = (session: Session): void => {
  try {
    session.flush()
  } catch (error) {
    if (!(error instanceof ClientGone)) throw error
  }
}

const endOf = (error: unknown, session: Session): Ended => {
  if (error instanceof ClientGone) return { reason: "left", message: error.message }
  if (error instanceof ProtocolError) {
    const command = error.command ?? session.commandName
    const seen = error.value === undefined ? "" : ` (got ${error.value})`
    return { reason: "refused", message: `${command}: ${error.field} ${error.reason}${seen}` }
  }
  if (error instanceof ComputeError) {
    return { reason: "failed", message: `${session.commandName}: ${error.message}` }
  }
  throw error
}

main(JSON.parse(process.argv[2] ?? "{}") as SessionConfig)
process.exit(0)
