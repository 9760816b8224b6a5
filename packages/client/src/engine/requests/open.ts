import type { Engine } from "../Engine.ts"
import type { EngineRequest } from "../messages.ts"
import type { Send } from "./index.ts"

/** Finds the local devices and connects to the servers; once, before anything else. */
export const open = (
  engine: Engine,
  request: EngineRequest & { type: "open" },
  send: Send,
): void => {
  engine.useLocal(request.localDevices)
  engine.connect(request.endpoints, request.connectTimeoutMs, request.token)
  const { servers } = engine
  send({ type: "opened", servers, devices: engine.devices(), host: engine.host() })
  engine.remote?.beginWork(request.silenceMs)
}

export const memory = (engine: Engine, _: EngineRequest & { type: "memory" }, send: Send): void => {
  send({
    type: "memory",
    devices: engine.devices(),
    host: engine.host(),
    links: engine.remote?.links() ?? [],
  })
}

/** Asks nobody, so that what it tells is what others did. */
export const traffic = (
  engine: Engine,
  _: EngineRequest & { type: "traffic" },
  send: Send,
): void => {
  send({ type: "traffic", links: engine.remote?.links() ?? [] })
}

export const speeds = (engine: Engine, _: EngineRequest & { type: "speeds" }, send: Send): void => {
  const measured = engine.remote?.speeds(engine.isIdle) ?? []
  engine.failIfLost()
  send({ type: "speeds", speeds: measured })
}

/** A plan asks for it, which does not wait until texts at work are done: what is not known by then stays so. */
export const computeSpeeds = (
  engine: Engine,
  { devices }: EngineRequest & { type: "computeSpeeds" },
  send: Send,
): void => {
  const measured = engine.remote?.computeSpeeds(devices, engine.isIdle) ?? {
    ...{ devices: [], speakBf16: false },
  }
  engine.failIfLost()
  send({ type: "computeSpeeds", ...measured })
}
